"""What commands print: text that cannot harm a terminal, and JSON documents."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import click
import msgspec

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_LONGEST_MS = 1e12

runs_option = click.option(
    "--runs",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs"),
    show_default=True,
    help="Folder of the runs.",
)
insecure_option = click.option(
    "--insecure", is_flag=True, help="Send credentials over plain http as well."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


class LastingStream(io.TextIOBase):
    """Text for somebody who may leave: a closed terminal or pipe ends the text, not the run."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__()
        self._stream: IO[str] | None = stream
        self._is_terminal = stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute in typeshed
        """What the text is encoded in, for those who choose their characters by it."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return self._is_terminal

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError("nobody reads this any more")
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._try(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(lambda stream: stream.flush())

    def _try(self, deed: Callable[[IO[str]], object]) -> None:
        if self._stream is None:
            return
        try:
            deed(self._stream)
        except OSError:
            self._stream = None


def escaped(text: str) -> str:
    """``text`` with control characters shown as escapes, for they could steer a terminal."""
    return _CONTROL.sub(lambda found: repr(found.group())[1:-1], text)


def one_line(text: str) -> str:
    """``text`` as one line without control characters."""
    return escaped(" ".join(text.split()))


def say(text: str = "") -> None:
    """Print one line of text, escaped."""
    click.echo(escaped(text))


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    print_json_parts([msgspec.json.encode(value)])


def print_json_parts(parts: Iterable[bytes]) -> None:
    """Print one JSON document that comes in pieces."""
    stream = sys.stdout.buffer
    for part in parts:
        stream.write(part)
    stream.write(b"\n")
    stream.flush()


def duration(milliseconds: float) -> str:
    """``1.2 s`` or ``0:03:12``."""
    if not milliseconds < _LONGEST_MS:
        return f"{milliseconds:g} ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:.1f} s"
    return str(timedelta(seconds=round(milliseconds / 1000)))


def count(number: int, noun: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
