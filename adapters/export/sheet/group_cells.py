"""The cells of a group: its images, in rows and columns by the varied keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ....events.errors import LogCorruptError, RunNotFoundError
from ....events.groups.fold import GroupFold
from ....events.groups.log import read_group_log
from ....events.groups.model import SweepAxis
from ....statemachine.groups.folder import variant_folders
from ....statemachine.variants.axes import axis_keys, rows_of
from .cells import Block, Cell, Row, SheetContent, SheetRefusedError
from .run_cells import RunCells, no_such_stage

_DIGITS = 6
"""The random digits at the end of a run's id, by which commands find it."""


class Axis(NamedTuple):
    """An axis of a sweep: its keys, the values that occur, in order, and their places by identity.

    A label is ``cfg_scale = 7.0``, with a line for each key.
    """

    keys: tuple[str, ...]
    labels: tuple[str, ...]
    places: Mapping[bytes, int]

    def place_of(self, variant: Mapping[str, Any]) -> int:
        """The place of a variant's value among those of the axis."""
        return self.places[_identity(variant.get(key) for key in self.keys)]


_NO_AXIS = Axis((), ("",), {b"[]": 0})


class _VariantCells(NamedTuple):
    """A variant's cells by image index; ``reason`` stands for all of them where it has none."""

    cells: Sequence[Cell]
    reason: str = ""


def group_content(
    folder: Path, runs: Path, stage: str | None, rows: str | None, columns: str | None
) -> SheetContent:
    """The images of a group in a stage, by default the last of each run.

    ``rows`` and ``columns`` are varied keys; by default those of the first two axes, or columns
    alone where there is one. Each combination of the other axes is a block. A run with several
    images has a row for each. Raises SheetRefusedError, GroupNotFoundError, LogCorruptError of
    the group's own log, OSError.
    """
    fold = GroupFold()
    read_group_log(folder, fold.apply_all)
    assert fold.opened is not None  # a log without it is no group's
    variants = fold.opened.variants
    axes = [_axis(one, [variant.values for variant in variants]) for one in fold.opened.axes]
    row_axis, column_axis = choose_axes(axes, rows, columns)
    others = [axis for axis in axes if axis not in (row_axis, column_axis)]
    read = _Variants(fold, runs, stage)
    table: dict[tuple[int, ...], dict[int, dict[int, _VariantCells]]] = {}
    for variant, cells in zip(variants, read.cells, strict=True):
        block = table.setdefault(tuple(one.place_of(variant.values) for one in others), {})
        row = block.setdefault(row_axis.place_of(variant.values), {})
        row[column_axis.place_of(variant.values)] = cells
    labels = column_axis.labels
    blocks = (
        Block(
            ", ".join(
                one.labels[at].replace("\n", ", ") for one, at in zip(others, place, strict=True)
            ),
            tuple(_rows(block, row_axis.labels, len(labels), read.has_several)),
        )
        for place, block in sorted(table.items())
    )
    stages = ", ".join(read.stages) or "no stage"
    return SheetContent(f"{fold.group_id}, {stages}", labels, tuple(blocks))


def choose_axes(axes: Sequence[Axis], rows: str | None, columns: str | None) -> tuple[Axis, Axis]:
    """The axes of the rows and of the columns. Raises SheetRefusedError."""
    chosen = [
        _axis_of(axes, key, option) for key, option in ((rows, "--rows"), (columns, "--columns"))
    ]
    if chosen[0] is not None and chosen[0] == chosen[1]:
        raise SheetRefusedError(f"--rows {rows} and --columns {columns} are the same axis")
    left = [axis for axis in axes if axis not in chosen]
    if chosen == [None, None] and len(left) > 1:
        return left[0], left[1]
    row, column = chosen
    if column is None and left:
        column = left.pop(0)
    if row is None and left:
        row = left.pop(0)
    return row or _NO_AXIS, column or _NO_AXIS


