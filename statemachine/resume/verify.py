"""Whether a run on disk is what its log says: chain, seal, and the digest of every file."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ...events.errors import LogCorruptError
from ...events.folds import Fold
from ...events.log.lock import is_locked, lock_holder
from ...events.log.reader import read_log
from ...events.log.timeline import FileTimeline
from ...events.log.verified_scan import TornTail
from ...events.model import RunState
from ..errors import ResumeRefusedError
from ..files.recorded_files import OnFile
from ..files.run_folder import RunFolder
from .inspection import RunInspection, check_files, inspect_run


class Flaw(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as recorded: ``place`` is a path, or a byte offset in the log."""

    place: str
    what: str


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in a run folder; nothing was written.

    ``images`` of the ``planned_images``, over all stages, are recorded as finished; the files of
    ``removed_images`` of them were removed on purpose. ``running``
    names the process that works on the run, None if none does. ``corrupt`` says that the log is,
    so that nothing may be written to it; ``advice`` what a resume would do, "" where nothing is
    left to do, or nothing can be done.
    """

    run_id: str
    folder: str
    events: int
    images: int
    removed_images: int
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
        """Whether log and files are what was recorded, finished or not."""
        return not self.flaws

    @property
    def finished(self) -> bool:
        """Whether the log is whole and its last epoch closed."""
        return self.sealed and self.torn is None


def verify_run(folder: Path, on_file: OnFile | None = None) -> Verification:
    """Check a run, its log first; ``on_file`` is called after each recorded file.

    Raises RunNotFoundError, OSError. A corrupt log is a flaw of the result, not an error.
    """
    fold = Fold()
    holder = str(lock_holder(folder) or "unknown") if is_locked(folder) else None
    corrupt, torn, advice = False, None, ""
    try:
        timeline = read_log(folder, fold.apply_all)
    except LogCorruptError as error:
        corrupt, events = True, error.seq
        flaws = [Flaw(place=f"byte {error.offset} of {error.path}", what=error.reason)]
    else:
        events = len(timeline)
        flaws, would = _check(folder, fold, timeline, on_file)
        # A process that writes may be within a record: its incomplete tail is not torn.
        if holder is None:
            torn, advice = timeline.torn, would
    return Verification(
        run_id=fold.run_id or folder.name,
        folder=str(folder),
        events=events,
        images=_finished(fold),
        removed_images=sum(len(stage.removed) for stage in fold.stages.values()),
        planned_images=len(fold.planned_stage_ids()) * len(fold.seeds),
        state=fold.state,
        sealed=fold.sealed,
        torn=torn,
        running=holder,
        flaws=tuple(flaws),
        corrupt=corrupt,
        advice=advice,
    )


def _check(
    folder: Path, fold: Fold, timeline: FileTimeline, on_file: OnFile | None
) -> tuple[list[Flaw], str]:
    """What is wrong with a run's files, and what a resume would do."""
    try:
        found = inspect_run(RunFolder(folder), fold, timeline, on_file=on_file)
        damaged, advice = found.damaged, _advice(found)
    except ResumeRefusedError as error:
        damaged, advice = check_files(folder, fold, timeline, on_file), f"refuse: {error}"
    return [Flaw(place=file.path, what=str(wrong)) for file, wrong in damaged], advice


def _finished(fold: Fold) -> int:
    return sum(len(stage.finished) for stage in fold.stages.values())


def _advice(found: RunInspection) -> str:
    """What a resume of the run would do, in the order of the resume protocol."""
    if (refusal := found.refusal()) is not None:
        # Without the run, which is named before the advice.
        return f"refuse: {refusal}".replace(f"{found.fold.run_id}: ", "", 1)
    steps = []
    if found.torn is not None:
        steps.append(f"cut the torn tail ({found.torn.bytes} bytes at {found.torn.offset})")
    if found.fold.state == RunState.RUNNING:
        steps.append('record the failure "process died"')
    if found.to_make:
        remade = _finished(found.fold) - found.valid
        again = "" if not remade else " again" if remade == found.to_make else f" ({remade} again)"
        steps.append(f"make {found.to_make} {'image' if found.to_make == 1 else 'images'}{again}")
    elif not found.is_complete:
        steps.append("bring it to its end")
    if found.needs_seal:
        steps.append("seal the log")
    return ", ".join(steps)
