"""Sizes and pixels of received images."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from ....statemachine.errors import BackendAnswerError, InputImageError
from ....statemachine.files.png import is_png, pixel_data, size_in_header
from ....statemachine.plan.sizes import Dimensions
from ....statemachine.ports import InputReader
from ..http.client import HttpClient

if TYPE_CHECKING:
    from PIL import Image

_LEAST_CONTRAST = 16
_ROUNDING = 2
"""Versions of Pillow round differently by this much."""
_FORMATS = ("PNG", "JPEG", "WEBP")


def size_of(
    data: bytes, reader: InputReader, client: HttpClient, endpoint: str, name: str
) -> Dimensions:
    """The size in the header of an image. Raises BackendAnswerError, naming ``name``."""
    if is_png(data):
        size = size_in_header(data)
        if size is not None:
            return size
    try:
        facts = reader.inspect(data, name=name, decode=False)
    except InputImageError as error:
        raise client.failure(BackendAnswerError, endpoint, str(error)) from error
    return facts.width, facts.height


def is_plain_resize(source: bytes, enlarged: bytes) -> bool:
    """Whether an image is its source enlarged by plain interpolation.

    A server does that with a model that it cannot load. False for a picture without contrast,
    which every upscaler enlarges alike.
    """
    from PIL import Image, ImageChops  # noqa: PLC0415 - see below

    try:
        pictures = [Image.open(io.BytesIO(data), formats=_FORMATS) for data in (source, enlarged)]
        first, second = (picture.convert("RGB") for picture in pictures)
    except (OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError):
        return False  # What is broken is refused when it is kept.
    plain = first.resize(second.size, Image.Resampling.LANCZOS)
    if max(high - low for low, high in _ranges(plain)) < _LEAST_CONTRAST:
        return False
    return all(high <= _ROUNDING for _, high in _ranges(ImageChops.difference(plain, second)))


def _ranges(picture: Image.Image) -> tuple[tuple[int, int], ...]:
    """The least and the largest value of each channel."""
    return tuple(channel.getextrema() for channel in picture.split())  # type: ignore[misc]


def same_pixels(one: bytes, other: bytes) -> bool:
    """Whether two complete images have equal pixels, in any format."""
    stored = pixel_data(one)
    if stored and stored == pixel_data(other):
        return True
    # It takes 20 ms to load, and few requests need it.
    from PIL import Image, ImageChops  # noqa: PLC0415 - see above

    try:
        pictures = [Image.open(io.BytesIO(data), formats=_FORMATS) for data in (one, other)]
        first, second = (picture.convert("RGB") for picture in pictures)
    except (OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError):
        return False  # What is broken is refused when it is kept.
    return first.size == second.size and ImageChops.difference(first, second).getbbox() is None
