"""Resume of a run: it is locked, read and inspected, and only then written to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count, groupby
from pathlib import Path

import msgspec
from msgspec import UNSET

from ...events.errors import LogWriteError
from ...events.folds import Fold
from ...events.log.file_log import FileEventLog
from ...events.log.lock import LOCK_WAIT_S, boot_id, host_name
from ...events.log.storage import Storage
from ...events.model import BackendDescription, ErrorDetail, LogRepaired, RunResumed, RunState
from ..files.recorded_files import FileState, OnFile, find_link
from ..files.run_folder import RunFolder
from ..run.creation import software
from ..run.journal import RunJournal
from .inspection import RunInspection, inspect_run

PROCESS_DIED = "process died"
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
    run_folder = RunFolder(folder, storage=storage)
    log = FileEventLog.open(folder, storage=storage, observe=fold.apply_all, wait_s=wait_s)
    try:
        # With the lock held: a cancel that is ordered from here on is meant for this process.
        stale_cancel = run_folder.cancel_stamp()
        timeline = log.timeline()
        found = inspect_run(run_folder, fold, timeline, event_at=log.event_at, on_file=on_file)
        refusal = found.refusal(force=force)
    except BaseException:
        log.close()
        raise
    if refusal is not None:
        log.close()
        raise refusal.error
    return ReopenedRun(**msgspec.structs.asdict(found), log=log, stale_cancel=stale_cancel)


class ReopenedRun(RunInspection, frozen=True, kw_only=True):
    """A run that can be resumed: inspected with its lock held; nothing has been written yet.

    Close ``log``, unless it was handed on. ``stale_cancel`` is the stamp of an order to cancel
    that was there before the lock was taken.
    """

    log: FileEventLog
    stale_cancel: tuple[int, int] | None

    def begin(self, journal: RunJournal, backend: BackendDescription) -> None:
        """Write the beginning of the new epoch: repair, the way to IDLE, RunResumed.

        The order is that of the resume protocol; a process may die behind each of its steps.
        ``backend`` is what the images will be made with; where none are, what it was so far
        is recorded. Raises LogWriteError.
        """
        try:
            self._repair(journal)
            self._return_to_idle(journal)
            if self.stale_cancel is not None:
                self.folder.forget_cancel_order(self.stale_cancel)
            # Before RunResumed: once that says that they are lost, no resume looks at these files.
            self._rename_altered()
            self._record_resumed(journal, backend if self.to_make else self.backend)
        except OSError as error:
            path = self.folder.path
            raise LogWriteError(f"the run cannot be resumed: {error}", path=path) from error

    def seal(self, journal: RunJournal) -> None:
        """Close the log of a run that is complete, if it is not closed. Raises LogWriteError."""
        if not self.needs_seal:
            return
        try:
            self._repair(journal)
        except OSError as error:
            raise LogWriteError(f"it cannot be sealed: {error}", path=self.folder.path) from error
        journal.record_seal()

    def _repair(self, journal: RunJournal) -> None:
        """Make the end of the log durable; the first record says what was cut off, if anything."""
        self.log.begin_epoch(self.epoch, self.run_table.durability)
        cut = self.log.repair(f"{self.log.path.name}.torn-{self.epoch}")
        if cut is not None:
            journal.record(lambda at: LogRepaired(**at, **msgspec.structs.asdict(cut)))

    def _return_to_idle(self, journal: RunJournal) -> None:
        if journal.state == RunState.RUNNING:
            detail = ErrorDetail(kind="ProcessDied", message=PROCESS_DIED)
            journal.move("fail", PROCESS_DIED, detail)
        if journal.state == RunState.ERROR:
            journal.move("recover", self._damage_in_words())
        elif journal.state == RunState.CANCELLED:
            journal.move("cleanup", self._damage_in_words())
        elif journal.state == RunState.COMPLETED:
            journal.move("reset", self._damage_in_words())

    def _rename_altered(self) -> None:
        """Give altered images another name: what stands in their place may be somebody's work."""
        storage = self.folder.storage
        for file, wrong in self.damaged:
            if not file.stage_id or wrong.state is not FileState.ALTERED:
                continue
            path = find_link(self.folder.path, file.path) or self.folder.locate(file.path)
            if _is_there(path):
                storage.rename(path, _free_name(path, f"altered-{self.epoch}"))
                storage.sync_folder(path.parent)

    def _record_resumed(self, journal: RunJournal, backend: BackendDescription) -> None:
        journal.record(
            lambda at: RunResumed(
                **at,
                completed_images=self.valid,
                backend=backend,
                software=software(),
                host=host_name(),
                boot_id=boot_id(),
                pid=os.getpid(),
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

    def _damage_in_words(self) -> str:
        lost = [one for one in self.damaged if one.file.stage_id]
        if not lost:
            return ""
        shown = (file for file, _ in lost[:_SHOWN])
        named = ", ".join(f"image {file.image_index + 1} of {file.stage_id}" for file in shown)
        more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
        altered = any(wrong.state is FileState.ALTERED for _, wrong in lost)
        kept = f"; altered ones are kept as *.altered-{self.epoch}" if altered else ""
        return f"files missing or altered: {named}{more}{kept}"


def _rows(indexes: list[int]) -> Iterator[tuple[int, int]]:
    # In a row of indexes each is as far from its place in the list as the next.
    for _, row in groupby(enumerate(indexes), lambda one: one[1] - one[0]):
        members = [index for _, index in row]
        yield members[0], members[-1]


def _free_name(file: Path, suffix: str) -> Path:
    """A name that nothing bears: a process that died may have used the first one."""
    names = (f"{file.name}.{suffix}{f'-{place}' if place else ''}" for place in count())
    return next(path for path in map(file.with_name, names) if not _is_there(path))


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()
