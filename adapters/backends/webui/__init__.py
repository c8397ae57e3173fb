"""WebUI servers over HTTP: AUTOMATIC1111, Forge and their kin."""

from .backend import WebUIBackend

__all__ = ["WebUIBackend"]
