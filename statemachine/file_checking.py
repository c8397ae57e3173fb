"""Whether files of a run are what was recorded; no link is followed, no pipe waited for."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from enum import Enum
from hashlib import file_digest
from pathlib import Path

import msgspec

OnFile = Callable[[int, int], None]
"""Told, after each file that has been checked, how many have been, of how many."""


class FileState(Enum):
    """In which way a recorded file is not what was recorded."""

    MISSING = "missing"
    ALTERED = "altered"
    UNREADABLE = "unreadable"


class WrongFile(msgspec.Struct, frozen=True):
    """A recorded file that is not what was recorded; as text, what is wrong with it."""

    state: FileState
    words: str

    def __str__(self) -> str:
        return self.words


class FileChecker:
    """Compares the files of one run folder with their recorded digests; follows no link."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._linked: dict[str, bool] = {}

    def check(self, path: str, digest: str) -> WrongFile | None:
        """What is wrong with a recorded file, or None."""
        if self._is_below_a_link(path.rpartition("/")[0]):
            return _LINK
        try:
            descriptor = os.open(self._folder / path, _FLAGS)
        except OSError as error:
            return self._unopened(path, error)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return _NO_FILE
        with open(descriptor, "rb", buffering=0) as stream:
            try:
                actual = file_digest(stream, "sha256").hexdigest()
            except OSError as error:
                return _unreadable(error)
        return None if actual == digest else _ALTERED

    def _is_below_a_link(self, parent: str) -> bool:
        if not parent:
            return False
        known = self._linked.get(parent)
        if known is None:
            above = self._is_below_a_link(parent.rpartition("/")[0])
            known = self._linked[parent] = above or (self._folder / parent).is_symlink()
        return known

    def _unopened(self, path: str, error: OSError) -> WrongFile:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return MISSING
        try:
            mode = (self._folder / path).lstat().st_mode
        except OSError:
            return _unreadable(error)
        if stat.S_ISLNK(mode):
            return _LINK
        return _unreadable(error) if stat.S_ISREG(mode) else _NO_FILE


_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a pipe in the place of an image must not hold us up
)
MISSING = WrongFile(FileState.MISSING, "it is missing")
"""A file that is not there at all."""
_ALTERED = WrongFile(FileState.ALTERED, "it has been altered: its digest differs")
_LINK = WrongFile(FileState.ALTERED, "a link stands in its place")
_NO_FILE = WrongFile(FileState.ALTERED, "it is no file")


def _unreadable(error: OSError) -> WrongFile:
    return WrongFile(FileState.UNREADABLE, f"it cannot be read: {error.strerror}")
