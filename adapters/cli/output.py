"""What commands print: text that cannot harm a terminal, and JSON documents."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

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
