"""Taking up a run again: locked, read, checked, and only then written to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from msgspec import UNSET

from ..events.errors import LogWriteError
from ..events.file_log import FileEventLog, RepairedTail
from ..events.folding import Fold
from ..events.lock import LOCK_WAIT_S, boot_id, host_name
from ..events.model import (
    BackendDescription,
    ErrorDetail,
    LogRepaired,
    RunResumed,
    RunState,
    StageType,
)
from ..events.storage import Storage
from .config import RunTable, ServerTable
from .damage import check_inputs, find_damage
from .errors import ResumeRefusedError
from .file_checking import OnFile
from .recorded_plan import recorded_plan, recorded_table
from .run.creation import software
from .run.journal import RunJournal
from .run_folder import RunFolder
from .standing import Standing
from .states import is_fruitless

PROCESS_DIED = "process died"
_SHOWN = 3
_LAST_EPOCH = 2**31
"""No run is resumed so often; beyond 2**53 numbers are not what they seem."""


class ReopenedRun:
    """A run whose log is open and whose files have been checked; nothing has been written yet.

    ``epoch`` is the one that a resume would write, ``makes_images`` whether it would make any.
    ``close`` it, unless it was handed on.
    """

    def __init__(
        self, folder: RunFolder, log: FileEventLog, fold: Fold, on_file: OnFile | None = None
    ) -> None:
        assert fold.opened is not None
        self.folder = folder
        self.log = log
        # The lock is held by now: whatever order comes later is meant for us.
        self._left_over = folder.cancel_stamp()
        self.fold = fold
        self.epoch = _next_epoch(fold)
        self.backend = fold.backend or fold.opened.backend
        self.plan = recorded_plan(fold)
        self.run_table = recorded_table(fold.opened.config, "run", RunTable)
        self.server_table = recorded_table(fold.opened.config, "server", ServerTable)
        timeline = log.timeline()
        self._damage = find_damage(folder.path, self.plan, fold, timeline, on_file)
        self.standing = Standing(self.plan, fold, log, self._damage)
        self.makes_images = bool(self.standing.missing())
        self._is_complete = fold.state == RunState.COMPLETED and not self.makes_images

    @property
    def needs_work(self) -> bool:
        """Whether there is anything to be made or to be ended properly."""
        return not self._is_complete

    @property
    def needs_seal(self) -> bool:
        """Whether all is made, and only the log's end is missing."""
        return self._is_complete and (not self.fold.sealed or self.log.torn is not None)

    @property
    def unsettled(self) -> Mapping[str, StageType]:
        """The calls whose answers nobody got, and what was asked for."""
        return {
            call_id: stage.stage_type
            for stage in self.fold.stages.values()
            for calls in stage.unsettled.values()
            for call_id in calls
        }

    def refuse_if_useless(self, *, force: bool) -> None:
        """Raise ResumeRefusedError where experience speaks against it, or a needed input is gone.

        Raises ImageAlteredError for such an input.
        """
        name = self.fold.run_id
        if self.plan.conflicts:
            said = "; ".join(str(conflict) for conflict in self.plan.conflicts)
            raise ResumeRefusedError(f"{name}: its configuration contradicts itself: {said}")
        if not self.makes_images:
            return
        fruitless = self.fold.fruitless_epochs
        if is_fruitless(fruitless) and not force:
            raise ResumeRefusedError(
                f"{name}: {fruitless} epochs in a row sent requests and finished no image"
                f"{self._last_words()}; --force tries again"
            )
        check_inputs(self.folder.path, self.plan, self.fold, self.standing)

    def take_up(self, journal: RunJournal, backend: BackendDescription) -> None:
        """Write the beginning of the new epoch: repair, the way to IDLE, RunResumed.

        ``backend`` is what the images will be made with; where none are, what it was so far
        is recorded. Raises LogWriteError.
        """
        try:
            self._begin(journal)
            if journal.state == RunState.RUNNING:
                detail = ErrorDetail(kind="ProcessDied", message=PROCESS_DIED)
                journal.move("fail", PROCESS_DIED, detail)
            if journal.state == RunState.ERROR:
                journal.move("recover", self._damage_in_words())
            elif journal.state == RunState.CANCELLED:
                journal.move("cleanup", self._damage_in_words())
            elif journal.state == RunState.COMPLETED:
                journal.move("reset", self._damage_in_words())
            if self._left_over is not None:
                self.folder.forget_cancel_order(self._left_over)
            # Once RunResumed has told that they are lost, nobody looks at these files again.
            self._set_aside()
            self._record_resumed(journal, backend if self.makes_images else self.backend)
        except OSError as error:
            path = self.folder.path
            raise LogWriteError(f"the run cannot be resumed: {error}", path=path) from error

    def seal(self, journal: RunJournal) -> None:
        """Close the log of a run whose images are all there. Raises LogWriteError."""
        try:
            self._begin(journal)
        except OSError as error:
            raise LogWriteError(f"it cannot be sealed: {error}", path=self.folder.path) from error
        journal.record_seal()

    def close(self) -> None:
        """Give the lock back."""
        self.log.close()

    def _begin(self, journal: RunJournal) -> None:
        """The first record of an epoch says what was cut before it, if anything was."""
        self.log.begin_epoch(self.epoch, self.run_table.durability)
        copy_name = f"{self.log.path.name}.torn-{self.epoch}"
        cut = self.log.repair(copy_name)
        if cut is not None:
            _record_repair(journal, cut)

    def _record_resumed(self, journal: RunJournal, backend: BackendDescription) -> None:
        completed = sum(map(self.standing.count, self.plan.stages))
        journal.record(
            lambda at: RunResumed(
                **at,
                completed_images=completed,
                backend=backend,
                software=software(),
                host=host_name(),
                boot_id=boot_id(),
                pid=os.getpid(),
                lost=self._damage.rows() or UNSET,
            )
        )

    def _set_aside(self) -> None:
        """Give altered files another name: what stands in their place may be somebody's work."""
        storage = self.folder.storage
        for path in self._damage.altered:
            file = _first_link(self.folder.path, path) or self.folder.locate(path)
            if _is_there(file):
                storage.rename(file, _free_name(file, f"altered-{self.epoch}"))
                storage.sync_folder(file.parent)

    def _damage_in_words(self) -> str:
        lost = sum(map(len, self._damage.lost.values()))
        if not lost:
            return ""
        named = [f"image {index} of {stage_id}" for stage_id in self._damage.lost
                 for index in sorted(self._damage.lost[stage_id])]  # fmt: skip
        more = f" and {lost - _SHOWN} more" if lost > _SHOWN else ""
        kept = f"; altered ones are kept as *.altered-{self.epoch}" if self._damage.altered else ""
        return f"files missing or altered: {', '.join(named[:_SHOWN])}{more}{kept}"

    def _last_words(self) -> str:
        stages = self.fold.stages.values()
        failures = [error for stage in stages for error in stage.failures.values()]
        if not failures:
            return ""
        return f" (the last failure: {failures[-1].kind}: {failures[-1].message})"


