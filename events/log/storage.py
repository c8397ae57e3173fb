"""The file system as a run uses it: the one seam through which bytes become durable.

Everything that must survive a crash goes through ``Storage``, so that a test can use a storage
that loses, tears and reorders what was not synced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

_OUR_FILE = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
"""Flags for files that we write: bytes as they are, and no link to somewhere else."""
_UNSUPPORTED = (
    *(errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP),
    *(errno.ENOSYS, errno.ENOTTY, errno.EPERM, errno.EACCES),
)
"""Errors of file systems that do not support a sync (CIFS, DrvFs, FUSE); any other is a fault."""
FOLDER_SYNC = "folder_sync"
"""The limit of a file system that cannot sync folders."""
DRIVE_SYNC = "drive_sync"
"""The limit of a file system on which macOS cannot empty the drive's own cache."""
_COPY_BYTES = 1024 * 1024
PART_SUFFIX = ".part"
"""Ends the temporary name of a file that is being written; it begins with a dot."""


sync_drive: Callable[[int], object] | None = None
"""Syncs a file and empties the drive's own cache; None where a sync does that anyway."""
if sys.platform == "darwin":  # pragma: no cover - fsync there leaves data in the drive's cache
    import fcntl

    def _full_sync(descriptor: int) -> None:
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)

    sync_drive = _full_sync

sync_descriptor: Callable[[int], object] = getattr(os, "fdatasync", os.fsync)
"""Syncs a file's bytes; Windows and macOS have no fdatasync."""


