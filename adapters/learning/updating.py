"""Brings the file of records up to date with the logs, with as little work as will do."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from heapq import merge
from operator import attrgetter
from pathlib import Path

import msgspec

from ...events.errors import LogCorruptError, RunNotFoundError
from ...events.file_log import LOG_NAME
from ...events.storage import Storage
from .making import UnusableLogError
from .projection import read_learning_record, still_ends_with
from .record_file import FileStamp, RecordFile, RecordLine
from .records import LEARNING_NAME

HELD_BYTES = 8 * 1024 * 1024
"""New lines up to this size in all are held between their making and their writing."""

_logger = logging.getLogger("stagewright.learning")


class LearningUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """What bringing the records up to date came to.

    ``records`` of ``runs`` runs are in the file; ``made`` of them were made or made anew and
    ``removed`` taken out. ``unreadable`` are the folders whose logs are corrupt, or say what no
    record can hold.
    """

    path: str
    runs: int
    records: int
    made: int
    removed: int
    unreadable: tuple[str, ...]


class RecordUpdater:
    """Knows which state of the logs the file stands for; whoever calls it holds the lock.

    Of each run it keeps the stamp of its log and the head of its record, and no record.
    """

    def __init__(self, runs: Path, storage: Storage) -> None:
        self._runs = runs
        self._file = RecordFile(runs / LEARNING_NAME, storage)
        self._is_known = False
        self._file_stamp: FileStamp | None = None
        self._stamps: dict[str, FileStamp] = {}
        self._heads: dict[str, str] = {}
        self._unreadable: set[str] = set()

    def update(self) -> LearningUpdate:
        """Make the records that are missing or old, and take out those without a run.

        Raises OSError; nothing is lost then, and the next update makes it good.
        """
        is_known = self._is_known and self._file.stamp() == self._file_stamp
        if not is_known:
            self._forget()
            self._heads = {line.folder: line.log_head for line in self._file.lines()}
            if not self._heads:
                return self.rebuild()
        self._is_known = False  # until all that follows has succeeded
        logs = _logs(self._runs)
        made, gone = self._changes(logs)
        if made or gone or not self._file.is_clean:
            self._write(made, gone, logs)
        return self._done(logs, made=len(made), removed=len(gone))

    def rebuild(self) -> LearningUpdate:
        """Make every record anew. Raises OSError; the file is as it was then."""
        self._forget()
        logs = _logs(self._runs)
        self._file.replace(self._noted(self._lines(dict.fromkeys(logs), logs)))
        return self._done(logs, made=len(self._heads), removed=0)

    def _forget(self) -> None:
        self._is_known = False
        self._stamps, self._heads, self._unreadable = {}, {}, set()

    def _done(self, logs: Mapping[str, FileStamp], *, made: int, removed: int) -> LearningUpdate:
        for folder in self._stamps.keys() - logs.keys():
            del self._stamps[folder]
        self._unreadable &= logs.keys()
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

    def _changes(
        self, logs: Mapping[str, FileStamp]
    ) -> tuple[dict[str, RecordLine | None], set[str]]:
        """By folder, the lines that are new, None where there are too many to hold; those to go."""
        made: dict[str, RecordLine | None] = {}
        gone = self._heads.keys() - logs.keys()
        held = 0
        for folder, stamp in logs.items():
            if self._stamps.get(folder) == stamp:
                continue
            head = self._heads.get(folder)
            if head is not None and self._still_stands(folder, head):
                self._stamps[folder] = stamp
                continue
            line = self._line_of(folder, stamp)
            if line is None:
                gone |= {folder} & self._heads.keys()
            elif line.log_head != head:
                held += len(line.data)
                made[folder] = line if held <= HELD_BYTES else None
        return made, gone

    def _write(
        self,
        made: Mapping[str, RecordLine | None],
        gone: set[str],
        logs: Mapping[str, FileStamp],
    ) -> None:
        for folder in gone:
            del self._heads[folder]
        new = self._lines(made, logs)
        is_behind = made and self._heads and not gone and min(made) > max(self._heads)
        if is_behind and self._file.is_clean:
            self._file.append(self._noted(new))
            return
        kept = self._heads.keys() - made.keys()
        old = (line for line in self._file.lines() if line.folder in kept)
        self._file.replace(self._noted(merge(old, new, key=attrgetter("folder"))))

    def _lines(
        self, made: Mapping[str, RecordLine | None], logs: Mapping[str, FileStamp]
    ) -> Iterator[RecordLine]:
        """The new lines by folder; those that are not held are made now."""
        for folder in sorted(made):
            line = made[folder] or self._line_of(folder, logs[folder])
            if line is None:  # its log has changed, or gone, since it was looked at
                self._heads.pop(folder, None)
            else:
                yield line

    def _noted(self, lines: Iterable[RecordLine]) -> Iterator[bytes]:
        """The bytes of lines that are being written; what they are of is kept in mind."""
        for line in lines:
            self._heads[line.folder] = line.log_head
            yield line.data

    def _line_of(self, folder: str, stamp: FileStamp) -> RecordLine | None:
        """The line of a run; None where it can have none, or is to have none."""
        self._stamps[folder] = stamp
        self._unreadable.discard(folder)
        try:
            record = read_learning_record(self._runs / folder)
            if record is None:
                return None
            return RecordLine(folder, record.log_head, msgspec.json.encode(record) + b"\n")
        except RunNotFoundError:
            return None  # it was deleted in this moment
        except (LogCorruptError, UnusableLogError, UnicodeEncodeError) as error:
            _logger.info("run %s gets no learning record: %s", folder, error)
        except OSError as error:
            del self._stamps[folder]  # the next update tries again
            _logger.warning("run %s gets no learning record: %s", folder, error)
        self._unreadable.add(folder)
        return None

    def _still_stands(self, folder: str, log_head: str) -> bool:
        try:
            return still_ends_with(f"{self._runs}/{folder}/{LOG_NAME}", log_head)
        except OSError:
            return False  # reading it whole will tell


def _logs(runs: Path) -> dict[str, FileStamp]:
    """The state of the log in each run folder, by the folder's name, in order."""
    found = {}
    try:
        folders = list(os.scandir(runs))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    # Text for paths: pathlib takes longer than the disk.
    for folder in sorted(folders, key=attrgetter("name")):
        try:
            status = os.stat(f"{folder.path}/{LOG_NAME}")  # noqa: PTH116 - see above
        except OSError:
            continue  # no run, or none that anybody here may look at
        if stat.S_ISREG(status.st_mode):
            found[folder.name] = FileStamp.of(status)
    return found


def _shown(folder: str) -> str:
    """A folder's name as text that can be written; names may hold any bytes."""
    return folder.encode("utf-8", "backslashreplace").decode()


def nothing_there(runs: Path) -> LearningUpdate:
    """What an update comes to where there is no folder of runs."""
    path = str(runs / LEARNING_NAME)
    return LearningUpdate(path=path, runs=0, records=0, made=0, removed=0, unreadable=())
