"""Pseudo-random integers from SHAKE-256, equal on every machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import shake_256
from typing import TypeVar

Item = TypeVar("Item")

_FIRST_BYTES = 512
_BYTES_A_DRAW = 4


class RandomStream:
    """An endless sequence of draws that depends only on ``key`` (JSON values)."""

    def __init__(self, *key: object) -> None:
        # ASCII JSON separates the parts of the key, and can encode lone surrogates.
        self._source = shake_256(json.dumps(key, sort_keys=True).encode("ascii"))
        self._drawn = self._source.digest(_FIRST_BYTES)
        self._position = 0

    def below(self, bound: int) -> int:
        """A whole number from 0 up to, and not including, ``bound``."""
        end = self._position + _BYTES_A_DRAW
        if end > len(self._drawn):
            self._drawn = self._source.digest(2 * len(self._drawn))
        draw = int.from_bytes(self._drawn[self._position : end], "big")
        self._position = end
        return draw * bound >> (8 * _BYTES_A_DRAW)

    def between(self, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``, both included."""
        return low + self.below(high - low + 1)

    def pick(self, items: Sequence[Item]) -> Item:
        """One of ``items``."""
        return items[self.below(len(items))]
