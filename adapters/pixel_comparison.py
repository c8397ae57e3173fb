"""Compares the pixels of images: whether two are equal, or one is the other enlarged."""

from __future__ import annotations

from PIL import Image, ImageChops

from ..statemachine.files.png import PngError, chunks, is_png
from .imaging import PNG_PIXELS, ImageError, open_image

_ROWS = 64
"""How many rows are compared at a time."""
_DEPTH = 24
"""Where a PNG has its bit depth."""
_LEAST_CONTRAST = 16
_ROUNDING = 2
"""Versions of Pillow round differently by this much."""


def same_pixels(left: bytes, right: bytes) -> bool | None:
    """Whether two images have the same size and the same stored pixels, compared as RGBA.

    A pixel without alpha is opaque; the orientation is not applied. None if this cannot be
    decided: for animated and undecodable images, and for 16 bits a channel, of which Pillow
    drops half, unless the stored data is equal.
    """
    stored = _stored_pixels(left)
    if stored and stored == _stored_pixels(right):
        return True
    if _is_deep(left) or _is_deep(right):
        return None
    try:
        with open_image(left) as one, open_image(right) as other:
            if getattr(one, "n_frames", 1) > 1 or getattr(other, "n_frames", 1) > 1:
                return None
            one.load()
            other.load()
            return one.size == other.size and all(
                _rows(one, top) == _rows(other, top) for top in range(0, one.height, _ROWS)
            )
    except ImageError:
        return None


def _stored_pixels(data: bytes) -> list[bytes]:
    """The stored data that decides a PNG's pixels; empty if the PNG is not complete."""
    try:
        return [chunk.body(data) for chunk in chunks(data) if chunk.kind in PNG_PIXELS]
    except PngError:
        return []


def _is_deep(data: bytes) -> bool:
    return is_png(data) and data[_DEPTH : _DEPTH + 1] == b"\x10"


def _rows(image: Image.Image, top: int) -> bytes:
    box = (0, top, image.width, min(top + _ROWS, image.height))
    return image.crop(box).convert("RGBA").tobytes()


def is_plain_resize(source: bytes, enlarged: bytes) -> bool | None:
    """Whether an image is its source enlarged by plain interpolation.

    None without contrast, where all upscalers agree, and for images that cannot be decoded.
    """
    try:
        with open_image(source) as one, open_image(enlarged) as other:
            second = other.convert("RGB")
            plain = one.convert("RGB").resize(second.size, Image.Resampling.LANCZOS)
    except ImageError:
        return None  # What is broken is refused when it is kept.
    if max(high - low for low, high in _ranges(plain)) < _LEAST_CONTRAST:
        return None
    return all(high <= _ROUNDING for _, high in _ranges(ImageChops.difference(plain, second)))


def _ranges(picture: Image.Image) -> tuple[tuple[int, int], ...]:
    """The least and the largest value of each channel."""
    return tuple(channel.getextrema() for channel in picture.split())  # type: ignore[misc]  # a pair for each single channel
