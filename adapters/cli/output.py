"""Functions that print text and JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import IO, Any, cast

import click
import msgspec

from ...events.codec import escape_separators
from ..event_text import state_text as state_text
from ..text import count as count
from ..text import duration as duration
from ..text import escaped as escaped
from ..text import one_line as one_line
from ..text import setting_text as setting_text
from .common_options import is_quiet
from .streams import BrokenPipeTolerantStream
from .styles import Mark, styled


def runs_argument(runs: Path) -> str:
    """The option that makes another command use the same folder of runs."""
    from .settings import default_runs_folder  # noqa: PLC0415 - they take 20 ms to load

    return "" if runs == default_runs_folder() else f" --runs {quote(str(runs))}"


def progress_stream() -> IO[str]:
    """Standard error, for progress and notes; with ``-q`` they go nowhere."""
    if is_quiet():
        return BrokenPipeTolerantStream(None)  # type: ignore[return-value]  # a text stream
    return sys.stderr


def print_line(*parts: str | Mark) -> None:
    """Print one line, with control characters escaped."""
    click.echo(styled(parts, sys.stdout).rstrip(" "))


def print_note(*parts: str | Mark) -> None:
    """Print one line on standard error, unless notes are not wanted or nobody reads them."""
    stream = cast(IO[str], BrokenPipeTolerantStream(progress_stream()))
    stream.write(styled(parts, stream) + "\n")
    stream.flush()


def print_settings(settings: Iterable[tuple[str, Any]]) -> None:
    """Print a line for each setting, as a configuration could have it."""
    for name, value in settings:
        print_line(f"    {name:<22} {setting_text(value)}")


def first_lines(lines: Sequence[str], most: int, rest: str) -> Iterator[str]:
    """The first ``most`` lines, then ``rest`` with the number of the others, if there are any."""
    yield from lines[:most]
    if len(lines) > most:
        yield rest.format(len(lines) - most)


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    print_json_parts([msgspec.json.encode(value)])


def print_json_parts(parts: Iterable[bytes]) -> None:
    """Print one JSON document that is given in parts."""
    stream = sys.stdout.buffer
    for part in parts:
        stream.write(escape_separators(part))
    stream.write(b"\n")
    stream.flush()
