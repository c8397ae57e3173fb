"""An image backend in this process: a pure function from requests to pictures."""

from .backend import EmbeddedBackend

__all__ = ["EmbeddedBackend"]
