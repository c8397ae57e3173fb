"""Compares two JSON values by dotted key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ..flat_values import DEEPEST, dotted, parts_of


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One difference; a side that lacks the key is unset."""

    key: str
    left: Any | msgspec.UnsetType = msgspec.UNSET
    right: Any | msgspec.UnsetType = msgspec.UNSET


def differences(
    left: Any, right: Any, key: str = "", *, deepest: int = DEEPEST
) -> Iterator[Difference]:
    """The differences of two JSON values, with keys such as ``txt2img.hires.scale``.

    Lists of tables are compared item by item, other lists as one value.
    """
    ours, theirs = parts_of(left), parts_of(right)
    if ours is None or theirs is None or not deepest:
        if not _same(left, right):
            yield Difference(key=key, left=left, right=right)
        return
    for name in {**ours, **theirs}:
        one, other = ours.get(name, msgspec.UNSET), theirs.get(name, msgspec.UNSET)
        yield from differences(one, other, dotted(key, name), deepest=deepest - 1)


def _same(left: Any, right: Any) -> bool:
    """Whether two JSON values are equal at every depth; 1 is not ``true``."""
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    return bool(left == right) and isinstance(left, bool) is isinstance(right, bool)
