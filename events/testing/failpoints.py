"""Places at which a process can be made to die, for the tests that prove what a crash leaves.

They stand behind the storage seam: only where ``STAGEWRIGHT_FAILPOINT`` is set does a run get
a storage that knows them, so they cost nothing otherwise.
"""

from __future__ import annotations

import os
import signal
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from ..log.storage import AppendFile, Storage


class Failpoint(StrEnum):
    """The places, in the order in which a run passes them."""

    FOLDER_MADE = "folder-made"
    RECORD_BEFORE = "record-before"
    RECORD_HALF = "record-half"
    RECORD_WRITTEN = "record-written"
    RECORD_SYNCED = "record-synced"
    FILE_HALF = "file-half"
    FILE_WRITTEN = "file-written"
    FILE_SYNCED = "file-synced"
    FILE_RENAMED = "file-renamed"
    FILE_LINKED = "file-linked"
    FILE_IN_PLACE = "file-in-place"
    FILE_REMOVED = "file-removed"
    TAIL_CUT = "tail-cut"


class FailpointStorage(Storage):
    """The real file system, on which the process dies, as by ``kill -9``, at one place.

    ``order`` is ``PLACE [WORD]... [#N]``: the Nth (first) time that PLACE is passed with all
    WORDs in the record that is written, or in the path of the file. Raises ValueError for an
    order that names no place.
    """

    def __init__(self, order: str) -> None:
        super().__init__()
        place, *words = order.split()
        self._place = Failpoint(place)
        self._left = int(words.pop()[1:]) if words and words[-1].startswith("#") else 1
        self._words = [word.encode() for word in words]
        self._writing: Path | None = None

    def reach(self, place: Failpoint, what: bytes) -> None:
        """Die here, if this is the place."""
        if place is not self._place or not all(word in what for word in self._words):
            return
        self._left -= 1
        if self._left == 0:
            # Windows knows no SIGKILL: there any signal of os.kill ends a process at once.
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))

    def make_folder(self, folder: Path, *, new: bool = False) -> None:
        super().make_folder(folder, new=new)
        self.reach(Failpoint.FOLDER_MADE, bytes(folder))

    def write_part(self, path: Path, data: bytes, *, durable: bool = True) -> Path:
        if self._place is Failpoint.FILE_HALF:
            super().write_part(path, data[: len(data) // 2], durable=False)
            self.reach(Failpoint.FILE_HALF, bytes(path))
        self._writing = path
        temporary = super().write_part(path, data, durable=durable)
        self.reach(Failpoint.FILE_SYNCED, bytes(path))
        return temporary

    def copy_part(self, source: BinaryIO, path: Path) -> Path:
        if self._place is Failpoint.FILE_HALF:
            whole = source.read()
            super().write_part(path, whole[: len(whole) // 2], durable=False)
            self.reach(Failpoint.FILE_HALF, bytes(path))
            source.seek(0)
        self._writing = path
        temporary = super().copy_part(source, path)
        self.reach(Failpoint.FILE_SYNCED, bytes(path))
        return temporary

    def sync_file(self, descriptor: int) -> None:
        self.reach(Failpoint.FILE_WRITTEN, bytes(self._writing or b""))
        super().sync_file(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self._writing = target
        self.reach(Failpoint.FILE_RENAMED, bytes(target))

    def link(self, source: Path, target: Path) -> None:
        super().link(source, target)
        self._writing = target
        self.reach(Failpoint.FILE_LINKED, bytes(target))

    def sync_folder(self, folder: Path) -> None:
        super().sync_folder(folder)
        if self._writing is not None and self._writing.parent == folder:
            self.reach(Failpoint.FILE_IN_PLACE, bytes(self._writing))

    def remove(self, path: Path, *, durable: bool = True) -> None:
        super().remove(path, durable=durable)
        self.reach(Failpoint.FILE_REMOVED, bytes(path))

    def remove_tree(self, folder: Path) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.remove(path, durable=False)
        super().remove_tree(folder)

    def open_append(self, path: Path) -> AppendFile:
        return _FailpointFile(path, self)


class _FailpointFile(AppendFile):
    def __init__(self, path: Path, storage: FailpointStorage) -> None:
        super().__init__(path, storage)
        self._reach = storage.reach
        self._last = b""

    def write(self, data: bytes) -> int:
        self._last = data
        self._reach(Failpoint.RECORD_BEFORE, data)
        half = super().write(data[: len(data) // 2])
        self._reach(Failpoint.RECORD_HALF, data)
        written = half + super().write(data[half:])
        self._reach(Failpoint.RECORD_WRITTEN, data)
        return written

    def sync(self) -> None:
        super().sync()
        self._reach(Failpoint.RECORD_SYNCED, self._last)

    def truncate(self, size: int) -> None:
        super().truncate(size)
        self._reach(Failpoint.TAIL_CUT, b"")
