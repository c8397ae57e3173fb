"""Reads input images with Pillow, within limits."""

from __future__ import annotations

import io

from ..statemachine.errors import InputImageError
from ..statemachine.ports import ImageFacts
from ..statemachine.stages.sizes import MAX_PIXELS
from .image_decoding import DECODING_ERRORS, FORMATS, without_warnings

_ORIENTATION = 0x0112
_ROTATED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


class PillowInputReader:
    """Reads PNG, JPEG and WebP only, although Pillow supports more formats."""

    def inspect(self, data: bytes, *, name: str, decode: bool = True) -> ImageFacts:
        """The format and displayed size of an image; with ``decode`` all pixels are decoded.

        Raises InputImageError, naming ``name``.
        """
        # Pillow takes 20 ms to load, and few commands need it.
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - see above

        try:
            with (
                without_warnings(),
                Image.open(io.BytesIO(data), formats=list(FORMATS)) as image,
            ):
                size = image.size
                # Pillow would decode a whole PNG to look for EXIF data, which few have.
                has_exif = image.format != "PNG" or "exif" in image.info
                if has_exif and image.getexif().get(_ORIENTATION) in _ROTATED:
                    size = (image.height, image.width)
                facts = ImageFacts(
                    media_type=FORMATS[image.format or ""], width=size[0], height=size[1]
                )
                # Pillow's own limit may be set higher.
                if decode and image.width * image.height <= MAX_PIXELS:
                    image.load()
        except Image.DecompressionBombError as error:
            raise InputImageError(f"{name}: more than {MAX_PIXELS} pixels ({error})") from error
        except UnidentifiedImageError as error:
            # The message of Pillow names an object in memory.
            raise InputImageError(f"{name}: not a PNG, JPEG or WebP image") from error
        except DECODING_ERRORS as error:
            raise InputImageError(f"{name}: not a PNG, JPEG or WebP image ({error})") from error
        if facts.width * facts.height > MAX_PIXELS:
            raise InputImageError(f"{name}: more than {MAX_PIXELS} pixels")
        return facts
