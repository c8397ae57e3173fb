"""Text for people: escapes, durations, counts and states."""

from __future__ import annotations

import re
from datetime import timedelta

from ..events.model import Outcome

# Keep in step with `hidden` in export/report/templates/log.js, which escapes the same.
_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
_LONGEST_MS = 1e12


def escaped(text: str) -> str:
    """``text`` with escapes for characters that control a terminal or are invisible.

    The invisible ones are marks of direction and characters without width.
    """
    return _CONTROL.sub(lambda found: repr(found.group())[1:-1], text)


def one_line(text: str) -> str:
    """``text`` as one line without control characters."""
    return escaped(" ".join(text.split()))


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


def state_text(state: str, outcome: str | None) -> str:
    """``COMPLETED``, ``ERROR`` or ``ERROR, partial``: an outcome is named if it adds something."""
    return f"{state}, {outcome}" if outcome == Outcome.PARTIAL else state
