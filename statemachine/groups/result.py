"""What a group of runs came to: its own log, and the logs of its runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
from ...events.model import ErrorDetail, Outcome, RunState
from .folder import variant_folders

CORRUPT = "CORRUPT"
UNREADABLE = "UNREADABLE"
REMOVED = "REMOVED"


class VariantResult(msgspec.Struct, frozen=True, kw_only=True):
    """One variant of a group: ``state`` is that of its run.

    It is IDLE where the variant has not begun, REMOVED where its run was removed on purpose,
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
    """The run of a variant: its folder, and what its log holds; ``damage`` where that is lost."""

    folder: Path
    fold: Fold
    timeline: FileTimeline | None
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
        if self.timeline is None or self.fold.state != RunState.COMPLETED or not self.fold.sealed:
            return False
        stages = self.fold.result(self.timeline).stages
        return all(
            image.image_index in self.fold.stages[stage.stage_id].removed
            or _has_size(self.folder / image.path, image.bytes)
            for stage in stages
            for image in stage.images
        )


def read_variant_run(folder: Path) -> VariantRun:
    """Read the log of a variant's run; a damaged one is no error."""
    fold = Fold()
    try:
        timeline = read_log(folder, fold.apply_all)
    except LogCorruptError:
        return VariantRun(folder, fold, None, CORRUPT)
    except (OSError, RunNotFoundError):
        return VariantRun(folder, fold, None, UNREADABLE)
    return VariantRun(folder, fold, timeline)


def replay_group(folder: Path, runs: Path) -> GroupResult:
    """The result of the group in ``folder``, whose runs are below ``runs``.

    Raises GroupNotFoundError, LogCorruptError of the group's own log, OSError.
    """
    return result_of(read_group(folder), runs)


def read_group(folder: Path) -> GroupFold:
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
    variants = tuple(_variant_results(fold, fold.opened.variants, folders))
    return GroupResult(
        group_id=fold.group_id,
        state=state_of_group(fold, (one.state for one in variants)),
        axes=fold.opened.axes,
        variants=variants,
        error=fold.sealed.error if fold.sealed else None,
    )


def _variant_results(
    fold: GroupFold, variants: tuple[Variant, ...], folders: Mapping[int, Path]
) -> Iterator[VariantResult]:
    failures = {
        one.variant_index: one.error for one in (fold.sealed.failures if fold.sealed else ())
    }
    for variant in variants:
        index = variant.variant_index
        run_id, state, outcome = fold.run_ids.get(index), str(RunState.IDLE), None
        error, images, total_images = failures.get(index), 0, variant.total_images
        if (folder := folders.get(index)) is not None:
            run = read_variant_run(folder)
            run_id = run.fold.run_id or run_id or folder.name
            state, outcome, error = run.state, run.fold.outcome, run.fold.error or error
            images, total_images = run.images, len(run.fold.seeds) or total_images
        elif index in fold.removed:
            state = REMOVED
        yield VariantResult(
            variant_index=index,
            values=variant.values,
            run_id=run_id,
            state=state,
            outcome=outcome,
            images=images,
            total_images=total_images,
            error=error,
        )


def state_of_group(fold: GroupFold, states: Iterable[str]) -> RunState:
    """The state of a group whose variants are in these states."""
    if all(state in (RunState.COMPLETED, REMOVED) for state in states):
        return RunState.COMPLETED
    # A run of a group that had ended may have been resumed alone, or have lost images since.
    return RunState.ERROR if fold.state == RunState.COMPLETED else fold.state


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False
