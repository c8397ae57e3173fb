"""Finds the reported settings that are equal for all images of a stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

MAX_NAMES = 256
MAX_VALUE_BYTES = 4096
MAX_NAME = 200
OF_ONE_IMAGE = frozenset(
    ["seed", "all_seeds", "subseed", "all_subseeds", "infotexts", "regions", "job_timestamp"]
)
"""Names in ``info`` whose values belong to a single image."""

_Path = tuple[str, ...]


class UsedValues:
    """Takes the ``info`` of each call and keeps the values that all have in common.

    Tables are compared value by value, one level deep. Memory is bounded by the limits above;
    names longer than ``MAX_NAME`` characters are skipped.
    """

    def __init__(self) -> None:
        self._common: dict[_Path, Any] | None = None
        self._varying: set[_Path] = set()

    def take(self, info: Mapping[str, Any]) -> None:
        """Add one more call."""
        said = dict(_flattened(info))
        if self._common is None:
            kept = [path for path, value in said.items() if _is_kept(path, value)]
            self._common = {path: said[path] for path in kept[:MAX_NAMES]}
        differing = [
            path for path, value in self._common.items() if path not in said or said[path] != value
        ]
        for path in differing:
            del self._common[path]
        self._leave_out(differing)
        self._leave_out(path for path in said if path not in self._common)

    def as_json(self) -> str:
        """The common values, as the text of a JSON object with sorted keys."""
        found: dict[str, Any] = {}
        for (name, *rest), value in (self._common or {}).items():
            if rest:
                found.setdefault(name, {})[rest[0]] = value
            else:
                found[name] = value
        return msgspec.json.encode(found, order="sorted").decode()

    def varying(self) -> tuple[str, ...]:
        """The names of values that vary; those in a table are ``table.name``."""
        return tuple(sorted(map(".".join, self._varying)))

    def _leave_out(self, paths: Iterable[_Path]) -> None:
        """Note the first names, in a fixed order."""
        for path in paths:
            if len(self._varying) >= MAX_NAMES:
                return
            self._varying.add(path)


def _flattened(info: Mapping[str, Any]) -> Iterator[tuple[_Path, Any]]:
    for name, value in info.items():
        if len(name) > MAX_NAME:
            continue
        if not isinstance(value, dict):
            yield (name,), value
            continue
        for inner, part in value.items():
            if len(inner) <= MAX_NAME:
                yield (name, inner), part


def _is_kept(path: _Path, value: Any) -> bool:
    if path[0] in OF_ONE_IMAGE:
        return False
    return len(msgspec.json.encode(value)) <= MAX_VALUE_BYTES