class AppendFile:
    """An open file that only grows, or is cut back. Every method may raise OSError."""

    def __init__(self, path: Path, storage: Storage) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | _OUR_FILE)
        self._sync_bytes = storage.sync_bytes

    def write(self, data: bytes) -> int:
        """Append; the number of bytes taken, which may be fewer than given."""
        return os.write(self._descriptor, data)

    def sync(self) -> None:
        """Return once everything written so far is durable."""
        self._sync_bytes(self._descriptor)

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes."""
        os.ftruncate(self._descriptor, size)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)


class Storage:
    """Folders and files. Every method may raise OSError. A test overrides what is to fail."""

    def __init__(self) -> None:
        self.syncs = True
        self.limits: dict[str, int] = {}

    def make_folder(self, folder: Path, *, new: bool = False) -> None:
        """Make the folder and its parents, durably.

        One that is there already is fine, but for ``new``: FileExistsError.
        """
        if new:
            self.make_folder(folder.parent)
            folder.mkdir()
            try:
                self.sync_folder(folder.parent)
            except OSError:
                folder.rmdir()
                raise
            return
        missing = [folder]
        while not missing[-1].exists() and missing[-1].parent != missing[-1]:
            missing.append(missing[-1].parent)
        for path in reversed(missing):
            is_old = path.exists()
            path.mkdir(exist_ok=True)
            try:
                # Also where it was there: the process that made it may have died before this.
                self.sync_folder(path.parent)
            except PermissionError:
                if not is_old:
                    raise
        if not folder.is_dir():
            raise NotADirectoryError(20, "Not a directory", str(folder))

    def write_file(self, path: Path, data: bytes, *, durable: bool = True) -> None:
        """Put a whole file in place by rename: afterwards it is there entire or not at all."""
        temporary = self.write_part(path, data, durable=durable)
        try:
            self.rename(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                self.remove(temporary, durable=False)
            raise
        if durable:
            self.sync_folder(path.parent)

    def write_new(self, path: Path, data: bytes) -> None:
        """Put a whole, durable file in place that no file may be in already: FileExistsError."""
        temporary = self.write_part(path, data)
        try:
            self.link(temporary, path)
        finally:
            self.remove(temporary, durable=False)
        self.sync_folder(path.parent)

    def write_part(self, path: Path, data: bytes, *, durable: bool = True) -> Path:
        """Write the bytes of ``path`` under a temporary name beside it; that name.

        They are synced, if ``durable``. Where it fails, nothing is left behind.
        """
        with self._new_part(path, durable=durable) as (temporary, descriptor):
            _write_all(descriptor, data)
        return temporary

    def copy_part(self, source: BinaryIO, path: Path) -> Path:
        """Copy an open file to a temporary name beside ``path``, synced; that name.

        Where it fails, nothing is left behind.
        """
        with self._new_part(path, durable=True) as (temporary, descriptor):
            _copy_all(source, descriptor)
        return temporary

    @contextlib.contextmanager
    def _new_part(self, path: Path, *, durable: bool) -> Iterator[tuple[Path, int]]:
        # Two processes may order the same run to stop: each has a file of its own.
        temporary = path.with_name(f".{path.name}.{os.getpid()}{PART_SUFFIX}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _OUR_FILE
        descriptor = os.open(temporary, flags, 0o666)
        try:
            try:
                yield temporary, descriptor
                if durable:
                    self.sync_file(descriptor)
            finally:
                os.close(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def sync_file(self, descriptor: int) -> None:
        """Return once a new file's bytes and size are durable."""
        self._sync(descriptor, os.fsync)

    def sync_bytes(self, descriptor: int) -> None:
        """Return once the bytes of a file that was there before are durable."""
        self._sync(descriptor, sync_descriptor)

    def _sync(self, descriptor: int, sync: Callable[[int], object]) -> None:
        if not self.syncs:
            return
        if sync_drive is not None and DRIVE_SYNC not in self.limits:
            try:
                sync_drive(descriptor)
            except OSError as error:
                self._note_limit(DRIVE_SYNC, error)
            else:
                return
        sync(descriptor)

    def _note_limit(self, what: str, error: OSError) -> None:
        """Keep a limit of the file system in mind. Raises ``error`` if it is a fault."""
        if error.errno is None or error.errno not in _UNSUPPORTED:
            raise error
        self.limits.setdefault(what, error.errno)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, in place of what bears it; durable once the folder is."""
        source.replace(target)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name, which no file may have already: FileExistsError.

        Where the file system has no links, the file has the second name alone.
        """
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            if target.exists():
                raise FileExistsError(errno.EEXIST, "It is there already", str(target)) from error
            self.rename(source, target)

    def sync_folder(self, folder: Path) -> None:
        """Return once the folder's entries are durable."""
        if not self.syncs or sys.platform == "win32":  # which cannot and need not do it
            return
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            self._note_limit(FOLDER_SYNC, error)
        finally:
            os.close(descriptor)

    def remove(self, path: Path, *, durable: bool = True) -> None:
        """Remove a file; one that is gone already is fine."""
        path.unlink(missing_ok=True)
        if durable:
            self.sync_folder(path.parent)

    def remove_tree(self, folder: Path) -> None:
        """Remove a folder and all that is in it, as far as that is possible."""
        shutil.rmtree(folder, ignore_errors=True)

    def open_append(self, path: Path) -> AppendFile:
        """Open an existing file for appending."""
        return AppendFile(path, self)

    def open_read(self, path: Path) -> BinaryIO:
        """Open an existing file for reading from its start."""
        return open_regular(path)

    def rewrite(self, path: Path, start: int, data: bytes) -> None:
        """Write ``data`` in place from ``start`` on; it is durable on return.

        After a failed sync Linux reads bytes from its cache that the disk does not hold, and
        no later sync writes them, until they are written again.
        """
        # Not through an appending descriptor, which writes at the end of the file only.
        descriptor = os.open(path, os.O_WRONLY | _OUR_FILE)
        try:
            os.lseek(descriptor, start, os.SEEK_SET)
            _write_all(descriptor, data)
            self.sync_bytes(descriptor)
        finally:
            os.close(descriptor)


def is_regular(path: Path) -> bool:
    """Whether a file is there. Raises OSError where that cannot be told, unlike Path.is_file."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # no path holds a NUL
        return False


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; opening a pipe in its place could block for ever.

    Raises OSError.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "It is not a regular file", str(path))
    return cast(BinaryIO, open(descriptor, "rb"))


def _copy_all(source: BinaryIO, descriptor: int) -> None:
    """Copy within the file system where it can do that, which may share the blocks on the disk."""
    copy_range = getattr(os, "copy_file_range", None)
    if copy_range is not None:
        try:
            while copy_range(source.fileno(), descriptor, _COPY_BYTES):
                pass
        except OSError as error:
            if error.errno not in (*_UNSUPPORTED, errno.EXDEV):
                raise
            # From where it stopped: both files have moved on by what was copied.
            source.seek(os.lseek(source.fileno(), 0, os.SEEK_CUR))
        else:
            return
    while chunk := source.read(_COPY_BYTES):
        _write_all(descriptor, chunk)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
