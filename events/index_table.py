"""A number for each image index, in as little memory as a long run needs."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from heapq import merge
from itertools import repeat

_NEAR = 1024


class IndexTable:
    """A whole number for each image index: 8 bytes each while they come roughly in order.

    What lies far ahead is kept apart, so that a log cannot ask for more memory than its own
    records are worth.
    """

    __slots__ = ("_ahead", "_dense", "count")

    def __init__(self) -> None:
        self._dense = array("q")
        self._ahead: dict[int, int] = {}
        self.count = 0

    def set(self, index: int, value: int) -> None:
        """Note ``value`` (0 or more) for ``index``."""
        dense = self._dense
        if index >= len(dense):
            if index > 2 * len(dense) + _NEAR:
                self.count += index not in self._ahead
                self._ahead[index] = value
                return
            dense.extend(repeat(-1, index + 1 - len(dense)))
        known = dense[index] >= 0 or (bool(self._ahead) and index in self._ahead)
        self.count += not known
        dense[index] = value

    def get(self, index: int) -> int | None:
        """What was noted last for ``index``, or None."""
        if index < len(self._dense) and self._dense[index] >= 0:
            return self._dense[index]
        return self._ahead.get(index)

    def discard(self, index: int) -> None:
        """Forget what was noted for ``index``."""
        self.count -= self.get(index) is not None
        if index < len(self._dense):
            self._dense[index] = -1
        self._ahead.pop(index, None)

    def items(self) -> Iterator[tuple[int, int]]:
        """Every index and its value, by index."""
        near = ((index, value) for index, value in enumerate(self._dense) if value >= 0)
        size = len(self._dense)
        ahead = sorted(
            (index, value)
            for index, value in self._ahead.items()
            if index >= size or self._dense[index] < 0
        )
        return merge(near, ahead)
