"""Text for people: escapes, durations, sizes, times, counts and number ranges."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

# Keep in step with `hidden` in export/report/templates/log.js, which escapes the same.
_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
_LONGEST_MS = 1e12
_SIZE_UNITS = ("KB", "MB", "GB", "TB")

Range = tuple[int, int]
"""The first and the last of some consecutive numbers."""


def escaped(text: str) -> str:
    """``text`` with escapes for characters that control a terminal or are invisible.

    The invisible ones are marks of direction and characters without width.
    """
    return _CONTROL.sub(lambda found: repr(found.group())[1:-1], text)


def one_line(text: str) -> str:
    """``text`` as one line without control characters."""
    return escaped(" ".join(text.split()))


def setting_text(value: Any) -> str:
    """A setting as a configuration could have it; the names of a list without their brackets."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    return msgspec.json.encode(value).decode()


def duration(milliseconds: float) -> str:
    """``25 ms``, ``1.2 s`` or ``0:03:12``."""
    if not milliseconds < _LONGEST_MS:
        return f"{milliseconds:g} ms"
    if milliseconds < 99.5:
        return f"{max(0.0, milliseconds):.0f} ms"
    if milliseconds < 59_950:
        return f"{milliseconds / 1000:.1f} s"
    return str(timedelta(seconds=round(milliseconds / 1000)))


def rough_duration(seconds: float) -> str:
    """``less than 1 s``, ``45 s``, ``12 min``, ``1 h 12 min`` or ``2 d 3 h``."""
    if seconds < 1:
        return "less than 1 s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    large, small, units = round(seconds / 60), 60, ("h", "min")
    if large >= 48 * 60:
        large, small, units = round(seconds / 3600), 24, ("d", "h")
    whole, rest = divmod(large, small)
    parts = [
        f"{number} {unit}" for number, unit in zip((whole, rest), units, strict=True) if number
    ]
    return " ".join(parts)


def byte_size(size: int) -> str:
    """``999 bytes`` or ``1.4 MB``, in powers of ten."""
    if size < 1000:
        return count(size, "byte")
    power = 1
    while power < len(_SIZE_UNITS) and size >= 999.5 * 1000**power:
        power += 1
    return f"{size / 1000**power:.3g} {_SIZE_UNITS[power - 1]}"


def day_and_time(moment: datetime) -> str:
    """``2026-11-20 22:52:26 UTC``; with its own offset where UTC's calendar does not reach."""
    there = _in_utc(moment)
    return f"{there.isoformat(' ', 'seconds')}{'' if there.tzinfo else ' UTC'}"


def time_of_day(moment: datetime) -> str:
    """``22:52:26.123``, in UTC; with its own offset where UTC's calendar does not reach."""
    return _in_utc(moment).timetz().isoformat("milliseconds")


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC).replace(tzinfo=None)
    except OverflowError:
        return moment


def count(number: int, noun: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def ranges_of(numbers: Iterable[int]) -> tuple[Range, ...]:
    """The ranges of consecutive numbers, in the given order."""
    found: list[Range] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return tuple(found)


def count_of(ranges: Iterable[Range]) -> int:
    """How many numbers are in ranges."""
    return sum(last - first + 1 for first, last in ranges)


def ranges_text(ranges: Iterable[Range], first_number: int = 0) -> str:
    """``0-3, 7``; with ``first_number`` 1, indexes become the numbers ``1-4, 8``."""
    shifted = ((first + first_number, last + first_number) for first, last in ranges)
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in shifted)
