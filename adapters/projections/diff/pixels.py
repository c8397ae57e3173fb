"""Compares the pixels of two image files."""

from __future__ import annotations

from pathlib import Path

from ....events.log.storage import open_regular
from ....events.model import Artifact
from ....statemachine.files.recorded_files import check_file

_MOST_BYTES = 256 * 1024 * 1024


class PictureFiles:
    """Reads the unaltered image files of a run folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, image: Artifact) -> bytes | None:
        """The bytes of an image; None if the file is missing, altered or very large."""
        if check_file(self._folder, image.path, image.sha256) is not None:
            return None
        try:
            with open_regular(self._folder / image.path) as stream:
                data = stream.read(_MOST_BYTES + 1)
        except OSError:
            return None
        return data if len(data) <= _MOST_BYTES else None


def same_pixels(left: bytes, right: bytes) -> bool | None:
    """Whether two images have the same size and pixels; None if that cannot be decided."""
    # It loads Pillow, and most comparisons need no pixel.
    from ... import pixel_comparison  # noqa: PLC0415 - see above

    return pixel_comparison.same_pixels(left, right)
