"""What is found in a run folder: what is damaged, what is to be made, what forbids a resume.

``verify`` reports it; a resume acts on it, and adds only the lock and the writing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import NamedTuple

import msgspec

from ...events.errors import ImageAlteredError, StagewrightError
from ...events.folds import Fold
from ...events.log.timeline import FileTimeline
from ...events.log.verified_scan import TornTail
from ...events.model import (
    BackendDescription,
    CallCompleted,
    CallRequested,
    CallReused,
    RunState,
    StageEvent,
)
from ...events.origins import input_name
from ..config.schema import RunTables
from ..errors import ResumeRefusedError
from ..files.recorded_files import (
    FileState,
    OnFile,
    RecordedFile,
    WrongFile,
    check_file,
    recorded_files,
)
from ..files.run_folder import RunFolder
from ..plan.plan import StageExecutionPlan
from ..ports import UnsettledCall
from ..run.image_status import ImageStatus
from ..run.requests import (
    input_records,
    request_breaks,
    script_image_records,
    span_of,
    unsettled_calls,
)
from ..states import can_go_on, is_fruitless
from .recorded_plan import recorded_plan, recorded_settings

_MISPLACED = WrongFile(FileState.ALTERED, "its record names no place for an image of its stage")


class DamagedFile(NamedTuple):
    """A recorded file that is not as recorded, and what is wrong with it."""

    file: RecordedFile
    wrong: WrongFile


class RunInspection(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in a run folder; nothing was written.

    ``settings`` are the recorded tables of the configuration, of which ``run`` and ``server``
    are read, ``backend`` is what the last epoch worked with, ``epoch`` the one that a resume
    would write. ``damaged`` are the files that are not as recorded: inputs, then images by
    stage and index. Over all stages, ``valid`` images need not be made, and ``to_make`` images
    have to be. The run ``is_complete`` if it ended COMPLETED and all its images are valid; it
    ``needs_seal`` if it ended so and its log has a torn tail or no seal.

    While the run is resumed, ``fold`` and ``status`` change with it; the rest stays as found.
    """

    folder: RunFolder
    fold: Fold
    torn: TornTail | None
    plan: StageExecutionPlan
    settings: RunTables
    damaged: tuple[DamagedFile, ...]
    status: ImageStatus
    backend: BackendDescription
    epoch: int
    valid: int
    to_make: int
    is_complete: bool
    needs_seal: bool

    @property
    def unsettled(self) -> tuple[UnsettledCall, ...]:
        """The calls that a backend may still work on."""
        return tuple(unsettled_calls(self.fold))

    def refusal(self, *, force: bool = False) -> StagewrightError | None:
        """The first reason not to resume the run; ``force`` ignores epochs without an image.

        A run that is complete has none.
        """
        return None if self.is_complete else next(self._refusals(force=force), None)

    def _refusals(self, *, force: bool) -> Iterator[StagewrightError]:
        name = self.fold.run_id
        for file, wrong in self.damaged:
            if wrong is _MISPLACED:
                said = f"its log says that {file.path} is an image of {file.stage_id}"
                yield ResumeRefusedError(f"{name}: {said}; no stagewright wrote that")
            elif file.stage_id and wrong.state is FileState.UNREADABLE:
                # It may be sound, so it is neither used nor made again.
                path = self.folder.path / file.path
                yield ImageAlteredError(f"{path}: {wrong}; make it readable, then resume the run")
        if self.plan.conflicts:
            which = "; ".join(map(str, self.plan.conflicts))
            yield ResumeRefusedError(f"{name}: its configuration contradicts itself: {which}")
        elif self._lacks_only_refused():
            inputs = self.fold.opened.inputs if self.fold.opened else ()
            refused = [input_name(one) for one in inputs if one.refusal]
            yield ResumeRefusedError(
                f"{name}: only images of inputs that cannot be used are missing; repair these "
                f"files, then run the configuration again: {', '.join(refused)}"
            )
        for file, wrong in self._lost_inputs():
            yield ImageAlteredError(
                f"{self.folder.path / file.path}: {wrong}; images that are still to be made need "
                "it: put back the file that was recorded, then resume the run"
            )
        for stage_id, index in self._removed_sources():
            yield ResumeRefusedError(
                f"{name}: image {index + 1} of {stage_id} is missing or altered, and what it was "
                "made from was removed; put back the file that was recorded"
            )
        epochs = self.fold.epochs_without_progress
        if self.to_make and is_fruitless(epochs) and not force:
            yield ResumeRefusedError(
                f"{name}: {epochs} epochs in a row sent requests and finished no image"
                f"{self._last_failure()}; --force tries again"
            )

    def _lacks_only_refused(self) -> bool:
        """Whether the run has ended, and no image that is to be made can be."""
        fold = self.fold
        if not fold.sealed or fold.error is None or any(file.stage_id for file, _ in self.damaged):
            return False
        return not can_go_on(fold.state, fold.error, fold.missing(), sealed=True)

    def _lost_inputs(self) -> list[DamagedFile]:
        """The damaged inputs and masks that images which are to be made need."""
        lost = [one for one in self.damaged if not one.file.stage_id]
        needed: set[str] = set()
        assert self.fold.opened is not None
        for stage in self.plan.stages if lost else ():
            for index in range(self.plan.total_images):
                if not self.status.is_valid(stage, index):
                    records = input_records(stage, index, self.plan, self.fold.opened)
                    needed.update(record.path for record in records if record)
                    scripts = script_image_records(stage, self.fold.opened)
                    needed.update(record.path for record in scripts)
        return [one for one in lost if one.file.path in needed]

    def _removed_sources(self) -> Iterator[tuple[str, int]]:
        """Stage and index of the images that are to be made, but whose source was removed."""
        for stage in self.plan.stages:
            source = self.fold.stages.get(stage.input_source)
            for index in sorted(source.removed if source is not None else ()):
                if not self.status.is_valid(stage, index):
                    yield stage.stage_id, index

    def _last_failure(self) -> str:
        stages = self.fold.stages.values()
        failures = [error for stage in stages for error in stage.failures.values()]
        if not failures:
            return ""
        return f" (the last failure: {failures[-1].kind}: {failures[-1].message})"


