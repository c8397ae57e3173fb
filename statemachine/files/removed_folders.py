"""Folders that are removed or archived: by one rename, so that they are there entire or not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ...events.errors import LogWriteError
from ...events.log.lock import LOCK_NAME, FileLock
from ...events.log.storage import Storage
from ..errors import RemovalRefusedError

REMOVED_NAME = ".removed"
"""The folder beside a run that the run is moved to before its files are removed one by one."""


def remove_folder(folder: Path, storage: Storage, *, lock_name: str = LOCK_NAME) -> None:
    """Remove the folder of a run or group with everything in it. Raises as ``move_folder``."""
    place = Path(os.path.abspath(folder))  # noqa: PTH100 - a link must not be followed
    left_over = place.parent / REMOVED_NAME / place.name
    if left_over.exists():
        remove_tree(left_over, storage)
    remove_tree(move_folder(place, REMOVED_NAME, place.name, storage, lock_name=lock_name), storage)


def move_folder(
    folder: Path, place: str, name: str, storage: Storage, *, lock_name: str = LOCK_NAME
) -> Path:
    """Rename the folder of a run or group, while its lock is held, to ``name`` in one beside it.

    Raises LogLockedError, RemovalRefusedError, LogWriteError.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - a link must not be followed
    target = folder.parent / place / name
    if folder.is_symlink():
        raise RemovalRefusedError(f"{folder}: it is a link; name the folder that it leads to")
    if target.exists():
        raise RemovalRefusedError(f"{target}: it is there already; remove it, or rename it")
    try:
        with _locked(folder, lock_name):
            storage.make_folder(target.parent)
            storage.rename(folder, target)
            storage.sync_folder(target.parent)
            storage.sync_folder(folder.parent)
    except OSError as error:
        raise LogWriteError(f"it cannot be moved: {error}", path=folder) from error
    return target


@contextmanager
def _locked(folder: Path, lock_name: str) -> Iterator[None]:
    lock = FileLock(folder, lock_name, noun="run" if lock_name == LOCK_NAME else "group")
    if sys.platform == "win32":  # it moves no folder in which a file is open
        lock.release()
        yield
        return
    try:
        yield
    finally:
        lock.release()


def remove_tree(folder: Path, storage: Storage) -> None:
    """Remove a folder that has been moved aside, and the one around it. Raises LogWriteError."""
    storage.remove_tree(folder)
    if folder.exists():
        raise LogWriteError("some of its files cannot be removed; try again", path=folder)
    storage.sync_folder(folder.parent)
    with suppress(OSError):  # it may hold others
        folder.parent.rmdir()
