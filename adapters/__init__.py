"""The world outside: backends, image decoding, the command line, projections of logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..events.lazy import lazy_names

if TYPE_CHECKING:
    from .bootstrap import open_controller as open_controller
    from .embedded.backend import EmbeddedBackend as EmbeddedBackend
    from .inputs import PillowInputReader as PillowInputReader

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "bootstrap": ["open_controller"],
        "embedded.backend": ["EmbeddedBackend"],
        "inputs": ["PillowInputReader"],
    },
)
