"""Whether a run on disk is what its log says: chain, seal, and the digest of every image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..events.errors import LogCorruptError
from ..events.folding import Fold
from ..events.lock import is_locked, lock_holder
from ..events.model import RunOpened, RunState
from ..events.reading import read_log
from ..events.result import PipelineRunResult
from ..events.scan import TornTail
from .damage import needed_inputs
from .errors import ResumeRefusedError
from .file_checking import FileChecker, FileState, OnFile, WrongFile
from .plan import StageExecution
from .recorded_plan import recorded_plan
from .states import is_fruitless


class Flaw(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as recorded: ``place`` is a path, or a byte offset in the log."""

    place: str
    what: str


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in a run folder; nothing was written.

    ``images`` of the ``planned_images``, over all stages, are recorded as finished. ``corrupt``
    says that the log is, so that nothing may be written to it; ``advice`` what a resume would
    do, "" where nothing is left to do, or nothing can be done.
    """

    run_id: str
    folder: str
    events: int
    images: int
    planned_images: int
    state: RunState
    sealed: bool
    torn: TornTail | None
    running: str | None
    flaws: tuple[Flaw, ...]
    corrupt: bool
    advice: str

    @property
    def sound(self) -> bool:
        """Whether log and images are what was recorded, finished or not."""
        return not self.flaws

    @property
    def finished(self) -> bool:
        """Whether the log is whole and its last epoch closed."""
        return self.sealed and self.torn is None


def verify_run(folder: Path, on_file: OnFile | None = None) -> Verification:
    """Check a run, its log first.

    Raises RunNotFoundError, OSError. A corrupt log is a flaw of the result, not an error.
    """
    fold = Fold()
    holder = str(lock_holder(folder) or "unknown") if is_locked(folder) else None
    try:
        timeline = read_log(folder, fold.apply_all)
    except LogCorruptError as error:
        flaw = Flaw(place=f"byte {error.offset} of {error.path}", what=error.reason)
        found = _verification(folder, fold, error.seq, None, holder, ())
        return msgspec.structs.replace(found, flaws=(flaw,), corrupt=True, advice="")
    assert fold.opened is not None
    total = len(fold.opened.inputs) + sum(one.finished.count for one in fold.stages.values())
    wrong: list[_Wrong] = []
    checker = FileChecker(folder)
    files = _recorded_files(fold.result(timeline), fold.opened)
    for place, file in enumerate(files, start=1):
        if (found_so := checker.check(file.path, file.sha256)) is not None:
            wrong.append(_Wrong(file, found_so))
        if on_file is not None:
            on_file(place, total)
    # A writer may be in the middle of a record; what it left open is no torn tail.
    torn = None if holder else timeline.torn
    return _verification(folder, fold, len(timeline), torn, holder, wrong)


class _Recorded(NamedTuple):
    """A file that the log vouches for; an input belongs to no stage."""

    path: str
    sha256: str
    stage_id: str = ""
    image_index: int = 0


class _Wrong(NamedTuple):
    file: _Recorded
    found: WrongFile


def _recorded_files(result: PipelineRunResult, opened: RunOpened) -> Iterator[_Recorded]:
    for record in opened.inputs:
        yield _Recorded(record.path, record.sha256)
    for stage in result.stages:
        for image in stage.images:
            yield _Recorded(image.path, image.sha256, image.stage_id, image.image_index)


def _verification(
    folder: Path,
    fold: Fold,
    events: int,
    torn: TornTail | None,
    holder: str | None,
    wrong: Sequence[_Wrong],
) -> Verification:
    return Verification(
        run_id=fold.run_id or folder.name,
        folder=str(folder),
        events=events,
        images=sum(stage.finished.count for stage in fold.stages.values()),
        planned_images=_planned(fold),
        state=fold.state,
        sealed=fold.sealed,
        torn=torn,
        running=holder,
        flaws=tuple(Flaw(place=one.file.path, what=str(one.found)) for one in wrong),
        corrupt=False,
        advice="" if holder else _advice(fold, torn, wrong),
    )


def _planned(fold: Fold) -> int:
    return len(fold.planned_stage_ids()) * len(fold.seeds)


def _advice(fold: Fold, torn: TornTail | None, wrong: Sequence[_Wrong]) -> str:
    """What a resume of the run would do, in the order of the resume protocol."""
    lost = {(one.file.stage_id, one.file.image_index) for one in wrong if one.file.stage_id}
    to_make = _to_make(fold, lost)
    steps = []
    if torn is not None:
        steps.append(f"cut the torn tail ({torn.bytes} bytes at {torn.offset})")
    if fold.state == RunState.RUNNING:
        steps.append('record the failure "process died"')
    if to_make:
        again = "" if not lost else " again" if len(lost) == to_make else f" ({len(lost)} again)"
        steps.append(f"make {to_make} {'image' if to_make == 1 else 'images'}{again}")
    elif fold.state != RunState.COMPLETED:
        steps.append("bring it to its end")
    if fold.state == RunState.COMPLETED and (torn is not None or not fold.sealed):
        steps.append("seal the log")
    return (_refusal(fold, wrong, lost) or ", ".join(steps)) if steps else ""


def _to_make(fold: Fold, lost: set[tuple[str, int]]) -> int:
    """How many images of all stages are not there."""
    stages = map(fold.stages.get, fold.planned_stage_ids())
    finished = sum(stage.finished.count for stage in stages if stage is not None)
    return max(0, _planned(fold) - finished) + len(lost)


def _refusal(fold: Fold, wrong: Sequence[_Wrong], lost: set[tuple[str, int]]) -> str:
    """That a resume would refuse, and until when; "" if it would not."""
    try:
        plan = recorded_plan(fold)
    except ResumeRefusedError as error:
        return f"refuse: {error}"
    for one in wrong:
        if one.file.stage_id and one.found.state is FileState.UNREADABLE:
            return f"refuse until {one.file.path} can be read"
    if plan.conflicts:
        return "refuse: its configuration contradicts itself"
    if not _to_make(fold, lost):
        return ""
    assert fold.opened is not None

    def stands(stage: StageExecution, index: int) -> bool:
        folded = fold.stages.get(stage.stage_id)
        finished = folded is not None and folded.finished.get(index) is not None
        return finished and (stage.stage_id, index) not in lost

    needed = {one.path for one in needed_inputs(plan, fold.opened.inputs, stands)}
    gone = [one.file.path for one in wrong if not one.file.stage_id and one.file.path in needed]
    if gone:
        verb = "is" if len(gone) == 1 else "are"
        return f"refuse until {', '.join(gone)} {verb} put back as recorded"
    if is_fruitless(fold.fruitless_epochs):
        return (
            f"refuse without --force: {fold.fruitless_epochs} epochs in a row sent requests and "
            "finished no image"
        )
    return ""
