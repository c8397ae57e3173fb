"""Compares two JSON values by dotted key, and collects numbers as ranges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

_DEEPEST = 20
"""Tables nested more deeply are compared as one value."""

Row = tuple[int, int]
"""The first and the last of a range of consecutive numbers."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One difference; a side that lacks the key is unset."""

    key: str
    left: Any | msgspec.UnsetType = msgspec.UNSET
    right: Any | msgspec.UnsetType = msgspec.UNSET


def differences(left: Any, right: Any, key: str = "") -> Iterator[Difference]:
    """The differences of two JSON values, with keys such as ``txt2img.hires.scale``.

    Lists of tables are compared item by item, other lists as one value.
    """
    return _differences(left, right, key, _DEEPEST)


def _differences(left: Any, right: Any, key: str, deepest: int) -> Iterator[Difference]:
    parts_left, parts_right = _parts(left), _parts(right)
    if parts_left is None or parts_right is None or not deepest:
        if not _same(left, right):
            yield Difference(key=key, left=left, right=right)
        return
    for name in parts_left | parts_right:
        yield from _differences(
            parts_left.get(name, msgspec.UNSET),
            parts_right.get(name, msgspec.UNSET),
            f"{key}.{name}" if key else name,
            deepest - 1,
        )


def _parts(value: Any) -> dict[str, Any] | None:
    """The named parts of a table, or of a list of tables; None for any other value."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple) and value and all(isinstance(x, Mapping) for x in value):
        return {str(place): part for place, part in enumerate(value)}
    return None


def _same(left: Any, right: Any) -> bool:
    """Whether two JSON values are equal at every depth; 1 is not ``true``."""
    waiting = [(left, right)]
    while waiting:
        one, other = waiting.pop()
        if isinstance(one, bool) != isinstance(other, bool):
            return False
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            if one.keys() != other.keys():
                return False
            waiting += [(part, other[name]) for name, part in one.items()]
        elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
            if len(one) != len(other):
                return False
            waiting += zip(one, other, strict=True)
        elif one != other:
            return False
    return True


class Rows:
    """Collects ascending numbers as ranges of consecutive ones."""

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self._rows: list[list[int]] = []
        self.count = 0
        for number in numbers:
            self.add(number)

    def add(self, number: int) -> bool:
        """Add a number; True if it begins a new range."""
        self.count += 1
        if self._rows and self._rows[-1][1] + 1 == number:
            self._rows[-1][1] = number
            return False
        self._rows.append([number, number])
        return True

    def rows(self) -> tuple[Row, ...]:
        """The first and the last number of each range."""
        return tuple((first, last) for first, last in self._rows)


def count_of(rows: Iterable[Row]) -> int:
    """How many numbers are in ranges."""
    return sum(last - first + 1 for first, last in rows)


def rows_text(rows: Iterable[Row], first_number: int = 0) -> str:
    """``0-3, 7``; with ``first_number`` 1, indexes become the numbers ``1-4, 8``."""
    shifted = ((first + first_number, last + first_number) for first, last in rows)
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in shifted)
