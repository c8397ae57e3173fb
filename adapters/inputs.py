"""Input images decoded by Pillow, within bounds."""

from __future__ import annotations

import io

from ..statemachine.errors import InputImageError
from ..statemachine.plan.sizes import MAX_PIXELS
from ..statemachine.ports import ImageFacts
from .image_decoding import DECODING_ERRORS, FORMATS, without_warnings

_ORIENTATION = 0x0112
_LYING = (5, 6, 7, 8)
"""Orientations (EXIF) in which width and height change places when the image is shown."""


class PillowInputReader:
    """Knows PNG, JPEG and WebP, and nothing else that Pillow could be talked into opening."""

    def inspect(self, data: bytes, *, name: str, decode: bool = True) -> ImageFacts:
        """Kind and size of an image as it is shown; with ``decode`` every pixel is tried.

        Raises InputImageError, naming ``name``.
        """
        # They take 20 ms to load, and few commands need them.
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - see above

        try:
            with (
                without_warnings(),
                Image.open(io.BytesIO(data), formats=list(FORMATS)) as image,
            ):
                size = image.size
                # Pillow would decode a whole PNG in search of what few of them have.
                told = image.format != "PNG" or "exif" in image.info
                if told and image.getexif().get(_ORIENTATION) in _LYING:
                    size = (image.height, image.width)
                facts = ImageFacts(
                    media_type=FORMATS[image.format or ""], width=size[0], height=size[1]
                )
                # Pillow may be set to let more pass.
                if decode and image.width * image.height <= MAX_PIXELS:
                    image.load()
        except Image.DecompressionBombError as error:
            raise InputImageError(f"{name}: more than {MAX_PIXELS} pixels ({error})") from error
        except UnidentifiedImageError as error:
            # Its words name an object in memory.
            raise InputImageError(f"{name}: not a PNG, JPEG or WebP image") from error
        except DECODING_ERRORS as error:
            raise InputImageError(f"{name}: not a PNG, JPEG or WebP image ({error})") from error
        if facts.width * facts.height > MAX_PIXELS:
            raise InputImageError(f"{name}: more than {MAX_PIXELS} pixels")
        return facts
