"""Durations, times, sizes and number ranges as text for the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

_UNITS = ("bytes", "KB", "MB", "GB", "TB")
_MAX_RANGES = 12


def span_text(seconds: float) -> str:
    """``250 ms``, ``1.9 s``, ``3 min 12 s``, ``2 h 05 min``, ``3 d 4 h``."""
    if not seconds < 1e12:
        return f"{seconds:g} s"
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 1440:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def tick(seconds: float) -> str:
    """A label of a time axis: ``0``, ``0.25``, ``30``, ``1:30``, ``2:00:00``."""
    if seconds < 60:
        return f"{seconds:g} s" if seconds else "0"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def day_and_time(moment: datetime) -> str:
    """``2026-11-20 22:52:26 UTC``; with its own offset where UTC's calendar does not reach."""
    try:
        there = moment.astimezone(UTC).replace(tzinfo=None)
    except OverflowError:
        return moment.isoformat(" ", "seconds")
    return f"{there.isoformat(' ', 'seconds')} UTC"


def time_of_day(moment: datetime) -> str:
    """``22:52:26.123``, in UTC; with its own offset where UTC's calendar does not reach."""
    try:
        there = moment.astimezone(UTC).replace(tzinfo=None)
    except OverflowError:
        there = moment
    return there.timetz().isoformat("milliseconds")


def byte_size(size: int) -> str:
    """``1.4 MB``, in powers of ten."""
    scaled = float(size)
    for unit in _UNITS:
        if scaled < 999.5 or unit == _UNITS[-1]:
            break
        scaled /= 1000
    return f"{size:,} bytes" if scaled == size else f"{scaled:.3g} {unit}"


def ranges(numbers: Iterable[int]) -> str:
    """``42-45, 51``: consecutive numbers as ranges, in the given order."""
    rows: list[list[int]] = []
    for number in numbers:
        if rows and number == rows[-1][1] + 1:
            rows[-1][1] = number
        elif len(rows) == _MAX_RANGES:
            return f"{_joined(rows)}, ..."
        else:
            rows.append([number, number])
    return _joined(rows)


def _joined(rows: Sequence[Sequence[int]]) -> str:
    return ", ".join(
        str(first) if first == last else f"{first}\N{EN DASH}{last}" for first, last in rows
    )


def json_lines(value: Any, most: int) -> list[str]:
    """``value`` as indented JSON, line by line; ``most`` characters of it at most."""
    try:
        text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    except (ValueError, TypeError, RecursionError, msgspec.MsgspecError) as error:
        return [f"cannot be shown: {error}"]
    lines = text[:most].split("\n")
    if len(text) > most:
        lines.append(f"... and {len(text) - most:,} more characters, which are in the log")
    return lines
