"""The bounds that the configuration's types carry, and the check of values against them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, get_args, get_type_hints

import msgspec

from ..errors import InvalidStagePlanError


@cache
def _bounds_of(table: type[msgspec.Struct]) -> Mapping[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for name, hint in get_type_hints(table, include_extras=True).items():
        for part in (hint, *get_args(hint)):
            for meta in getattr(part, "__metadata__", ()):
                if isinstance(meta, msgspec.Meta) and meta.extra_json_schema:
                    found[name] = meta.extra_json_schema
    return found


def check_bounds(table: msgspec.Struct, key: str) -> None:
    """Check every value of ``table``, which stands at dotted path ``key``, and below it.

    Raises InvalidStagePlanError naming the key, the value and the bounds.
    """
    bounds = _bounds_of(type(table))
    for name, value in _values(table):
        path = f"{key}.{name}" if key else name
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidStagePlanError(f"{path} = {value} must be a finite number", key=path)
        if value is not None and name in bounds and not _within(value, bounds[name]):
            wanted = _in_words(bounds[name])
            raise InvalidStagePlanError(f"{path} = {value} must be {wanted}", key=path)
        if isinstance(value, msgspec.Struct):
            check_bounds(value, path)
        elif isinstance(value, tuple):
            for place, part in enumerate(value):
                if isinstance(part, msgspec.Struct):
                    check_bounds(part, f"{path}.{place}")


def _values(table: msgspec.Struct) -> Iterator[tuple[str, Any]]:
    for name in table.__struct_fields__:
        yield name, getattr(table, name)


def _within(value: float, bounds: Mapping[str, Any]) -> bool:
    return (
        value >= bounds.get("minimum", -math.inf)
        and value <= bounds.get("maximum", math.inf)
        and value > bounds.get("exclusiveMinimum", -math.inf)
        and value < bounds.get("exclusiveMaximum", math.inf)
        and ("multipleOf" not in bounds or value % bounds["multipleOf"] == 0)
    )


def _in_words(bounds: Mapping[str, Any]) -> str:
    if "multipleOf" in bounds:
        return f"a positive multiple of {bounds['multipleOf']}, {bounds['maximum']} at most"
    if "exclusiveMaximum" in bounds:
        low, high = bounds["exclusiveMinimum"], bounds["exclusiveMaximum"]
        return f"above {low} and below {high}"
    if "exclusiveMinimum" in bounds:
        most = f", {bounds['maximum']} at most" if "maximum" in bounds else ""
        return f"above {bounds['exclusiveMinimum']}{most}"
    if "maximum" in bounds:
        return f"from {bounds['minimum']} to {bounds['maximum']}"
    return f"{bounds['minimum']} or more"
