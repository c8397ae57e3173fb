"""The log of a run on disk."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from ..model import Durability, RunOpened, StageEvent
from .kind import RUN_LOG
from .lock import LOCK_WAIT_S, FileLock
from .open_log_registry import register_log, unregister_log
from .record_file import RecordFile
from .storage import Storage
from .timeline import FileTimeline, with_files


class FileEventLog(RecordFile[StageEvent]):
    """The log of one run folder, held by ``run.lock`` until ``close``; see ``RecordFile``."""

    @classmethod
    def create(
        cls,
        folder: Path,
        opened: RunOpened,
        *,
        storage: Storage | None = None,
        durability: Durability = Durability.CHECKPOINT,
        lock: FileLock | None = None,
    ) -> FileEventLog:
        """Begin the log of ``folder``, which appears with ``opened`` whole and synced in it.

        Takes the run's lock unless it is handed in. Raises LogLockedError, LogWriteError.
        """
        log = cls.create_of(
            RUN_LOG, folder, opened, storage=storage, durability=durability, lock=lock
        )
        register_log(log)
        return log

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        storage: Storage | None = None,
        durability: Durability = Durability.CHECKPOINT,
        observe: Callable[[Sequence[StageEvent]], None] = lambda _events: None,
        wait_s: float = LOCK_WAIT_S,
    ) -> FileEventLog:
        """Take an existing log to go on with it; ``observe`` is given its events, in batches.

        A torn tail must be repaired before the first append. Raises LogLockedError,
        LogCorruptError, and LogWriteError where the folder cannot be written to.
        """
        log = cls.open_of(
            RUN_LOG,
            folder,
            storage=storage,
            durability=durability,
            observe=observe,
            wait_s=wait_s,
        )
        register_log(log)
        return log

    @property
    def run_id(self) -> str:
        return self.owner

    @cached_property
    def _folder(self) -> Path:
        return self.path.parent.absolute()

    def append(self, event: StageEvent) -> None:
        super().append(event)
        with_files(event, self._folder)

    def event_at(self, seq: int) -> StageEvent:
        return FileTimeline(self.path, self._offsets, self.size, storage=self._storage)[seq]

    def timeline(self) -> FileTimeline:
        offsets = array("Q", self._offsets)
        return FileTimeline(self.path, offsets, self.size, torn=self.torn, storage=self._storage)

    def close(self) -> None:
        """Give the descriptor and the lock back; closing twice is fine."""
        unregister_log(self)
        super().close()
