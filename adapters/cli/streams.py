"""Text streams that a closed terminal or pipe does no harm to."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import suppress
from typing import IO


class BrokenPipeTolerantStream(io.TextIOBase):
    """A text stream that drops its output once its terminal or pipe is closed.

    So a run does not fail because its output cannot be written.
    """

    def __init__(self, stream: IO[str] | None) -> None:
        super().__init__()
        self._stream = stream
        self._is_terminal = stream is not None and stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute in typeshed
        """The encoding of the text; Rich chooses its characters by it."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return self._is_terminal

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError("the stream is closed")
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._try(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(lambda stream: stream.flush())

    def _try(self, action: Callable[[IO[str]], object]) -> None:
        if self._stream is None:
            return
        try:
            action(self._stream)
        except OSError:
            discard_output(self._stream)
            self._stream = None


def discard_output(stream: IO[str]) -> None:
    """Put the null device in the place of a closed terminal or pipe.

    The interpreter flushes its streams at its end; where that fails, the exit status becomes 120.
    """
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
