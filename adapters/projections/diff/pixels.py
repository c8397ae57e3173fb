"""Compares the pixels of two image files."""

from __future__ import annotations

import io
from hashlib import sha256
from pathlib import Path

from ....events.log.storage import open_regular
from ....events.model import Artifact
from ....statemachine.files.png import is_png, pixel_data
from ....statemachine.files.recorded_files import check_file
from ....statemachine.stages.sizes import MAX_PIXELS
from ...image_decoding import DECODING_ERRORS, FORMATS, without_warnings

_MOST_BYTES = 256 * 1024 * 1024
_ROWS = 64
"""How many rows are converted to RGBA at a time."""
_DEPTH = 24
"""The offset of the bit depth in a PNG."""


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
    if _is_deep(left) or _is_deep(right):
        stored = pixel_data(left)
        return True if stored and stored == pixel_data(right) else None
    one, other = _pixels(left), _pixels(right)
    return None if one is None or other is None else one == other


def _is_deep(data: bytes) -> bool:
    """Whether a PNG has 16 bits a sample, of which Pillow drops half."""
    return is_png(data) and data[_DEPTH : _DEPTH + 1] == b"\x10"


def _pixels(data: bytes) -> tuple[tuple[int, int], bytes] | None:
    """The size and a digest of the pixels; None for animated or undecodable images."""
    from PIL import Image  # noqa: PLC0415 - most comparisons look at no pixel

    try:
        with without_warnings(), Image.open(io.BytesIO(data), formats=list(FORMATS)) as image:
            if image.width * image.height > MAX_PIXELS or getattr(image, "n_frames", 1) > 1:
                return None
            digest = sha256()
            for top in range(0, image.height, _ROWS):
                rows = image.crop((0, top, image.width, min(top + _ROWS, image.height)))
                digest.update(rows.convert("RGBA").tobytes())
            return image.size, digest.digest()
    except (*DECODING_ERRORS, Image.DecompressionBombError):
        return None
