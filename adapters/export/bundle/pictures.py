"""The pictures of a bundle: small ones of every image, and the files themselves if asked for."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ....events.log.storage import open_regular
from ....statemachine.files.recorded_files import FileState, RecordedFile, check_file
from ..thumbnails import ThumbnailError, thumbnail_of
from .image_metadata import texts_in
from .redaction import Redactor

SIDE = 128
_THREADS = 4
_AT_ONCE = 64
_MOST_BYTES = 512 * 1024 * 1024
_ITS_TEXT = "its own text, or a byte of it, holds what is left out"
_UNSEEN = "its own text, or another part of it, cannot be looked through"


class Picture(NamedTuple):
    """What came of one recorded file: its bytes, if they were wanted, or ``why`` there are none.

    ``wrong`` says that it is not the file that was recorded, and how.
    """

    file: RecordedFile
    data: bytes = b""
    why: str = ""
    wrong: FileState | None = None


class PictureReader:
    """Reads the pictures of one run folder, if they are what was recorded; follows no link."""

    def __init__(self, folder: Path, redactor: Redactor, *, with_thumbnails: bool = True) -> None:
        self._folder = folder
        self._redactor = redactor
        self._with_thumbnails = with_thumbnails

    def thumbnails(self, files: Iterator[RecordedFile]) -> Iterator[Picture]:
        """A small picture of each of these files, in order, made by a few threads.

        Without thumbnails the files are only checked.
        """
        with ThreadPoolExecutor(_THREADS) as threads:
            while chunk := list(islice(files, _AT_ONCE)):
                yield from threads.map(self._thumbnail, chunk)

    def whole(self, file: RecordedFile) -> Picture:
        """The bytes of a file, unless it holds in its own text what a bundle may not hold."""
        wrong = self._wrong(file)
        if wrong is not None:
            return wrong
        if self._redactor.changes(file.path):
            return Picture(file, why="its path holds what is left out")
        with open_regular(self._folder / file.path) as stream:
            data = stream.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            return Picture(file, why=f"it is larger than {_MOST_BYTES} bytes")
        why = self._told_by(data)
        return Picture(file, why=why) if why else Picture(file, data)

    def _thumbnail(self, file: RecordedFile) -> Picture:
        wrong = self._wrong(file)
        if wrong is not None:
            return wrong
        if not self._with_thumbnails:
            return Picture(file)
        try:
            data = thumbnail_of(self._folder / file.path, SIDE)
        except (ThumbnailError, OSError):
            return Picture(file, why="it cannot be decoded")
        if self._redactor.holds_password(data):
            return Picture(file, why="its thumbnail holds by chance what is left out")
        return Picture(file, data)

    def _wrong(self, file: RecordedFile) -> Picture | None:
        wrong = check_file(self._folder, file.path, file.sha256)
        if wrong is None:
            return None
        return Picture(file, why=str(wrong), wrong=wrong.state)

    def _told_by(self, data: bytes) -> str:
        """Why an image may not be handed on as it is; "" if nothing is known against it."""
        redactor = self._redactor
        # Texts of two bytes a character show as they are once the NULs are gone.
        for seen in (data, data.replace(b"\0", b"")):
            if redactor.holds_password(seen) or redactor.holds_home(seen):
                return _ITS_TEXT
        texts = texts_in(data)
        if texts is None:
            return _UNSEEN
        secret = redactor.holds_wide_password(data) or any(map(redactor.holds_secret, texts))
        return _ITS_TEXT if secret else ""
