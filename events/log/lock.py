"""The lock of a log: one writer at a time, by the operating system's own lock."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import time
from pathlib import Path

import msgspec

from ..codec import DECODE_ERRORS, encode_line
from ..errors import LogLockedError, LogWriteError
from .storage import open_regular

LOCK_WAIT_S = 2.0
"""How long a writer tries for the lock (contract, section 4)."""
_BETWEEN_TRIES_S = 0.002
"""Writers of a shared log hold its lock for some milliseconds."""

LOCK_NAME = "run.lock"
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""Errors of file systems that have no locks."""
_NO_WAIT = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_MAX_HOLDER_BYTES = 64 * 1024
_LOOKS = 4
_BETWEEN_LOOKS_S = 0.003


class LockHolder(msgspec.Struct, frozen=True, kw_only=True):
    """The process that holds, or last held, a run's lock."""

    pid: int
    host: str
    boot_id: str
    epoch: int = 0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (epoch {self.epoch})"


def host_name() -> str:
    """This machine's name."""
    return platform.node() or "unknown"


def boot_id() -> str:
    """An id of this boot of the machine; "" where the system has none."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


class FileLock:
    """Holds the lock file ``name`` in a folder from construction to ``release``.

    The lock file names this process, and the epoch that it named before, unless it is
    ``anonymous`` (which saves 0.2 ms where a lock is taken for each image). Raises LogLockedError,
    naming the holder, when another process keeps the lock for ``wait_s``, LogWriteError where the
    file system has no locks, and OSError; it never falls back to a soft lock.
    """

    def __init__(
        self,
        folder: Path,
        name: str = LOCK_NAME,
        *,
        noun: str = "run",
        wait_s: float = LOCK_WAIT_S,
        anonymous: bool = False,
    ) -> None:
        self._path = folder / name
        flags = os.O_RDWR | os.O_CREAT | _NO_WAIT
        self._descriptor = os.open(self._path, flags, 0o666)
        try:
            deadline = time.monotonic() + wait_s
            while not _try_to_lock(self._descriptor, self._path):
                if time.monotonic() >= deadline:
                    holder = str(lock_holder(folder, name) or "unknown")
                    raise LogLockedError(holder, path=self._path, noun=noun)  # noqa: TRY301 - the descriptor is closed below
                time.sleep(_BETWEEN_TRIES_S)
            if not anonymous:
                before = lock_holder(folder, name)
                self.note_epoch(before.epoch if before else 0)
        except BaseException:
            os.close(self._descriptor)
            raise

    def note_epoch(self, epoch: int) -> None:
        """Write this process and the epoch that it works on into the lock file."""
        holder = LockHolder(pid=os.getpid(), host=host_name(), boot_id=boot_id(), epoch=epoch)
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, encode_line(holder) + b"\n")

    def release(self) -> None:
        """Give the lock back. The file stays: without it two processes could hold a lock each."""
        import filelock  # noqa: PLC0415 - loaded already

        filelock.unlock_descriptor(self._descriptor)
        os.close(self._descriptor)


def _try_to_lock(descriptor: int, path: Path) -> bool:
    """Whether the lock was free and is held now. Raises LogWriteError, OSError."""
    import filelock  # noqa: PLC0415 - it takes 40 ms to load, and `plan` needs no lock

    try:
        return filelock.lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise LogWriteError(
            f"this file system has no file locks ({error.strerror}), and without one two processes "
            "could write the same log; keep the runs on a local disk (--runs DIR)",
            path=path,
        ) from error


def lock_holder(folder: Path, name: str = LOCK_NAME) -> LockHolder | None:
    """The process that the lock file names, whether or not it holds the lock now."""
    try:
        with open_regular(folder / name) as stream:
            return msgspec.json.decode(stream.read(_MAX_HOLDER_BYTES), type=LockHolder)
    except (OSError, *DECODE_ERRORS):
        return None


def is_locked(folder: Path, name: str = LOCK_NAME) -> bool:
    """Whether some process holds the lock of a run now, or another lock; writes nothing."""
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | _NO_WAIT)
    except OSError:
        return False
    try:
        # Another caller of this function holds it too, for a moment.
        for _ in range(_LOOKS):
            if _try_to_lock(descriptor, folder / name):
                return False
            time.sleep(_BETWEEN_LOOKS_S)
        return True  # noqa: TRY300 - one line for each answer
    except LogWriteError:
        return False  # without locks no process can work on the run
    finally:
        os.close(descriptor)
