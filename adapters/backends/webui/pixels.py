"""Sizes and pixels of received images."""

from __future__ import annotations

import io

from ....statemachine.errors import BackendAnswerError, InputImageError
from ....statemachine.files.png import is_png, pixel_data, size_in_header
from ....statemachine.ports import InputReader
from ....statemachine.stages.sizes import Dimensions

_FORMATS = ("PNG", "JPEG", "WEBP")


def size_of(data: bytes, reader: InputReader, name: str, endpoint: str) -> Dimensions:
    """The size in the header of an image. Raises BackendAnswerError, naming ``name``."""
    if is_png(data):
        size = size_in_header(data)
        if size is not None:
            return size
    try:
        facts = reader.inspect(data, name=name, decode=False)
    except InputImageError as error:
        raise BackendAnswerError(str(error), endpoint=endpoint) from error
    return facts.width, facts.height


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