def _axis_of(axes: Sequence[Axis], key: str | None, option: str) -> Axis | None:
    """The axis that varies a key, which may be given by its last parts."""
    if key is None:
        return None
    exact = [axis for axis in axes if key in axis.keys]
    fitting = exact or [axis for axis in axes if any(one.endswith(f".{key}") for one in axis.keys)]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(one for axis in axes for one in axis.keys)
    why = "fits several keys" if fitting else "is not varied"
    raise SheetRefusedError(f"{option} {key}: it {why}; the varied keys are {known}")


def _axis(axis: SweepAxis, variants: Sequence[Mapping[str, Any]]) -> Axis:
    """An axis with the values that variants have: a random draw may have left some out.

    Values that only a variant has, in a log that others wrote, follow those of the axis.
    """
    keys = axis_keys(axis)
    values = [tuple(one.get(key) for key in keys) for one in variants]
    used = {_identity(value): value for value in values}
    listed = {_identity(value): value for value in rows_of(axis)}
    known = [one for one in listed | used if one in used]
    labels = (
        "\n".join(f"{key} = {_text(value)}" for key, value in zip(keys, used[one], strict=True))
        for one in known
    )
    return Axis(keys, tuple(labels), {one: place for place, one in enumerate(known)})


class _Variants:
    """The cells of each variant in order; ``stages`` are those whose images they are."""

    def __init__(self, fold: GroupFold, runs: Path, stage: str | None) -> None:
        assert fold.opened is not None
        self._fold = fold
        self._stage = stage
        self._folders = variant_folders(runs, fold.group_id, fold.run_ids)
        self._failures = {
            one.variant_index: one.error for one in (fold.sealed.failures if fold.sealed else ())
        }
        self._known: dict[str, None] = {}
        self.stages: dict[str, None] = {}
        self.cells = [self._read(one.variant_index) for one in fold.opened.variants]
        self.has_several = any(len(one.cells) > 1 for one in self.cells)
        if self._known and not self.stages:
            raise no_such_stage(stage, f"group {fold.group_id}", list(self._known))

    def _read(self, index: int) -> _VariantCells:
        if (folder := self._folders.get(index)) is None:
            return _VariantCells((), self._why_no_run(index))
        try:
            run = RunCells.read(folder)
        except (LogCorruptError, RunNotFoundError, OSError) as error:
            return _VariantCells((), f"its log cannot be read: {error}")
        self._known |= dict.fromkeys(run.stage_ids)
        stage_id = run.find_stage(self._stage)
        if stage_id is not None:
            self.stages[stage_id] = None
        return _VariantCells(run.cells(stage_id, run.fold.run_id[-_DIGITS:]))

    def _why_no_run(self, index: int) -> str:
        if index in self._fold.removed:
            return "its run was removed"
        error = self._failures.get(index)
        if error is None and index in self._fold.run_ids:
            return f"its run {self._fold.run_ids[index]} is not here"
        return "not begun" if error is None else f"not begun: {error.kind}: {error.message}"


def _rows(
    block: Mapping[int, Mapping[int, _VariantCells]],
    labels: Sequence[str],
    width: int,
    has_several: bool,  # noqa: FBT001 - of the whole sheet
) -> Iterator[Row]:
    """The rows of a block: one for each image of the runs of each value."""
    for place, found in sorted(block.items()):
        tallest = max(len(one.cells) for one in found.values())
        for index in range(max(1, tallest)):
            number = f"image {index + 1}" if has_several else ""
            label = "\n".join(part for part in (labels[place], number) if part)
            yield Row(label, tuple(_cell(found.get(column), index) for column in range(width)))


def _cell(found: _VariantCells | None, index: int) -> Cell:
    if found is None:
        return Cell("", "not in the sweep")
    if not found.cells:
        return Cell("", found.reason)
    return found.cells[index] if index < len(found.cells) else Cell("", "not planned")


def _identity(value: Iterable[Any]) -> bytes:
    return msgspec.json.encode(list(value))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
