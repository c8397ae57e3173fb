"""The embedded backend behind the HTTP API of AUTOMATIC1111 1.10.1 with ADetailer 25.3.0."""

from .server import EmbeddedServer

__all__ = ["EmbeddedServer"]