def inspect_run(
    folder: RunFolder,
    fold: Fold,
    timeline: FileTimeline,
    *,
    event_at: Callable[[int], StageEvent] | None = None,
    on_file: OnFile | None = None,
) -> RunInspection:
    """Check every recorded file of a run, and find what a resume has to do.

    ``fold`` holds the events of ``timeline``, the whole log. ``event_at`` reads a record of the
    log also when it has grown. Raises ResumeRefusedError, before any file is read, for a log whose
    plan this version cannot carry out.
    """
    assert fold.opened is not None
    plan = recorded_plan(fold)
    settings = recorded_settings(fold.opened)
    damaged = check_files(folder.path, fold, timeline, on_file)
    lost = {(file.stage_id, file.image_index) for file, _ in damaged if file.stage_id}
    status = ImageStatus(
        plan,
        fold,
        event_at or timeline.__getitem__,
        lost={(fold.stages[stage_id].finished.get(index), index) for stage_id, index in lost},
        made_from=_made_from(plan, fold, timeline, lost),
    )
    valid = sum(map(status.count_valid, plan.stages))
    to_make = len(plan.stages) * plan.total_images - valid
    has_ended = fold.state == RunState.COMPLETED
    return RunInspection(
        folder=folder,
        fold=fold,
        torn=timeline.torn,
        plan=plan,
        settings=settings,
        damaged=damaged,
        status=status,
        backend=fold.backend or fold.opened.backend,
        epoch=fold.epoch + 1,
        valid=valid,
        to_make=to_make,
        is_complete=has_ended and to_make == 0,
        needs_seal=has_ended and (not fold.sealed or timeline.torn is not None),
    )


def check_files(
    folder: Path, fold: Fold, timeline: FileTimeline, on_file: OnFile | None = None
) -> tuple[DamagedFile, ...]:
    """The recorded files of a run that are not as recorded: inputs, then images by stage, index."""
    assert fold.opened is not None
    result = fold.result(timeline)
    inputs = sum(not record.refusal for record in fold.opened.inputs)
    total = inputs + sum(stage.image_count for stage in result.stages)
    damaged = []
    for place, file in enumerate(recorded_files(fold, result), start=1):
        wrong = None if file.removed else check_file(folder, file.path, file.sha256)
        # A resume renames altered files: never the log, nor anything else that a record may name.
        if file.stage_id and file.path.rpartition("/")[0] != f"images/{file.stage_id}":
            wrong = _MISPLACED
        if wrong is not None:
            damaged.append(DamagedFile(file, wrong))
        if on_file is not None:
            on_file(place, total)
    return tuple(damaged)


def _made_from(
    plan: StageExecutionPlan, fold: Fold, timeline: FileTimeline, lost: Set[tuple[str, int]]
) -> dict[int, str]:
    """``made_from`` of ``ImageStatus``: the sources of images whose source may have changed."""
    suspects = set(_suspects(plan, fold, lost))
    found: dict[int, str] = {}
    pending: dict[str, str] = {}
    for event in timeline if suspects else ():
        if isinstance(event, CallRequested):
            if event.inputs and event.image_index in suspects:
                pending[event.call_id] = event.inputs[0]
        elif isinstance(event, CallCompleted) and event.call_id in pending:
            found[event.seq] = pending.pop(event.call_id)
        elif isinstance(event, CallReused) and event.inputs and event.image_index in suspects:
            found[event.seq] = event.inputs[0]
    return found


def _suspects(plan: StageExecutionPlan, fold: Fold, lost: Set[tuple[str, int]]) -> Iterator[int]:
    """The indexes of images that some stage made more than once, or will make again."""
    breaks = request_breaks(fold.opened)
    for stage in plan.stages:
        here, source = fold.stages.get(stage.stage_id), fold.stages.get(stage.input_source)
        if here is None:
            continue
        yield from here.replaced
        for index in here.finished if stage.order_index else ():
            # A salvaged log may have an image without its source.
            if source is None or source.finished.get(index) is None:
                yield index
        for stage_id, index in lost:
            # The whole request is repeated, and its other images may come out different too.
            if stage_id == stage.stage_id:
                yield from span_of(stage, index, plan, breaks)
