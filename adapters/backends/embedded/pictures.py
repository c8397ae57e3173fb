"""Decodes PNG, JPEG and WebP to RGB, and encodes PNG."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

MAX_PIXELS = 2**26
"""The largest picture taken or given: 8192 x 8192, a quarter of a gigabyte in memory."""

_COMPRESS_LEVEL = 1  # The encoder takes most of a small picture's time at higher levels.
_FORMATS = ("PNG", "JPEG", "WEBP")
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Warning,  # only if warnings are turned into errors
)
"""Exceptions of Pillow's decoders for invalid data."""


class PictureError(ValueError):
    """A picture cannot be read, or would be larger than ``MAX_PIXELS``."""


def decode_picture(data: bytes, name: str) -> Image.Image:
    """The pixels of an image in RGB as it is shown, transparent ones on white.

    Raises PictureError, naming ``name``, for anything but a sound PNG, JPEG or WebP.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            check_size(image.size)
            image.load()
            return _in_rgb(ImageOps.exif_transpose(image))
    except PictureError as error:
        raise PictureError(f"{name}: {error}") from error
    except _BROKEN as error:
        raise PictureError(f"{name} does not decode: {error}") from error


def check_size(size: tuple[float, float]) -> None:
    """Raise PictureError unless a picture of this size is within bounds, and no NaN."""
    if not 0 < size[0] * size[1] <= MAX_PIXELS:
        raise PictureError(f"{size[0]:g}x{size[1]:g} is not within 1 to {MAX_PIXELS} pixels")


def encode_png(image: Image.Image, parameters: str) -> bytes:
    """A PNG whose ``parameters`` text says how it was made."""
    text = PngInfo()
    text.add_text("parameters", parameters)
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=text, compress_level=_COMPRESS_LEVEL)
    return file.getvalue()


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow would clip 16-bit grey instead of scaling it; take the high byte.
        place = 0 if image.mode.endswith("B") else 1
        grey = Image.frombytes("L", image.size, image.tobytes()[place::2])
        return grey.convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    ground = Image.new("RGB", image.size, (255, 255, 255))
    ground.paste(layer, mask=layer.getchannel("A"))
    return ground
