"""Reads, appends to and replaces the file of records."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import msgspec

from ....events.codec import DECODE_ERRORS
from ....events.log.storage import PART_SUFFIX, AppendFile, Storage, open_regular
from .records import SCHEMA_VERSION

MAX_LINE_BYTES = 512 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024


class RecordLine(NamedTuple):
    """A valid line: the folder of the run, the head of its log, and the bytes."""

    folder: str
    log_head: str
    data: bytes


class FileStamp(NamedTuple):
    """Detects that a file has changed, without reading it.

    A copy may keep the modification time of the original, but not the change time.
    """

    inode: int
    size: int
    written_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileStamp:
        """The stamp of a file with this status."""
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class _Key(msgspec.Struct):
    """The part of a line that is decoded; the whole line must be JSON."""

    schema_version: int
    folder: str
    log_head: str


_decoder = msgspec.json.Decoder(_Key)


class RecordFile:
    """One JSON line for each record, ordered by folder. Methods may raise OSError."""

    def __init__(self, path: Path, storage: Storage) -> None:
        self.path = path
        self._storage = storage
        self.is_clean = True

    def stamp(self) -> FileStamp | None:
        """The stamp of the file; None if it does not exist."""
        try:
            return FileStamp.of(self.path.stat())
        except FileNotFoundError:
            return None

    def lines(self) -> Iterator[RecordLine]:
        """The valid lines, in order.

        Skips torn lines, records of other versions and lines out of order, so that their
        records are made again. Afterwards ``is_clean`` says whether no line was skipped, and
        an existing file was not empty.
        """
        self.is_clean = True
        last = ""
        try:
            stream = open_regular(self.path)
        except FileNotFoundError:
            return
        with stream:
            while data := stream.readline(MAX_LINE_BYTES):
                key = _key_of(data)
                if key is None or key.folder <= last:
                    self.is_clean = False
                    continue
                last = key.folder
                yield RecordLine(key.folder, key.log_head, data)
        if not last:
            self.is_clean = False

    def append(self, lines: Iterable[bytes]) -> None:
        """Append lines durably; an error leaves the file unchanged."""
        before = self.path.stat().st_size
        file = self._storage.open_append(self.path)
        try:
            try:
                _write(file, lines)
                file.sync()
            except BaseException:
                with contextlib.suppress(OSError):
                    file.truncate(before)
                raise
        finally:
            file.close()

    def replace(self, lines: Iterable[bytes]) -> None:
        """Replace the file by these lines, atomically and durably; removes it if there are none."""
        self._remove_left_overs()
        rest = iter(lines)
        first = next(rest, None)
        if first is not None:
            self._put_in_place(first, rest)
        elif self.path.exists():
            self._storage.remove(self.path)
        self.is_clean = True

    def _put_in_place(self, first: bytes, rest: Iterator[bytes]) -> None:
        temporary = self._storage.write_part(self.path, first)
        try:
            file = self._storage.open_append(temporary)
            try:
                _write(file, rest)
                file.sync()
            finally:
                file.close()
            self._storage.rename(temporary, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                self._storage.remove(temporary, durable=False)
            raise
        self._storage.sync_folder(self.path.parent)

    def _remove_left_overs(self) -> None:
        """Remove temporary files of processes that died; the caller holds the lock."""
        for left in self.path.parent.glob(f".{self.path.name}.*{PART_SUFFIX}"):
            self._storage.remove(left, durable=False)


def _key_of(data: bytes) -> _Key | None:
    if not data.endswith(b"\n"):
        return None
    try:
        key = _decoder.decode(data)
    except DECODE_ERRORS:
        return None
    return key if key.schema_version == SCHEMA_VERSION else None


def _write(file: AppendFile, lines: Iterable[bytes]) -> None:
    waiting: list[bytes] = []
    size = 0
    for line in chain(lines, [b""]):
        waiting.append(line)
        size += len(line)
        if size >= _CHUNK_BYTES or not line:
            data = b"".join(waiting)
            while data:
                data = data[file.write(data) :]
            waiting, size = [], 0
