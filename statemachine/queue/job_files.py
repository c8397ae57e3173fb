"""The files of jobs: copies of what their configurations name, and the locks of workers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from ...events.errors import LogLockedError, LogWriteError
from ...events.log.lock import FileLock, is_locked
from ...events.log.storage import Storage
from ..groups.found_files import FileCopies, FoundFiles

QUEUE_FOLDER = "queue"
"""The folder beside the runs that holds the files and locks of jobs."""


class JobFiles:
    """The files of the jobs of one queue, below ``runs/queue``."""

    def __init__(self, runs: Path, storage: Storage) -> None:
        self._place = runs / QUEUE_FOLDER
        self._storage = storage

    def folder(self, job_id: str) -> Path:
        """Where the copies of a job are."""
        return self._place / job_id

    def copy(self, job_id: str, found: Iterable[FoundFiles]) -> tuple[dict[str, object], ...]:
        """Copy what a job names, durably; what JobAdded records of it.

        Nothing is made for a job without files. Raises InputImageError, LogWriteError.
        """
        folder = self.folder(job_id)
        copies = FileCopies(folder, self._storage)
        try:
            return tuple(msgspec.to_builtins(copies.copy(one)) for one in found)
        except BaseException as error:
            self.remove(job_id)
            if isinstance(error, OSError):
                message = f"the files of the job cannot be copied: {error}"
                raise LogWriteError(message, path=folder) from error
            raise

    def remove(self, job_id: str) -> None:
        """Remove the copies of a job, which is over; what cannot be removed stays."""
        if self.folder(job_id).is_dir():
            self._storage.remove_tree(self.folder(job_id))

    def take_lock(self, job_id: str) -> FileLock | None:
        """The lock of a job's worker; None where another process holds it.

        Only with the queue's lock held. Raises LogWriteError.
        """
        try:
            self._storage.make_folder(self._place)
            return FileLock(self._place, _lock_name(job_id), noun="job", wait_s=0.0)
        except LogLockedError:
            return None
        except OSError as error:
            message = f"the lock of job {job_id} cannot be taken: {error}"
            raise LogWriteError(message, path=self._place) from error

    def drop_lock(self, job_id: str, lock: FileLock) -> None:
        """Give a lock back and remove its file. Only with the queue's lock held.

        Every process that takes a job's lock holds that of the queue, so none can hold the lock
        of a file that is gone.
        """
        lock.release()
        # A reader may look at the file just now, which keeps it on Windows: it does no harm.
        with contextlib.suppress(OSError):
            self._storage.remove(self._place / _lock_name(job_id), durable=False)

    def is_held(self, job_id: str) -> bool:
        """Whether some worker lives that works on a job."""
        return is_locked(self._place, _lock_name(job_id))


def _lock_name(job_id: str) -> str:
    return f"{job_id}.lock"
