"""Checks the image files of a run, and makes their thumbnails."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from ....statemachine.files.recorded_files import FileState, RecordedFile, WrongFile, check_file
from ...imaging import ImageError
from ...thumbnails import THUMBNAIL_MEDIA_TYPE, thumbnail_of
from ..bundle.manifest import THUMBNAILS

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_MAX_THREADS = 4


class InspectedImage(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a recorded file (``wrong`` is None if it is sound), and its thumbnail.

    ``source`` is a data URI, "" without a thumbnail; ``words`` then say why. ``bundled`` says
    that the thumbnail comes from a bundle, which does not hold the file itself.
    """

    wrong: WrongFile | None = None
    source: str = ""
    words: str = ""
    bundled: bool = False


class ImageInspector:
    """Checks the files of one run in a few threads, and makes thumbnails if ``thumbnails``.

    ``side`` is the longest side of a thumbnail in pixels.
    """

    def __init__(self, folder: Path, *, thumbnails: bool, side: int = 128) -> None:
        self._folder = folder
        self._thumbnails = thumbnails
        self._side = side

    def inspect_all(
        self, files: Sequence[RecordedFile], on_file: Callable[[int, int], None] | None = None
    ) -> dict[RecordedFile, InspectedImage]:
        """Inspect ``files``; ``on_file`` receives the number of inspected files and their total."""
        pool = ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1))
        found: dict[RecordedFile, InspectedImage] = {}
        try:
            for done, image in enumerate(pool.map(self._inspect, files), start=1):
                found[files[done - 1]] = image
                if on_file is not None:
                    on_file(done, len(files))
        finally:
            pool.shutdown(cancel_futures=True)
        return found

    def _inspect(self, file: RecordedFile) -> InspectedImage:
        if file.removed:
            return InspectedImage(words="removed on purpose")
        wrong = check_file(self._folder, file.path, file.sha256)
        if wrong is None:
            shown = self._shown(self._folder / file.path)
            return shown or InspectedImage(words="not an image that can be shown")
        if wrong.state is FileState.MISSING and (bundled := self._bundled(file)) is not None:
            shown = self._shown(bundled)
            if shown is not None:
                return msgspec.structs.replace(shown, bundled=True)
        return InspectedImage(wrong=wrong, words=str(wrong))

    def _shown(self, file: Path) -> InspectedImage | None:
        """The thumbnail of a sound file; None if it cannot be decoded."""
        if not self._thumbnails:
            return InspectedImage(words="no thumbnail")
        try:
            data = thumbnail_of(file, self._side)
        except ImageError:
            return None
        return InspectedImage(
            source=f"data:{THUMBNAIL_MEDIA_TYPE};base64,{b64encode(data).decode()}"
        )

    def _bundled(self, file: RecordedFile) -> Path | None:
        """The thumbnail that a bundle holds instead of a file, if it is a regular file there."""
        if not _PLAIN_NAME.fullmatch(file.stage_id):
            return None
        folder = self._folder / THUMBNAILS
        path = folder / file.stage_id / f"{file.image_index:05d}.webp"
        links = any(place.is_symlink() for place in (folder, path.parent, path))
        return path if not links and path.is_file() else None
