"""Thumbnails for a bundle, and the image files if requested."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ....events.log.storage import open_regular
from ....statemachine.files.recorded_files import FileState, RecordedFile, check_file
from ...imaging import ImageError, thumbnail_of
from .image_metadata import texts_in
from .redaction import Redactor

SIDE = 128
_THREADS = 4
_AT_ONCE = 64
_MOST_BYTES = 512 * 1024 * 1024
_ITS_TEXT = "its metadata holds private text"
_UNSEARCHABLE = "its metadata cannot be searched for private text"


class Picture(NamedTuple):
    """The bytes of a thumbnail or file, or ``why`` there are none.

    ``wrong`` says whether the recorded file is missing or altered.
    """

    file: RecordedFile
    data: bytes = b""
    why: str = ""
    wrong: FileState | None = None


class PictureReader:
    """Reads the recorded images of a run folder, if they are unaltered; follows no links."""

    def __init__(self, folder: Path, redactor: Redactor, *, with_thumbnails: bool = True) -> None:
        self._folder = folder
        self._redactor = redactor
        self._with_thumbnails = with_thumbnails

    def thumbnails(self, files: Iterator[RecordedFile]) -> Iterator[Picture]:
        """The thumbnails of files, in order, made by a few threads.

        If thumbnails are switched off, the files are only checked.
        """
        with ThreadPoolExecutor(_THREADS) as threads:
            while chunk := list(islice(files, _AT_ONCE)):
                yield from threads.map(self._thumbnail, chunk)

    def whole(self, file: RecordedFile) -> Picture:
        """The bytes of a file, unless its metadata holds private text."""
        wrong = self._wrong(file)
        if wrong is not None:
            return wrong
        if self._redactor.changes(file.path):
            return Picture(file, why="its path holds private text")
        with open_regular(self._folder / file.path) as stream:
            data = stream.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            return Picture(file, why=f"larger than {_MOST_BYTES} bytes")
        why = self._objection(data)
        return Picture(file, why=why) if why else Picture(file, data)

    def _thumbnail(self, file: RecordedFile) -> Picture:
        wrong = self._wrong(file)
        if wrong is not None:
            return wrong
        if not self._with_thumbnails:
            return Picture(file)
        try:
            data = thumbnail_of(self._folder / file.path, SIDE)
        except (ImageError, OSError):
            return Picture(file, why="cannot be decoded")
        if self._redactor.holds_password(data):
            return Picture(file, why="the bytes of its thumbnail contain the password by chance")
        return Picture(file, data)

    def _wrong(self, file: RecordedFile) -> Picture | None:
        wrong = check_file(self._folder, file.path, file.sha256)
        if wrong is None:
            return None
        return Picture(file, why=str(wrong), wrong=wrong.state)

    def _objection(self, data: bytes) -> str:
        """Why an image file may not be in the bundle; "" if it may."""
        redactor = self._redactor
        # Without NUL bytes, texts with two bytes a character can be searched as well.
        for seen in (data, data.replace(b"\0", b"")):
            if redactor.holds_password(seen) or redactor.holds_home(seen):
                return _ITS_TEXT
        texts = texts_in(data)
        if texts is None:
            return _UNSEARCHABLE
        secret = redactor.holds_wide_password(data) or any(map(redactor.holds_secret, texts))
        return _ITS_TEXT if secret else ""
