"""Updates the file of records from the logs, reading only logs that have changed."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import merge
from operator import attrgetter
from pathlib import Path

import msgspec

from ....events.errors import LogCorruptError, RunNotFoundError
from ....events.log.file_log import LOG_NAME
from ....events.log.storage import Storage
from ....statemachine.files.run_folder import is_run_id
from .projection import read_learning_record, still_ends_with
from .record_builder import UnusableLogError
from .record_file import FileStamp, RecordFile, RecordLine
from .records import LEARNING_NAME
from .unrecorded_file import UnrecordedFile, UnrecordedRun

BATCH_BYTES = 8 * 1024 * 1024
"""New lines are written once they have this size in total."""
BATCH_S = 1.0
"""New lines are written after this time at the latest, because the process may die."""
PAUSE_PER_WRITE = 10
"""Pause between writes as a multiple of their duration, so that writing stays a small share."""

_UNKNOWN = FileStamp(0, 0, 0, 0)
"""The stamp of a log whose status cannot be read."""
_logger = logging.getLogger("stagewright.learning")


class LearningUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an update.

    The file holds ``records`` of ``runs`` runs; ``made`` were added or replaced and ``removed``
    were removed. ``unreadable`` are the folders whose logs are corrupt or unusable.
    """

    path: str
    runs: int
    records: int
    made: int
    removed: int
    unreadable: tuple[str, ...]


class _WriteBatch:
    """Lines not yet written; written after max(``after_s``, BATCH_S) seconds.

    ``made`` are new lines by folder, ``gone`` the folders whose records are to be removed.
    """

    def __init__(self, gone: set[str], after_s: float = 0.0) -> None:
        self.made: dict[str, RecordLine] = {}
        self.gone = gone
        self._size = 0
        self._due_at = time.monotonic() + max(BATCH_S, after_s)

    def add(self, line: RecordLine) -> None:
        """Add a line."""
        self.made[line.folder] = line
        self._size += len(line.data)

    def is_due(self) -> bool:
        """Whether the batch is to be written now."""
        return self._size >= BATCH_BYTES or time.monotonic() >= self._due_at


