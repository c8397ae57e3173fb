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


def used_values(infos: Iterable[Mapping[str, Any]]) -> tuple[str, tuple[str, ...]]:
    """The values that all of ``infos`` have in common, and the names of the others.

    Tables are compared value by value, one level deep. The values are the text of a JSON object
    with sorted keys; the name of a value in a table is ``table.name``. Memory is bounded by the
    limits above; names longer than ``MAX_NAME`` characters are skipped.
    """
    common: dict[_Path, Any] | None = None
    varying: set[_Path] = set()
    for info in infos:
        said = dict(_flattened(info))
        if common is None:
            kept = [path for path, value in said.items() if _is_kept(path, value)]
            common = {path: said[path] for path in kept[:MAX_NAMES]}
        paths = (*common, *said)
        common = {path: old for path, old in common.items() if path in said and said[path] == old}
        for path in paths:
            if path not in common and len(varying) < MAX_NAMES:
                varying.add(path)
    return _json(common or {}), tuple(sorted(map(".".join, varying)))


def _json(values: Mapping[_Path, Any]) -> str:
    found: dict[str, Any] = {}
    for (name, *inner), value in values.items():
        if inner:
            found.setdefault(name, {})[inner[0]] = value
        else:
            found[name] = value
    return msgspec.json.encode(found, order="sorted").decode()


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
