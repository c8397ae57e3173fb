"""Resume of a run: it is locked, read and inspected, and only then written to."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, groupby
from pathlib import Path

import msgspec
from msgspec import UNSET

from ...events.errors import LogWriteError
from ...events.folds import PROCESS_DIED, Fold
from ...events.log.file_log import FileEventLog
from ...events.log.lock import LOCK_WAIT_S
from ...events.log.storage import Storage
from ...events.model import BackendDescription, ErrorDetail, LogRepaired, RunResumed, RunState
from ..files.recorded_files import FileState, OnFile, find_link
from ..files.run_folder import RunFolder
from ..ports import Clock
from ..run.journal import RunJournal, process_fields
from ..states import Trigger
from .inspection import RunInspection, inspect_run

_DIED = "process died"
_TO_IDLE: dict[RunState, Trigger] = {
    RunState.ERROR: "recover",
    RunState.CANCELLED: "cleanup",
    RunState.COMPLETED: "reset",
}
_SHOWN = 3


def reopen_run(
    folder: Path,
    *,
    force: bool = False,
    storage: Storage | None = None,
    wait_s: float = LOCK_WAIT_S,
    on_file: OnFile | None = None,
) -> ReopenedRun:
    """Take a run's lock, read its log and check its files; nothing is written.

    Raises LogLockedError naming the holder, LogCorruptError, ResumeRefusedError for a run that
    cannot be resumed as it was recorded, or that got nowhere in earlier epochs (unless ``force``),
    ImageAlteredError for an image that cannot be read and an input that is needed and not there,
    LogWriteError where the run's folder cannot be written to.
    """
    fold = Fold()
    storage = storage or Storage()
    run_folder = RunFolder(folder, storage=storage)
    log = FileEventLog.open(folder, storage=storage, observe=fold.apply_all, wait_s=wait_s)
    try:
        # With the lock held: an order to cancel that comes later is meant for this process.
        stale_cancel = run_folder.cancel_stamp()
        timeline = log.timeline()
        found = inspect_run(run_folder, fold, timeline, event_at=log.event_at, on_file=on_file)
        if (refusal := found.refusal(force=force)) is not None:
            raise refusal  # noqa: TRY301 - the log is closed below
    except BaseException:
        log.close()
        raise
    return ReopenedRun(**msgspec.structs.asdict(found), log=log, stale_cancel=stale_cancel)


class ReopenedRun(RunInspection, frozen=True, kw_only=True):
    """A run that can be resumed: inspected with its lock held; nothing has been written yet.

    Close ``log``, unless it was handed on. ``stale_cancel`` is the stamp of an order to cancel
    that was there before the lock was taken.
    """

    log: FileEventLog
    stale_cancel: tuple[int, int] | None

    def begin(self, journal: RunJournal, backend: BackendDescription) -> None:
        """Write the beginning of the new epoch: repair, transitions to IDLE, RunResumed.

        The order is that of the resume protocol, because a process may die after each step.
        ``backend`` is recorded if it is to make images, otherwise the one that made them.
        Raises LogWriteError.
        """
        try:
            self._repair(journal)
            self._return_to_idle(journal)
            # Before RunResumed: this order was meant for the process that held the lock before.
            if self.stale_cancel is not None:
                self.folder.forget_cancel_order(self.stale_cancel)
            # Before RunResumed, which records them as lost: no later resume looks at lost files.
            self._rename_altered()
            self._record_resumed(journal, backend if self.to_make else self.backend)
        except OSError as error:
            path = self.folder.path
            raise LogWriteError(f"the run cannot be resumed: {error}", path=path) from error

    def end(self, clock: Clock) -> None:
        """End a run that is complete: seal its log if that is needed, and close it.

        Raises LogWriteError.
        """
        journal = RunJournal(self.log, self.fold, epoch=self.epoch, clock=clock)
        try:
            if self.needs_seal:
                self._repair(journal)
                journal.record_seal()
        except OSError as error:
            raise LogWriteError(f"it cannot be sealed: {error}", path=self.folder.path) from error
        finally:
            journal.close()

    def _repair(self, journal: RunJournal) -> None:
        """Make the end of the log durable; the first record says what was cut off, if anything."""
        self.log.begin_epoch(self.epoch, self.settings.run.durability)
        cut = self.log.repair(f"{self.log.path.name}.torn-{self.epoch}")
        if cut is not None:
            journal.record(lambda at: LogRepaired(**at, **msgspec.structs.asdict(cut)))

    def _return_to_idle(self, journal: RunJournal) -> None:
        if journal.state == RunState.RUNNING:
            detail = ErrorDetail(kind=PROCESS_DIED, message=_DIED)
            journal.move("fail", _DIED, detail)
        if (trigger := _TO_IDLE.get(journal.state)) is not None:
            journal.move(trigger, self._lost_files())

    def _rename_altered(self) -> None:
        """Give altered images another name: a user may have edited them on purpose."""
        for file, wrong in self.damaged:
            if not file.stage_id or wrong.state is not FileState.ALTERED:
                continue
            path = find_link(self.folder.path, file.path) or (self.folder.path / file.path)
            if _is_there(path):
                self.folder.storage.rename(path, _free_name(path, f"altered-{self.epoch}"))
                self.folder.storage.sync_folder(path.parent)

    def _record_resumed(self, journal: RunJournal, backend: BackendDescription) -> None:
        journal.record(
            lambda at: RunResumed(
                **at,
                completed_images=self.valid,
                backend=backend,
                **process_fields(),
                lost=self._lost() or UNSET,
            )
        )

    def _lost(self) -> dict[str, tuple[tuple[int, int], ...]]:
        """Missing and altered images by stage: the first and the last of indexes in a row."""
        images = (file for file, _ in self.damaged if file.stage_id)
        return {
            stage_id: tuple(_rows([file.image_index for file in files]))
            for stage_id, files in groupby(images, lambda file: file.stage_id)
        }

    def _lost_files(self) -> str:
        """The reason of the transition to IDLE, where files are lost."""
        lost = [file for file, _ in self.damaged if file.stage_id]
        if not lost:
            return ""
        named = ", ".join(
            f"image {file.image_index + 1} of {file.stage_id}" for file in lost[:_SHOWN]
        )
        more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
        kept = f"; altered ones are kept as *.altered-{self.epoch}"
        return f"files missing or altered: {named}{more}{kept}"


def _rows(indexes: list[int]) -> Iterator[tuple[int, int]]:
    # Within a row, the difference between an index and its place in the list is the same.
    for _, row in groupby(enumerate(indexes), lambda one: one[1] - one[0]):
        members = [index for _, index in row]
        yield members[0], members[-1]


def _free_name(file: Path, suffix: str) -> Path:
    """A name that is not taken: a process that died may have used the first one."""
    names = (f"{file.name}.{suffix}{f'-{place}' if place else ''}" for place in count())
    return next(path for path in map(file.with_name, names) if not _is_there(path))


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()
