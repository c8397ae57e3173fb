"""A lock for writing the records, across processes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_NAME = ".learning.lock"
_FILE_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_BETWEEN_TRIES_S = 0.01


@contextmanager
def folder_lock(
    runs: Path, *, wait_s: float, is_over: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Hold an OS lock for the records of a folder of runs.

    The lock is on the folder itself or, where the system cannot lock folders, on a file in it.
    Raises TimeoutError after ``wait_s`` or once ``is_over``, and OSError if locking fails.
    """
    import filelock  # noqa: PLC0415 - it takes 40 ms to load; a run that ends has loaded it

    deadline = time.monotonic() + wait_s

    def is_late() -> bool:
        return time.monotonic() >= deadline or is_over()

    descriptor = _locked_folder(runs, is_late)
    if descriptor is None:
        descriptor = os.open(runs / LOCK_NAME, _FILE_FLAGS, 0o666)
        try:
            _wait_for(descriptor, runs, is_late)
        except BaseException:
            os.close(descriptor)
            raise
    try:
        yield
    finally:
        try:
            filelock.unlock_descriptor(descriptor)
        finally:
            os.close(descriptor)


def _locked_folder(runs: Path, is_late: Callable[[], bool]) -> int | None:
    """A locked descriptor of the folder; None where folders cannot be locked."""
    if sys.platform == "win32":  # pragma: no cover - cannot open a folder
        return None
    descriptor = os.open(runs, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _wait_for(descriptor, runs, is_late)
    except TimeoutError:
        os.close(descriptor)
        raise
    except OSError:  # some network file systems lock only files open for writing
        os.close(descriptor)
        return None
    return descriptor


def _wait_for(descriptor: int, runs: Path, is_late: Callable[[], bool]) -> None:
    import filelock  # noqa: PLC0415 - loaded already

    while not filelock.lock_descriptor(descriptor, blocking=False):
        if is_late():
            raise TimeoutError(f"the learning records in {runs} are locked by another process")
        time.sleep(_BETWEEN_TRIES_S)