def reopen_run(
    folder: Path,
    *,
    storage: Storage | None = None,
    wait_s: float = LOCK_WAIT_S,
    on_file: OnFile | None = None,
) -> ReopenedRun:
    """Take a run's lock, read its log and check its files; nothing is written.

    Raises LogLockedError naming the holder, LogCorruptError, ResumeRefusedError for a plan
    that this version cannot carry out as it was recorded, ImageAlteredError for an image that
    cannot be read, LogWriteError where the run's folder cannot be written to.
    """
    fold = Fold()
    log = FileEventLog.open(folder, storage=storage, observe=fold.apply_all, wait_s=wait_s)
    try:
        return ReopenedRun(RunFolder(folder, storage=storage), log, fold, on_file)
    except BaseException:
        log.close()
        raise


def _next_epoch(fold: Fold) -> int:
    """Raises ResumeRefusedError where it could not be told from others any more."""
    if fold.epoch >= _LAST_EPOCH:
        raise ResumeRefusedError(f"{fold.run_id}: its log says epoch {fold.epoch}: it is forged")
    return fold.epoch + 1


def _record_repair(journal: RunJournal, cut: RepairedTail) -> None:
    journal.record(
        lambda at: LogRepaired(
            **at, offset=cut.offset, bytes=cut.bytes, sha256=cut.sha256, copied_to=cut.copied_to
        )
    )


def _free_name(file: Path, suffix: str) -> Path:
    """A name that nothing bears: a process that died may have used the first one."""
    names = (f"{file.name}.{suffix}{f'-{place}' if place else ''}" for place in count())
    return next(path for path in map(file.with_name, names) if not _is_there(path))


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _first_link(folder: Path, path: str) -> Path | None:
    """The first part of a recorded path in whose place a link stands."""
    here = folder
    for part in path.split("/"):
        here = here / part
        if here.is_symlink():
            return here
    return None
