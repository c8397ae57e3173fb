"""The file of records: read with distrust, appended to, or put in place whole."""

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
    """A sound line: whose record it is, which log it was made of, and its bytes."""

    folder: str
    log_head: str
    data: bytes


class FileStamp(NamedTuple):
    """What tells one state of a file from another without reading it.

    Whoever puts a sound copy in place of a damaged file may keep the time at which it was
    written, but not the one at which it was changed.
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
    """What of a line is looked at; all of it must be JSON."""

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
        """The state of the file; None where there is none."""
        try:
            return FileStamp.of(self.path.stat())
        except FileNotFoundError:
            return None

    def lines(self) -> Iterator[RecordLine]:
        """The sound lines, in order.

        Left out, so that their records are made anew, are a torn line, one that is no record of
        this version, and one that does not stand in its order. ``is_clean`` says afterwards
        whether there was none of these, and a sound line if there is a file at all.
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
        """Add lines behind the last one, durably; what fails leaves the file as it was."""
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
        """Put a file of these lines in place by rename, durably; without any there is no file."""
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
        """Remove what processes left that died while they wrote; the lock is ours."""
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