class RecordUpdater:
    """Remembers which state of the logs the file reflects; the caller holds the lock.

    For each run it keeps the stamp of its log and the head of its record, not the record.
    """

    def __init__(self, runs: Path, storage: Storage) -> None:
        self._runs = runs
        self._file = RecordFile(runs / LEARNING_NAME, storage)
        self._unrecorded = UnrecordedFile(runs, storage)
        self._is_known = False
        self._file_stamp: FileStamp | None = None
        self._stamps: dict[str, FileStamp] = {}
        self._heads: dict[str, str] = {}
        self._unreadable: set[str] = set()

    def update(self, is_over: Callable[[], bool] = lambda: False) -> LearningUpdate:
        """Make missing and outdated records, and remove those without a run.

        Records are written in batches, so an interrupted update loses little. Once ``is_over``
        no further log is read; raises TimeoutError then, unless all are done. Raises OSError;
        the next update continues.
        """
        if not self._is_known or self._file.stamp() != self._file_stamp:
            self._load()
        self._is_known = False  # until all that follows has succeeded
        logs = _logs(self._runs)
        batch = _WriteBatch(gone=self._heads.keys() - logs.keys())
        made = removed = left = 0
        for folder in self._changed(logs):
            if is_over():
                left += 1
                continue
            self._check(folder, logs[folder], batch)
            if batch.is_due():
                made, removed = made + len(batch.made), removed + len(batch.gone)
                batch = self._written(batch)
        made, removed = made + len(batch.made), removed + len(batch.gone)
        self._written(batch)
        if left:
            raise TimeoutError(f"the process is ending with {left} logs unread")
        return self._done(logs, made=made, removed=removed)

    def rebuild(self) -> LearningUpdate:
        """Read all logs and replace the file. Raises OSError; the file is unchanged then."""
        self._reset()
        self._unrecorded.load()
        logs = _logs(self._runs)
        lines = (self._line_of(folder, stamp) for folder, stamp in logs.items())
        self._file.replace(self._noted(line for line in lines if line))
        self._note_unrecorded()
        return self._done(logs, made=len(self._heads), removed=0)

    def _reset(self) -> None:
        self._is_known = False
        self._stamps, self._heads, self._unreadable = {}, {}, set()

    def _load(self) -> None:
        """Load the state from the files."""
        self._reset()
        self._heads = {line.folder: line.log_head for line in self._file.lines()}
        for folder, run in self._unrecorded.load().items():
            if folder not in self._heads:  # otherwise the record counts
                self._stamps[folder] = run.stamp
                if run.is_unreadable:
                    self._unreadable.add(folder)

    def _done(self, logs: Mapping[str, FileStamp], *, made: int, removed: int) -> LearningUpdate:
        self._file_stamp = self._file.stamp()
        self._is_known = True
        return LearningUpdate(
            path=str(self._file.path),
            runs=len(logs),
            records=len(self._heads),
            made=made,
            removed=removed,
            unreadable=tuple(map(_shown, sorted(self._unreadable))),
        )

    def _changed(self, logs: Mapping[str, FileStamp]) -> Iterator[str]:
        """The folders whose logs have to be read, in order."""
        for folder in self._stamps.keys() - logs.keys():
            del self._stamps[folder]
        self._unreadable &= logs.keys()
        for folder, stamp in logs.items():
            if self._stamps.get(folder) == stamp:
                continue
            head = self._heads.get(folder)
            if head is not None and self._log_is_unchanged(folder, head):
                self._stamps[folder] = stamp
            else:
                yield folder

    def _check(self, folder: str, stamp: FileStamp, batch: _WriteBatch) -> None:
        """Read a log and add its changes to the batch."""
        line = self._line_of(folder, stamp)
        head = self._heads.get(folder)
        if line is not None and line.log_head != head:
            batch.add(line)
        elif line is None and head is not None:
            batch.gone.add(folder)

    def _written(self, batch: _WriteBatch) -> _WriteBatch:
        """Write a batch and the runs without records; returns a new, empty batch."""
        began = time.monotonic()
        if batch.made or batch.gone or not self._file.is_clean:
            self._write(batch)
        self._note_unrecorded()
        return _WriteBatch(gone=set(), after_s=PAUSE_PER_WRITE * (time.monotonic() - began))

    def _write(self, batch: _WriteBatch) -> None:
        made = batch.made
        for folder in batch.gone:
            del self._heads[folder]
        is_behind = made and self._heads and not batch.gone and min(made) > max(self._heads)
        new = [made[folder] for folder in sorted(made)]
        if is_behind and self._file.is_clean:
            self._file.append(self._noted(new))
            return
        kept = self._heads.keys() - made.keys()
        old = (line for line in self._file.lines() if line.folder in kept)
        self._file.replace(self._noted(merge(old, new, key=attrgetter("folder"))))

    def _noted(self, lines: Iterable[RecordLine]) -> Iterator[bytes]:
        """The bytes of lines as they are written; remembers the head of each."""
        for line in lines:
            self._heads[line.folder] = line.log_head
            yield line.data

    def _note_unrecorded(self) -> None:
        """Save which logs have no record. Always after the records themselves."""
        self._unrecorded.save(
            {
                folder: UnrecordedRun(stamp, folder in self._unreadable)
                for folder, stamp in self._stamps.items()
                if folder not in self._heads
            }
        )

    def _line_of(self, folder: str, stamp: FileStamp) -> RecordLine | None:
        """The line of a run; None if it has not ended, is opted out, or cannot be read."""
        self._stamps[folder] = stamp
        self._unreadable.discard(folder)
        try:
            record = read_learning_record(self._runs / folder)
            if record is None:
                return None
            return RecordLine(folder, record.log_head, msgspec.json.encode(record) + b"\n")
        except RunNotFoundError:
            del self._stamps[folder]  # the folder was deleted or moved just now
            return None
        except (LogCorruptError, UnusableLogError, UnicodeEncodeError) as error:
            _logger.info("run %s gets no learning record: %s", folder, error)
        except OSError as error:
            del self._stamps[folder]  # the next update tries again
            _logger.warning("run %s gets no learning record: %s", folder, error)
        self._unreadable.add(folder)
        return None

    def _log_is_unchanged(self, folder: str, log_head: str) -> bool:
        try:
            return still_ends_with(f"{self._runs}/{folder}/{LOG_NAME}", log_head)
        except OSError:
            return False  # reading the whole log decides


def _logs(runs: Path) -> dict[str, FileStamp]:
    """The stamp of the log in each run folder, ordered by the folder's name."""
    found = {}
    try:
        folders = list(os.scandir(runs))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    # Plain strings: pathlib takes longer than the disk access.
    for folder in sorted(folders, key=attrgetter("name")):
        try:
            status = os.stat(f"{folder.path}/{LOG_NAME}")  # noqa: PTH116 - see above
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            if is_run_id(folder.name):
                found[folder.name] = _UNKNOWN  # reading it reports why
            continue
        if stat.S_ISREG(status.st_mode):
            found[folder.name] = FileStamp.of(status)
    return found


def _shown(folder: str) -> str:
    """A folder's name as valid text; names may hold any bytes."""
    return folder.encode("utf-8", "backslashreplace").decode()


def empty_update(runs: Path) -> LearningUpdate:
    """The result of an update without a folder of runs."""
    path = str(runs / LEARNING_NAME)
    return LearningUpdate(path=path, runs=0, records=0, made=0, removed=0, unreadable=())
