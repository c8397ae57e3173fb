"""Checks the image files of a run, and makes their thumbnails."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from ....statemachine.files.recorded_files import FileState, RecordedFile, WrongFile, check_file
from ...imaging import THUMBNAIL_MEDIA_TYPE, ImageError, thumbnail_of

BUNDLED_FOLDER = "thumbnails"
"""A bundle has ``thumbnails/<stage_id>/<index>.webp`` instead of the image files."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_MAX_THREADS = 4
_AHEAD = 4
T = TypeVar("T")
R = TypeVar("R")


class Picture(msgspec.Struct, frozen=True):
    """The state of a recorded file (``wrong`` is None if it is sound), and its thumbnail.

    ``source`` is a data URI, "" without a thumbnail; ``words`` then say why. ``bundled`` says
    that the thumbnail comes from a bundle, which does not hold the file itself.
    """

    wrong: WrongFile | None
    source: str
    words: str = ""
    bundled: bool = False


class ImageInspector:
    """Checks the files of one run in a few threads, and makes thumbnails if ``thumbnails``.

    ``wrong`` collects missing and altered files; ``bundled`` counts files of which a bundle
    holds only the thumbnail.
    """

    def __init__(
        self, folder: Path, *, thumbnails: bool, on_file: Callable[[int], None] | None = None
    ) -> None:
        self.wrong: list[tuple[RecordedFile, WrongFile]] = []
        self.bundled = 0
        self._folder = folder
        self._thumbnails = thumbnails
        self._on_file = on_file
        self._done = 0
        self._threads = min(_MAX_THREADS, os.cpu_count() or 1)

    def inspect(
        self, files: Iterable[T], recorded: Callable[[T], RecordedFile]
    ) -> Iterator[tuple[T, Picture]]:
        """Each of ``files`` with its picture, in order and in bounded memory."""
        with ThreadPoolExecutor(self._threads) as pool:
            waiting: deque[tuple[T, RecordedFile, Future[Picture]]] = deque()
            try:
                for file in files:
                    record = recorded(file)
                    waiting.append((file, record, pool.submit(self.inspect_file, record)))
                    if len(waiting) > self._threads * _AHEAD:
                        yield self._taken(*waiting.popleft())
                while waiting:
                    yield self._taken(*waiting.popleft())
            finally:
                for _, _, future in waiting:
                    future.cancel()

    def inspect_file(self, file: RecordedFile) -> Picture:
        """Check one file, and make its thumbnail."""
        wrong = check_file(self._folder, file.path, file.sha256)
        if wrong is None:
            return self._shown(self._folder / file.path) or _NO_IMAGE
        if wrong.state is FileState.MISSING and (bundled := self._bundled(file)) is not None:
            shown = self._shown(bundled)
            if shown is not None:
                return msgspec.structs.replace(shown, bundled=True)
        return Picture(wrong, "", str(wrong))

    def _taken(self, file: T, record: RecordedFile, future: Future[Picture]) -> tuple[T, Picture]:
        picture = future.result()
        if picture.wrong is not None:
            self.wrong.append((record, picture.wrong))
        self.bundled += picture.bundled
        self._done += 1
        if self._on_file is not None:
            self._on_file(self._done)
        return file, picture

    def _shown(self, file: Path) -> Picture | None:
        """The picture of a sound file; None if it cannot be decoded."""
        if not self._thumbnails:
            return Picture(None, "", "no thumbnail")
        try:
            data = thumbnail_of(file)
        except ImageError:
            return None
        return Picture(None, f"data:{THUMBNAIL_MEDIA_TYPE};base64,{b64encode(data).decode()}")

    def _bundled(self, file: RecordedFile) -> Path | None:
        """The thumbnail that a bundle holds of a file, if it is a regular file of the bundle."""
        if not _PLAIN_NAME.fullmatch(file.stage_id):
            return None
        folder = self._folder / BUNDLED_FOLDER
        path = folder / file.stage_id / f"{file.image_index:05d}.webp"
        links = any(place.is_symlink() for place in (folder, path.parent, path))
        return path if not links and path.is_file() else None


_NO_IMAGE = Picture(None, "", "not an image that can be shown")
