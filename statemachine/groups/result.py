"""What a group of runs came to: its own log, and the logs of its runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ...events.errors import LogCorruptError, RunNotFoundError
from ...events.folds import Fold
from ...events.groups.fold import GroupFold
from ...events.groups.log import read_group_log
from ...events.groups.model import SweepAxis, Variant
from ...events.log.reader import read_log
from ...events.log.timeline import FileTimeline
from ...events.model import (
    Artifact,
    CallCompleted,
    CallReused,
    ErrorDetail,
    Outcome,
    RunState,
    StageEvent,
    StageImageProgress,
)
from .folder import variant_folders

CORRUPT = "CORRUPT"
UNREADABLE = "UNREADABLE"
REMOVED = "REMOVED"
MISSING = "MISSING"


class VariantResult(msgspec.Struct, frozen=True, kw_only=True):
    """One variant of a group: ``state`` is that of its run.

    It is IDLE where the variant has not begun, MISSING where it has and its run is gone (a resume
    makes it again), REMOVED where its run was removed on purpose,
    CORRUPT or UNREADABLE where the run's log is. ``images`` of ``total_images`` have finished
    the last stage. ``error`` says why it is not complete, where that is known.
    """

    variant_index: int
    values: Mapping[str, Any]
    run_id: str | None
    state: str
    outcome: Outcome | None
    images: int = 0
    total_images: int = 0
    error: ErrorDetail | None = None


class GroupResult(msgspec.Struct, frozen=True, kw_only=True):
    """A group as its log and the logs of its runs describe it.

    ``state`` is COMPLETED where all variants are (but for removed ones), RUNNING until the group
    has ended, else CANCELLED or ERROR. ``error`` says why no further variant could begin.
    """

    group_id: str
    state: RunState
    axes: tuple[SweepAxis, ...]
    variants: tuple[VariantResult, ...]
    error: ErrorDetail | None = None

    @property
    def counts(self) -> Mapping[str, int]:
        """How many variants there are of each state."""
        found: dict[str, int] = {}
        for variant in self.variants:
            found[variant.state] = found.get(variant.state, 0) + 1
        return found


class VariantRun(NamedTuple):
    """The run of a variant: its folder, and what its log holds; ``damage`` where that is lost.

    ``files`` are path and size of each image by the number of the event that has it and the
    image's index: the fold says which of these events count.
    """

    folder: Path
    fold: Fold
    timeline: FileTimeline | None
    files: Mapping[tuple[int, int], tuple[str, int]]
    damage: str = ""

    @property
    def state(self) -> str:
        """The state of the run, or its damage."""
        return self.damage or self.fold.state

    @property
    def images(self) -> int:
        """The images that have finished the last stage."""
        planned = self.fold.planned_stage_ids()
        last = self.fold.stages.get(planned[-1]) if planned else None
        return len(last.finished) if last else 0

    @property
    def is_finished(self) -> bool:
        """Whether the run is COMPLETED and sealed, and the files of its images are there.

        Their sizes are compared, not their digests, which ``verify`` does.
        """
        if self.damage or self.fold.state != RunState.COMPLETED or not self.fold.sealed:
            return False
        return all(
            index in stage.removed or self._is_there(seq, index)
            for stage in self.fold.stages.values()
            for index, seq in stage.finished.items()
        )

    def _is_there(self, seq: int, image_index: int) -> bool:
        path, size = self.files[seq, image_index]
        try:
            return (self.folder / path).stat().st_size == size
        except OSError:
            return False


def _artifacts_in(event: StageEvent) -> Sequence[Artifact]:
    """The images that an event tells of."""
    if isinstance(event, CallCompleted | CallReused):
        return event.artifacts
    return (event.artifact,) if isinstance(event, StageImageProgress) else ()


def read_variant_run(folder: Path) -> VariantRun:
    """Read the log of a variant's run; a damaged one is no error."""
    fold = Fold()
    files: dict[tuple[int, int], tuple[str, int]] = {}

    def take(events: Sequence[StageEvent]) -> None:
        fold.apply_all(events)
        for event in events:
            for one in _artifacts_in(event):
                files[event.seq, one.image_index] = one.path, one.bytes

    try:
        timeline = read_log(folder, take)
    except LogCorruptError:
        return VariantRun(folder, fold, None, files, CORRUPT)
    except (OSError, RunNotFoundError):
        return VariantRun(folder, fold, None, files, UNREADABLE)
    return VariantRun(folder, fold, timeline, files)


