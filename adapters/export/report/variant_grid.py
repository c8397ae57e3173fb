"""Lays the variants of a group out in rows and columns, by the first two axes of its sweep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import msgspec

from ....events.groups.model import SweepAxis
from ....statemachine.groups.result import VariantResult
from ....statemachine.variants.axes import axis_keys
from ...projections.varied_values import MOST_KEYS, short_names, value_text
from ...text import setting_text

_MOST_COLUMNS = 40
_EMPTY_CELLS = 4
"""A grid may have this many times as many cells as there are variants."""
_LONGEST_VALUE = 2_000

Place = tuple[int, ...]


class GridRow(NamedTuple):
    """The variants with one value of the first axis, by column; several where values repeat."""

    label: str
    cells: Sequence[Sequence[VariantResult]]


class Grid(NamedTuple):
    """The variants with the same values of all axes but the first two."""

    title: str
    corner: str
    columns: Sequence[str]
    rows: Sequence[GridRow]


class GridAxis:
    """An axis, and the place of each of its values in it."""

    def __init__(self, axis: SweepAxis) -> None:
        self.keys = axis_keys(axis)[:MOST_KEYS]
        self.name = " + ".join(short_names(self.keys))
        self._values: dict[bytes, tuple[int, str]] = {}
        for value in axis.values:
            self._add(value if axis.keys else [value])

    def place(self, variant: VariantResult) -> int:
        """The place of the variant's value; a value that the axis lacks comes after all others."""
        return self._add([variant.values.get(key) for key in self.keys])[0]

    def label(self, variant: VariantResult) -> str:
        """The variant's value as text."""
        return self._add([variant.values.get(key) for key in self.keys])[1]

    def full_label(self, variant: VariantResult) -> str:
        """The variant's value as text, also where it is long."""
        values = [variant.values.get(key) for key in self.keys]
        return ", ".join(map(_full_text, values))

    def _add(self, values: Any) -> tuple[int, str]:
        key = msgspec.json.encode(values)
        if key not in self._values:
            shown = values if isinstance(values, list | tuple) else [values]
            text = ", ".join(map(value_text, shown[:MOST_KEYS]))
            self._values[key] = len(self._values), text
        return self._values[key]


def grids(axes: Sequence[GridAxis], variants: Sequence[VariantResult]) -> Iterator[Grid]:
    """One grid for each combination of the values of the axes after the first two."""
    rows, columns = axes[:1], axes[1:2]
    if not has_columns(axes, variants):
        rows, columns = (axes, []) if columns else (rows, [])
    others = axes[len(rows) + len(columns) :]

    def place(chosen: Sequence[GridAxis], variant: VariantResult) -> Place:
        return tuple(axis.place(variant) for axis in chosen)

    ordered = sorted(variants, key=lambda one: (place(others, one), place(rows, one)))
    for _, found in groupby(ordered, lambda one: place(others, one)):
        members = list(found)
        places = {place(columns, one): _label(columns, one) for one in members}
        order = sorted(places)
        yield Grid(
            title=_title(others, members[0]),
            corner=" / ".join(axis.name for axis in [*rows, *columns][:MOST_KEYS]),
            columns=[places[one] for one in order],
            rows=[
                _row(rows, list(own), order, lambda one: place(columns, one))
                for _, own in groupby(members, lambda one: place(rows, one))
            ],
        )


def _row(
    rows: Sequence[GridAxis],
    members: Sequence[VariantResult],
    order: Sequence[Place],
    column: Callable[[VariantResult], Place],
) -> GridRow:
    cells: Mapping[Place, list[VariantResult]] = {one: [] for one in order}
    for variant in members:
        cells[column(variant)].append(variant)
    return GridRow(_label(rows, members[0]), list(cells.values()))


def has_columns(axes: Sequence[GridAxis], variants: Sequence[VariantResult]) -> bool:
    """Whether columns are of use: there are two axes, and most cells of their grid are filled."""
    if len(axes) < 2:
        return False
    used = [{axis.place(one) for one in variants} for axis in axes[:2]]
    cells = len(used[0]) * len(used[1])
    return len(used[1]) <= _MOST_COLUMNS and cells <= _EMPTY_CELLS * len(variants)


def _label(axes: Sequence[GridAxis], variant: VariantResult) -> str:
    return ", ".join(axis.label(variant) for axis in axes[:MOST_KEYS])


def _title(axes: Sequence[GridAxis], variant: VariantResult) -> str:
    return ", ".join(f"{axis.name} {axis.label(variant)}" for axis in axes[:MOST_KEYS])


def _full_text(value: Any) -> str:
    try:
        text = setting_text(value)
    except RecursionError:
        return value_text(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
