"""Flattens tables to dotted keys, such as ``txt2img.hires.scale`` or ``passes.0.model``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

DEEPEST = 20
"""Tables nested more deeply are one value."""
LONGEST_KEY = 200
"""Values with longer keys, in a foreign log, are left out."""


def flattened(value: Any, key: str = "", *, deepest: int = DEEPEST) -> Iterator[tuple[str, Any]]:
    """Each value in a table with its dotted key, below ``key``.

    Lists of tables are flattened as well; other lists and tables below ``deepest`` levels are
    values.
    """
    parts = parts_of(value)
    if parts is None or not deepest:
        yield key, value
        return
    for name, part in parts.items():
        if len(key) + len(name) < LONGEST_KEY:
            yield from flattened(part, dotted(key, name), deepest=deepest - 1)


def parts_of(value: Any) -> Mapping[str, Any] | None:
    """The named parts of a table, or of a list of tables; None for any other value."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(x, Mapping) for x in value):
        return {str(place): part for place, part in enumerate(value)}
    return None


def dotted(table: str, name: str) -> str:
    """The key of a part of ``table``."""
    return f"{table}.{name}" if table else name