def replay_group(folder: Path, runs: Path) -> GroupResult:
    """The result of the group in ``folder``, whose runs are below ``runs``.

    Raises GroupNotFoundError, LogCorruptError of the group's own log, OSError.
    """
    return result_of(fold_group(folder), runs)


def fold_group(folder: Path) -> GroupFold:
    """The group in ``folder`` by its own log. Raises what ``replay_group`` raises."""
    fold = GroupFold()
    read_group_log(folder, fold.apply_all)
    return fold


def result_of(fold: GroupFold, runs: Path) -> GroupResult:
    """The result of a group whose runs are below ``runs``."""
    return group_result(fold, variant_folders(runs, fold.group_id, fold.run_ids))


def group_result(fold: GroupFold, folders: Mapping[int, Path]) -> GroupResult:
    """The result of a group whose runs are in these folders, by variant."""
    assert fold.opened is not None
    variants = [
        _variant_result(fold, one, _read(folders.get(one.variant_index)))
        for one in fold.opened.variants
    ]
    return result_of_variants(fold, variants)


def finished_variants(
    fold: GroupFold, folders: Mapping[int, Path]
) -> Sequence[VariantResult] | None:
    """All variants of a group of which nothing is missing, else None; each run is read once."""
    assert fold.opened is not None
    variants: list[VariantResult] = []
    for variant in fold.opened.variants:
        run = _read(folders.get(variant.variant_index))
        if not (run.is_finished if run else variant.variant_index in fold.removed):
            return None
        variants.append(_variant_result(fold, variant, run))
    return variants


def result_of_variants(fold: GroupFold, variants: Sequence[VariantResult]) -> GroupResult:
    """The result of a group from those of its variants, in order."""
    assert fold.opened is not None
    return GroupResult(
        group_id=fold.group_id,
        state=state_of_group(fold, (one.state for one in variants)),
        axes=fold.opened.axes,
        variants=tuple(variants),
        error=fold.sealed.error if fold.sealed else None,
    )


def _read(folder: Path | None) -> VariantRun | None:
    return None if folder is None else read_variant_run(folder)


def _variant_result(fold: GroupFold, variant: Variant, run: VariantRun | None) -> VariantResult:
    index = variant.variant_index
    run_id, error = fold.run_ids.get(index), fold.failures.get(index)
    if run is None:
        return VariantResult(
            variant_index=index,
            values=variant.values,
            run_id=run_id,
            state=state_without_run(fold, index),
            outcome=None,
            total_images=variant.total_images,
            error=error,
        )
    return VariantResult(
        variant_index=index,
        values=variant.values,
        run_id=run.fold.run_id or run_id or run.folder.name,
        state=run.state,
        outcome=run.fold.outcome,
        images=run.images,
        total_images=len(run.fold.seeds) or variant.total_images,
        error=run.fold.error or error,
    )


def state_without_run(fold: GroupFold, variant_index: int) -> str:
    """The state of a variant whose run is not there: REMOVED, MISSING, or IDLE."""
    if variant_index in fold.removed:
        return REMOVED
    return MISSING if variant_index in fold.run_ids else RunState.IDLE


def state_of_group(fold: GroupFold, states: Iterable[str]) -> RunState:
    """The state of a group whose variants are in these states."""
    if all(state in (RunState.COMPLETED, REMOVED) for state in states):
        return RunState.COMPLETED
    # A run of a group that had ended may have been resumed alone, or have lost images since.
    return RunState.ERROR if fold.state == RunState.COMPLETED else fold.state
