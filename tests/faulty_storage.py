"""A storage on a simulated disk, whose process dies, or meets with errors, where it is told to."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

import msgspec
from stagewright.events.log.storage import AppendFile, Storage

from .simulated_disk import SimulatedDisk, Sync, remove


class SimulatedCrash(BaseException):
    """The process has died; whatever it still does to its storage raises this again."""


class Deed(StrEnum):
    """What happens at one operation of a process."""

    DIE_BEFORE = "die before"
    DIE_WITHIN = "die within"
    DIE_AFTER = "die after"
    FAIL = "fail"
    TAKE_LESS = "take less"


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """At its operation number ``at`` (from 1), this is done to a process.

    ``FAIL`` raises ``error``; if it is ``lasting`` so does every later operation. ``TAKE_LESS``
    makes the next write to a log a short one.
    """

    at: int
    deed: Deed
    error: int = errno.EIO
    lasting: bool = False


Tell = Callable[[str], None]
_KINDS = {
    (Deed.TAKE_LESS, 0): ("append",),
    (Deed.FAIL, errno.ENOSPC): ("append", "write file"),
    (Deed.FAIL, 0): ("append", "sync log", "rewrite", "write file", "sync file", "rename to",
                     "link to", "sync folder", "remove", "truncate", "open"),
}  # fmt: skip
"""The operations that a deed can befall; any where nothing is said."""


class FaultyStorage(Storage):
    """What one process sees of a ``SimulatedDisk``; at most one ``fault`` befalls it.

    Every operation that changes the disk is counted and told to ``tell``. Once the process is
    dead, each of its calls raises SimulatedCrash and does nothing.
    """

    def __init__(
        self, disk: SimulatedDisk, fault: Fault | None = None, *, tell: Tell | None = None
    ) -> None:
        super().__init__()
        self.disk = disk
        self.operations = 0
        self.dead = False
        self.fault = fault
        self.fault_met = False
        self.met_at = ""
        self._tell = tell
        self._one_at_a_time = threading.RLock()
        """The disk sees one operation of one thread after the other."""
        self._open_files: list[_FaultyAppendFile] = []
        self._writing: Path = disk.root
        self._within: Deed | None = None

    def die(self, where: str = "") -> None:
        """End the process as by ``kill -9``: its descriptors are closed, its calls raise."""
        with self._one_at_a_time:
            self.dead = True
            for file in self._open_files:
                file.abandon()
        if self._tell is not None:
            self._tell(f"  the process dies {where}")
        raise SimulatedCrash(where)

    def check_alive(self) -> None:
        """Raise SimulatedCrash in a process that has died."""
        if self.dead:
            raise SimulatedCrash("it has died already")

    @contextlib.contextmanager
    def operation(self, name: str, path: Path) -> Iterator[Deed | None]:
        """Count one operation; the fault that is to happen in the middle of it, if any."""
        with self._one_at_a_time:
            self.check_alive()
            self.operations += 1
            deed = self._due(name)
            if deed is not None or self._tell is not None:
                self._note(f"{name} {os.path.relpath(path, self.disk.root)}", deed)
            if deed is Deed.DIE_BEFORE:
                self.die(f"before {name}")
            if deed is Deed.FAIL and name != "write file":
                if name == "sync log":
                    self.disk.fail_sync(path)
                raise self._error()
            yield deed
            if deed in (Deed.DIE_WITHIN, Deed.DIE_AFTER):
                self.die(f"after {name}")

    def _note(self, operation: str, deed: Deed | None) -> None:
        if deed is not None:
            self.met_at = self.met_at or operation
        if self._tell is not None:
            self._tell(f"  {self.operations:>4} {operation}")

    def _due(self, name: str) -> Deed | None:
        fault = self.fault
        if fault is None or self.operations < fault.at or (self.fault_met and not fault.lasting):
            return None
        if name not in _KINDS.get((fault.deed, fault.error), _KINDS.get((fault.deed, 0), (name,))):
            return None
        self.fault_met = True
        return fault.deed

    def _error(self) -> OSError:
        assert self.fault is not None
        return OSError(self.fault.error, os.strerror(self.fault.error))

    def make_folder(self, folder: Path, *, new: bool = False) -> None:
        self.check_alive()
        super().make_folder(folder, new=new)

    def write_part(self, path: Path, data: bytes, *, durable: bool = True) -> Path:
        with self.operation("write file", path) as deed:
            self._writing = path
            if deed in (Deed.DIE_WITHIN, Deed.FAIL):
                # What follows the first part of the bytes happens where the sync would be.
                self._within = deed
                data = data[: self.disk.random.randrange(len(data) + 1)]
            return super().write_part(path, data, durable=durable or self._within is not None)

    def copy_part(self, source: BinaryIO, path: Path) -> Path:
        with self.operation("write file", path) as deed:
            self._writing = path
            if deed not in (Deed.DIE_WITHIN, Deed.FAIL):
                return super().copy_part(source, path)
            self._within = deed
            whole = source.read()
            return super().write_part(path, whole[: self.disk.random.randrange(len(whole) + 1)])

    def sync_file(self, descriptor: int) -> None:
        within, self._within = self._within, None
        if within is Deed.DIE_WITHIN:
            self.die("in write file")
        if within is Deed.FAIL:
            raise self._error()
        if not self.syncs:
            return
        with self.operation("sync file", self._writing):
            self.disk.sync(Sync.FILE, _path_of(descriptor, self._writing.parent))

    def rename(self, source: Path, target: Path) -> None:
        with self.operation("rename to", target):
            self.disk.observe(source.parent)
            super().rename(source, target)
            self.disk.note_rename(source, target)

    def link(self, source: Path, target: Path) -> None:
        with self.operation("link to", target):
            self.disk.observe(source.parent)
            super().link(source, target)
            self.disk.note_link(source, target)

    def sync_folder(self, folder: Path) -> None:
        if not self.syncs:
            return
        with self.operation("sync folder", folder):
            self.disk.sync(Sync.FOLDER, folder)

    def remove(self, path: Path, *, durable: bool = True) -> None:
        with self.operation("remove", path):
            self.disk.observe(path.parent)
            super().remove(path, durable=durable)

    def remove_tree(self, folder: Path) -> None:
        with self.operation("remove tree", folder) as deed:
            self.disk.observe(folder)
            self.disk.observe(folder.parent)
            if deed is Deed.DIE_WITHIN:
                for path in sorted(folder.iterdir())[::2]:
                    remove(path)
                self.die("in remove tree")
            super().remove_tree(folder)

    def open_append(self, path: Path) -> AppendFile:
        with self.operation("open", path):
            file = _FaultyAppendFile(self, path)
            self._open_files.append(file)
        return file

    def open_read(self, path: Path) -> BinaryIO:
        self.check_alive()
        return super().open_read(path)

    def rewrite(self, path: Path, start: int, data: bytes) -> None:
        with self.operation("rewrite", path) as deed:
            if Sync.REWRITE in self.disk.ignored:
                return
            self.disk.drop_cache(path)
            if deed is Deed.DIE_WITHIN:
                data = data[: self.disk.random.randrange(len(data))]
            super().rewrite(path, start, data)
            self.disk.note_write(path, start, start + len(data))
            if deed is Deed.DIE_WITHIN:
                self.die("in rewrite")
            self.disk.sync(Sync.REWRITE, path)


def _path_of(descriptor: int, folder: Path) -> Path:
    inode = os.fstat(descriptor).st_ino
    with os.scandir(folder) as listing:
        return folder / next(entry.name for entry in listing if entry.inode() == inode)


class _FaultyAppendFile(AppendFile):
    """A log that is open in one process."""

    def __init__(self, storage: FaultyStorage, path: Path) -> None:
        super().__init__(path, storage)
        self._storage = storage
        self._path = path
        self._is_open = True

    def write(self, data: bytes) -> int:
        with self._storage.operation("append", self._path) as deed:
            assert self._is_open, "the log was closed"
            if deed in (Deed.DIE_WITHIN, Deed.TAKE_LESS):
                data = data[: self._storage.disk.random.randrange(len(data))]
            end = self._path.stat().st_size
            taken = super().write(data)
            self._storage.disk.note_write(self._path, end, end + taken)
            return taken

    def sync(self) -> None:
        with self._storage.operation("sync log", self._path):
            self._storage.disk.sync(Sync.LOG, self._path)

    def truncate(self, size: int) -> None:
        with self._storage.operation("truncate", self._path):
            super().truncate(size)

    def close(self) -> None:
        self._storage.check_alive()
        self.abandon()

    def abandon(self) -> None:
        """Close the descriptor, as the system does when a process dies."""
        if self._is_open:
            self._is_open = False
            super().close()
