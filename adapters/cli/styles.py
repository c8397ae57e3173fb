"""Colours of states and warnings, and links to files, on terminals that have them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, NamedTuple

import click

from ..text import escaped

PLAIN_TERMINALS = ("dumb", "unknown")
"""Values of TERM for terminals that know no escape sequences."""
_WITHOUT_LINKS = ("linux",)
WRONG, DOUBTFUL, GOOD, BUSY = "red", "yellow", "green", "cyan"
_STATES: Mapping[str, str] = {
    "COMPLETED": GOOD,
    "CANCELLED": DOUBTFUL,
    "RUNNING": BUSY,
    "ERROR": WRONG,
    "CORRUPT": WRONG,
    "UNREADABLE": WRONG,
    "DIED": WRONG,
    "MISSING": WRONG,
}


class Mark(NamedTuple):
    """A part of a line that a terminal shows in a colour, or as a link to ``file``."""

    text: str
    colour: str | None = None
    file: Path | None = None


def state_mark(state: str, text: str) -> Mark:
    """``text`` in the colour of a state."""
    return Mark(text, _STATES.get(state.upper()))


def warning_mark() -> Mark:
    """The word before a warning."""
    return Mark("warning:", DOUBTFUL)


def file_mark(file: Path) -> Mark:
    """The path of a file or folder, as a link to it."""
    return Mark(str(file), file=file)


def is_plain(stream: IO[str]) -> bool:
    """Whether ``stream`` is no terminal, or one that knows no escape sequences."""
    return not stream.isatty() or os.environ.get("TERM") in PLAIN_TERMINALS


def styled(parts: tuple[str | Mark, ...], stream: IO[str]) -> str:
    """The text of ``parts`` for ``stream``, with control characters escaped.

    Colours and links are left out where it is no terminal; colours also with NO_COLOR.
    """
    marked = not is_plain(stream)
    return "".join(
        _styled(part) if marked and isinstance(part, Mark) else escaped(_text(part))
        for part in parts
    )


def _text(part: str | Mark) -> str:
    return part.text if isinstance(part, Mark) else part


def _styled(mark: Mark) -> str:
    text = escaped(mark.text)
    if mark.colour is not None and not os.environ.get("NO_COLOR"):
        text = click.style(text, fg=mark.colour)
    if mark.file is not None and os.environ.get("TERM") not in _WITHOUT_LINKS:
        text = f"\x1b]8;;{mark.file.absolute().as_uri()}\a{text}\x1b]8;;\a"
    return text
