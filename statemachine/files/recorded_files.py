"""The files that a log recorded, and the check that they are as recorded; no link is followed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from errno import ELOOP
from hashlib import file_digest, sha256
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import msgspec

from ...events.folds import Fold
from ...events.log.storage import is_regular, open_regular
from ...events.result import PipelineRunResult

T = TypeVar("T")
OnFile = Callable[[int, int], None]
"""Called after each file that has been checked: with how many have been, and of how many."""


class FileState(Enum):
    """How a recorded file differs from what was recorded."""

    MISSING = "missing"
    ALTERED = "altered"
    UNREADABLE = "unreadable"


class WrongFile(msgspec.Struct, frozen=True):
    """A recorded file that is not as it was recorded; its text says what is wrong."""

    state: FileState
    words: str

    def __str__(self) -> str:
        return self.words


class RecordedFile(NamedTuple):
    """A file whose digest a log holds; ``stage_id`` is "" for an input or a mask.

    ``removed`` says that the log records its removal.
    """

    path: str
    sha256: str
    stage_id: str = ""
    image_index: int = 0
    removed: bool = False


def recorded_files(fold: Fold, result: PipelineRunResult) -> Iterator[RecordedFile]:
    """The files that a run consists of: inputs, then finished images by stage and index."""
    for record in fold.opened.inputs if fold.opened is not None else ():
        if not record.refusal:
            yield RecordedFile(record.path, record.sha256)
    for stage in result.stages:
        for image in stage.images:
            index, stage_id = image.image_index, image.stage_id
            removed = index in fold.stages[stage_id].removed
            yield RecordedFile(image.path, image.sha256, stage_id, index, removed)


def check_file(folder: Path, path: str, digest: str) -> WrongFile | None:
    """What is wrong with the file at ``path`` in a run's folder, or None.

    ``digest`` is the SHA-256 that was recorded; the file is read in pieces.
    """
    actual = _read(folder, path, open_regular, sha256_of)
    if isinstance(actual, WrongFile):
        return actual
    return None if actual == digest else _ALTERED


def read_file(
    folder: Path, path: str, digest: str, open_read: Callable[[Path], BinaryIO]
) -> bytes | WrongFile:
    """The bytes of the file at ``path`` in a run's folder, or what is wrong with it."""
    data = _read(folder, path, open_read, lambda stream: stream.read())
    if isinstance(data, WrongFile):
        return data
    return data if sha256(data).hexdigest() == digest else _ALTERED


def open_recorded(folder: Path, path: str) -> BinaryIO:
    """Open the file at ``path`` in a run's folder. Raises OSError, also for a link."""
    if find_link(folder, path) is not None:
        raise OSError(ELOOP, "It is a link, or its folder is one", str(folder / path))
    return open_regular(folder / path)


def find_link(folder: Path, path: str) -> Path | None:
    """The first part of a recorded path that is a link."""
    here = str(folder)
    for part in path.split("/"):
        here = f"{here}/{part}"
        if os.path.islink(here):  # noqa: PTH114 - a third of the time, for each of many files
            return Path(here)
    return None


def _read(
    folder: Path,
    path: str,
    open_read: Callable[[Path], BinaryIO],
    read: Callable[[BinaryIO], T],
) -> T | WrongFile:
    """What ``read`` returns of a file, or why the file cannot be read."""
    if find_link(folder, path) is not None:
        return _LINK
    file = folder / path
    try:
        with open_read(file) as stream:
            return read(stream)
    except (FileNotFoundError, NotADirectoryError):
        return MISSING
    except OSError as error:
        with suppress(OSError):
            if not is_regular(file):
                return _NOT_A_FILE
        return WrongFile(FileState.UNREADABLE, f"it cannot be read: {error.strerror}")


def sha256_of(stream: BinaryIO) -> str:
    """The SHA-256 of the rest of a stream, in hex; it is read in pieces."""
    return file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]  # BinaryIO hides readinto


MISSING = WrongFile(FileState.MISSING, "it is missing")
_ALTERED = WrongFile(FileState.ALTERED, "it has been altered: its digest differs")
_LINK = WrongFile(FileState.ALTERED, "it is a link, or its folder is one")
_NOT_A_FILE = WrongFile(FileState.ALTERED, "it is not a file")
