"""Compares two groups: their variants with equal values, pair by pair."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ....events.errors import LogCorruptError, RunNotFoundError
from ....statemachine.groups.folder import variant_folders
from ....statemachine.groups.result import VariantResult, fold_group, result_of
from ...text import count_of
from ..varied_values import value_text
from .comparison import RunComparison, compare_runs

_SECTIONS = ("configuration", "plan", "inputs", "backend", "outcome")
_NOT_NAMED = frozenset(["group_id", "variant_index", "run_id", "learning_mode"])
"""Keys of a plan in which two groups may differ with equal configurations."""
_DEEPEST = 20
_LARGEST = 2**53
"""Whole numbers up to this are the same as a float."""
_IMAGES = {
    "different": "different images",
    "only_left": "images only left",
    "only_right": "images only right",
}


class ComparedGroup(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two groups."""

    group_id: str
    folder: str
    state: str
    variants: int


class VariantPair(msgspec.Struct, frozen=True, kw_only=True):
    """Two variants with equal values, by their indexes, and where their runs differ.

    ``differences`` are texts such as ``txt2img.steps: 20 -> 30``, and counts of images; ``error``
    says why the runs could not be compared.
    """

    values: Mapping[str, Any]
    left_index: int
    right_index: int
    left_run_id: str | None
    right_run_id: str | None
    differences: tuple[str, ...] = ()
    error: str = ""

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not self.differences and not self.error


class GroupComparison(msgspec.Struct, frozen=True, kw_only=True):
    """The differences between two groups; variants are in the order of the left one."""

    left: ComparedGroup
    right: ComparedGroup
    same: bool
    pairs: tuple[VariantPair, ...]
    only_left: tuple[VariantResult, ...]
    only_right: tuple[VariantResult, ...]


class _Side:
    """A group that is compared, and the folders of its runs."""

    def __init__(self, folder: Path, runs: Path) -> None:
        fold = fold_group(folder)
        self.result = result_of(fold, runs)
        self.folders = variant_folders(runs, fold.group_id, fold.run_ids)
        self.compared = ComparedGroup(
            group_id=self.result.group_id,
            folder=str(folder),
            state=self.result.state,
            variants=len(self.result.variants),
        )


def compare_groups(left: tuple[Path, Path], right: tuple[Path, Path]) -> GroupComparison:
    """Compare two groups, each given by its folder and the folder of its runs.

    Raises GroupNotFoundError, LogCorruptError of a group's own log, OSError.
    """
    one, other = _Side(*left), _Side(*right)
    waiting: defaultdict[bytes, list[VariantResult]] = defaultdict(list)
    for variant in other.result.variants:
        waiting[_key(variant)].append(variant)
    pairs: list[VariantPair] = []
    only_left: list[VariantResult] = []
    for variant in one.result.variants:
        same_values = waiting[_key(variant)]
        if same_values:
            pairs.append(_pair(one, variant, other, same_values.pop(0)))
        else:
            only_left.append(variant)
    unpaired = {rest.variant_index for rests in waiting.values() for rest in rests}
    only_right = tuple(one for one in other.result.variants if one.variant_index in unpaired)
    return GroupComparison(
        left=one.compared,
        right=other.compared,
        same=not only_left and not only_right and all(pair.same for pair in pairs),
        pairs=tuple(pairs),
        only_left=tuple(only_left),
        only_right=only_right,
    )


def _key(variant: VariantResult) -> bytes:
    """Equal for equal values: 7 is 7.0, as in a configuration."""
    return msgspec.json.encode(_plain(variant.values), order="sorted")


def _plain(value: Any, deepest: int = _DEEPEST) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) <= _LARGEST:
        return int(value)
    if isinstance(value, Mapping) and deepest:
        return {key: _plain(part, deepest - 1) for key, part in value.items()}
    if isinstance(value, list | tuple) and deepest:
        return [_plain(part, deepest - 1) for part in value]
    return value


def _side(value: Any) -> str:
    return "(not set)" if value is msgspec.UNSET else value_text(msgspec.to_builtins(value))


def _pair(one: _Side, left: VariantResult, other: _Side, right: VariantResult) -> VariantPair:
    ours = one.folders.get(left.variant_index)
    theirs = other.folders.get(right.variant_index)
    found: Sequence[str] = ()
    error = ""
    if ours is None or theirs is None:
        if left.state != right.state:
            found = [f"state {left.state} -> {right.state}"]
    else:
        try:
            found = list(_differences(compare_runs(ours, theirs)))
        except (LogCorruptError, RunNotFoundError, OSError) as failure:
            error = str(failure)
    return VariantPair(
        values=left.values,
        left_index=left.variant_index,
        right_index=right.variant_index,
        left_run_id=left.run_id,
        right_run_id=right.run_id,
        differences=tuple(found),
        error=error,
    )


def _differences(found: RunComparison) -> Iterator[str]:
    """Where two runs differ, each key once; what only says which group they are of is left out."""
    seen: set[str] = set()
    for section in _SECTIONS:
        for one in getattr(found, section):
            is_new = one.key not in seen and one.key.split(".")[-1] not in _NOT_NAMED
            seen.add(one.key)
            if is_new:
                yield f"{one.key}: {_side(one.left)} -> {_side(one.right)}"
    for stage in found.stages:
        if stage.answers.used:
            yield f"{stage.stage}: {len(stage.answers.used)} used settings"
        for name, words in _IMAGES.items():
            number = count_of(getattr(stage.answers.images, name))
            if number:
                yield f"{stage.stage}: {number} {words}"
