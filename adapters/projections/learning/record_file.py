"""The file of records: one line of JSON for each run that has ended, made of the logs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

import msgspec

from ....events.codec import DECODE_ERRORS, encode_line
from ....events.errors import LogCorruptError, RunNotFoundError
from ....events.log.storage import PART_SUFFIX, AppendFile, Storage, open_regular
from ....events.ratings.log import Ratings
from ....statemachine.files.run_folder import run_folders
from ..rating_text import shown_ratings
from .projection import read_learning_record
from .records import LEARNING_NAME, SCHEMA_VERSION

LOCK_NAME = "learning.lock"
NO_RECORD = (
    LogCorruptError,
    RunNotFoundError,
    OSError,
    ValueError,
    OverflowError,
    RecursionError,
)
"""Why a run gets no record: its log is gone or damaged, or holds what a record cannot hold."""
_logger = logging.getLogger("stagewright.learning")


class LearningUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a rebuild.

    The file holds ``records`` of ``runs`` runs. Compared with the file before, ``made`` are new
    or replaced and ``removed`` are gone. ``unreadable`` are the folders whose logs are corrupt,
    cannot be read, or hold what a record cannot hold.
    """

    path: str
    runs: int = 0
    records: int = 0
    made: int = 0
    removed: int = 0
    unreadable: tuple[str, ...] = ()


class RecordFile:
    """``learning.jsonl`` in a folder of runs.

    Its writers hold the lock on ``learning.lock``; both methods wait ``wait_s`` for it.
    """

    def __init__(self, runs: Path, storage: Storage) -> None:
        self.path = runs / LEARNING_NAME
        self._runs = runs
        self._storage = storage

    def add(self, run: Path, *, wait_s: float) -> None:
        """Append the record of a run, or replace its earlier record.

        A file that is missing or damaged is rebuilt instead. Raises OSError, and what
        ``read_learning_record`` raises.
        """
        with self._lock(wait_s):
            record = read_learning_record(run, shown_ratings(self._runs))
            if record is None:
                return
            heads = self._heads()
            line = encode_line(record) + b"\n"
            if heads is None:
                self._rebuild()
            elif record.folder not in heads:
                self._append(line)
            elif heads[record.folder] != record.log_head:
                self._replace(
                    line if _decoder.decode(old).folder == record.folder else old
                    for old in self._lines()
                )

    def renew(self, sources: Set[str], *, wait_s: float) -> None:
        """Make the records anew that have an image whose source has one of these digests.

        A file that is missing or damaged is left to the next rebuild. Raises OSError.
        """
        with self._lock(wait_s):
            if self._heads() is None:
                return
            ratings = shown_ratings(self._runs)
            found = {
                record.folder
                for record in map(_decoder.decode, self._lines())
                if not sources.isdisjoint(image.source_sha256 for image in record.images)
            }
            if found:
                folders = [one for one in run_folders(self._runs) if one.name in found]
                made = {one.name: line for one in folders for line in _lines_of([one], [], ratings)}
                self._replace(made.get(_decoder.decode(old).folder, old) for old in self._lines())

    def rebuild(self, *, wait_s: float) -> LearningUpdate:
        """Make the records of all runs anew, ordered by folder.

        Raises OSError; the file is unchanged then.
        """
        with self._lock(wait_s):
            return self._rebuild()

    def _lock(self, wait_s: float) -> contextlib.AbstractContextManager[object]:
        import filelock  # noqa: PLC0415 - it takes 40 ms to load; a run that ends has loaded it

        return filelock.FileLock(self._runs / LOCK_NAME, timeout=wait_s)

    def _rebuild(self) -> LearningUpdate:
        before = self._heads() or {}
        folders = list(run_folders(self._runs))
        unreadable: list[str] = []
        self._replace(_lines_of(folders, unreadable, shown_ratings(self._runs)))
        after = self._heads() or {}
        if not after:
            self._storage.remove(self.path, durable=False)
        return LearningUpdate(
            path=str(self.path),
            runs=len(folders),
            records=len(after),
            made=sum(before.get(folder) != head for folder, head in after.items()),
            removed=len(before.keys() - after.keys()),
            unreadable=tuple(unreadable),
        )

    def _heads(self) -> dict[str, str] | None:
        """The ``log_head`` of each record by folder; None if the file has to be rebuilt.

        That is a file that is missing or empty, or has a line that is torn, is no record of
        this version, or repeats a folder.
        """
        heads: dict[str, str] = {}
        try:
            for line in self._lines():
                record = _decoder.decode(line)
                is_whole = line.endswith(b"\n") and record.schema_version == SCHEMA_VERSION
                if not is_whole or record.folder in heads:
                    return None
                heads[record.folder] = record.log_head
        except (FileNotFoundError, *DECODE_ERRORS):
            return None
        return heads or None

    def _lines(self) -> Iterator[bytes]:
        with open_regular(self.path) as stream:
            yield from stream

    def _append(self, line: bytes) -> None:
        """Append a line to the existing file; an error leaves the file unchanged.

        Nothing here is synced: a line that a power loss tears has the file rebuilt.
        """
        size = self.path.stat().st_size
        with contextlib.closing(self._storage.open_append(self.path)) as file:
            try:
                _write(file, line)
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(size)
                raise

    def _replace(self, lines: Iterable[bytes]) -> None:
        """Replace the file by these lines, atomically."""
        for left_over in self._runs.glob(f".{LEARNING_NAME}.*{PART_SUFFIX}"):
            self._storage.remove(left_over, durable=False)  # its process died
        temporary = self._storage.write_part(self.path, b"", durable=False)
        try:
            with contextlib.closing(self._storage.open_append(temporary)) as file:
                for line in lines:
                    _write(file, line)
            self._storage.rename(temporary, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                self._storage.remove(temporary, durable=False)
            raise


class _Image(msgspec.Struct):
    source_sha256: str


class _Record(msgspec.Struct):
    """The fields of a line that identify its record and images; the whole line must be JSON."""

    schema_version: int
    folder: str
    log_head: str
    images: tuple[_Image, ...]


_decoder = msgspec.json.Decoder(_Record)


def _lines_of(folders: Iterable[Path], unreadable: list[str], ratings: Ratings) -> Iterator[bytes]:
    """The lines of the runs that have a record; the names of unreadable ones are added."""
    for folder in folders:
        try:
            record = read_learning_record(folder, ratings)
            line = b"" if record is None else encode_line(record) + b"\n"
        except RunNotFoundError:
            continue  # the folder was deleted or moved just now
        except NO_RECORD as error:
            _logger.info("run %s gets no learning record: %s", folder, error)
            # A name may hold bytes that are no text.
            unreadable.append(folder.name.encode("utf-8", "backslashreplace").decode())
        else:
            if line:
                yield line


def _write(file: AppendFile, data: bytes) -> None:
    while data:
        data = data[file.write(data) :]
