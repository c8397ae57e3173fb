"""The files that a log recorded, and whether they are as recorded; no link is followed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from hashlib import file_digest, sha256
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from ...events.folds import Fold
from ...events.log.storage import is_regular, open_regular
from ...events.result import PipelineRunResult

OnFile = Callable[[int, int], None]
"""Called after each file that has been checked: how many have been, of how many."""


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


class RecordedFile(NamedTuple):
    """A file that a log vouches for; ``stage_id`` is "" for an input or a mask."""

    path: str
    sha256: str
    stage_id: str = ""
    image_index: int = 0


def recorded_files(fold: Fold, result: PipelineRunResult) -> Iterator[RecordedFile]:
    """The files that a run consists of: inputs, then finished images by stage and index."""
    for record in fold.opened.inputs if fold.opened is not None else ():
        yield RecordedFile(record.path, record.sha256)
    for stage in result.stages:
        for image in stage.images:
            yield RecordedFile(image.path, image.sha256, image.stage_id, image.image_index)


def check_file(folder: Path, path: str, digest: str) -> WrongFile | None:
    """What is wrong with the file at ``path`` in a run's folder, or None.

    ``digest`` is the SHA-256 that was recorded; the file is read in pieces.
    """
    opened = _open(folder, path, open_regular)
    if isinstance(opened, WrongFile):
        return opened
    with opened as stream:
        try:
            actual = file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]  # BinaryIO hides readinto
        except OSError as error:
            return _unreadable(error)
    return None if actual == digest else _ALTERED


def read_file(
    folder: Path, path: str, digest: str, open_read: Callable[[Path], BinaryIO]
) -> bytes | WrongFile:
    """The bytes of the file at ``path`` in a run's folder, or what is wrong with it."""
    opened = _open(folder, path, open_read)
    if isinstance(opened, WrongFile):
        return opened
    with opened as stream:
        try:
            data = stream.read()
        except OSError as error:
            return _unreadable(error)
    return data if sha256(data).hexdigest() == digest else _ALTERED


def find_link(folder: Path, path: str) -> Path | None:
    """The first part of a recorded path that is a link."""
    here = str(folder)
    for part in path.split("/"):
        here = f"{here}/{part}"
        if os.path.islink(here):  # noqa: PTH114 - a third of the time, for each of many files
            return Path(here)
    return None


def _open(folder: Path, path: str, open_read: Callable[[Path], BinaryIO]) -> BinaryIO | WrongFile:
    file = folder / path
    try:
        return open_read(file) if find_link(folder, path) is None else _LINK
    except (FileNotFoundError, NotADirectoryError):
        return MISSING
    except OSError as error:
        with suppress(OSError):
            if not is_regular(file):
                return _NO_FILE
        return _unreadable(error)


MISSING = WrongFile(FileState.MISSING, "it is missing")
_ALTERED = WrongFile(FileState.ALTERED, "it has been altered: its digest differs")
_LINK = WrongFile(FileState.ALTERED, "a link stands in its place")
_NO_FILE = WrongFile(FileState.ALTERED, "it is no file")


def _unreadable(error: OSError) -> WrongFile:
    return WrongFile(FileState.UNREADABLE, f"it cannot be read: {error.strerror}")
