"""Shared by all modules that decode images with Pillow: formats, errors, muted warnings."""

from __future__ import annotations

import contextlib
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator

# Exceptions of Pillow for malformed files.
DECODING_ERRORS = (
    OSError, ValueError, SyntaxError, LookupError, TypeError, EOFError, struct.error, zlib.error,
)  # fmt: skip
FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
"""Pillow's names of the accepted formats, and their media types."""


class _WarningSwitch:
    """Counts the threads that mute warnings: the first switches them off, the last on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = contextlib.ExitStack()

    def enter(self) -> None:
        with self._lock:
            if not self._inside:
                self._before.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._before.close()


_warning_switch = _WarningSwitch()


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Mute Pillow's warnings about large images and odd metadata.

    Warning filters belong to the process, so decoding threads share one change instead of
    undoing each other's.
    """
    _warning_switch.enter()
    try:
        yield
    finally:
        _warning_switch.leave()
