"""Decodes PNG, JPEG and WebP to RGB, and encodes PNG."""

from __future__ import annotations

import io

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ....statemachine.stages.sizes import size_refusal
from ...imaging import ImageError, eight_bits, open_image, upright

_COMPRESS_LEVEL = 1  # The encoder takes most of a small picture's time at higher levels.


class PictureError(ValueError):
    """A picture cannot be read, or would have more pixels than the limit."""


def decode_picture(data: bytes, name: str) -> Image.Image:
    """The pixels of an image in RGB as it is displayed, transparent ones on white.

    Raises PictureError, naming ``name``, for anything but a valid PNG, JPEG or WebP.
    """
    try:
        with open_image(data) as image:
            image.load()
            return _in_rgb(upright(image))
    except ImageError as error:
        raise PictureError(f"{name}: {error}") from error


def check_size(size: tuple[float, float]) -> None:
    """Raise PictureError unless a picture of this size has pixels, within the limit."""
    refusal = "no pixels" if size[0] * size[1] <= 0 else size_refusal(size)
    if refusal:
        raise PictureError(f"{size[0]:g}x{size[1]:g}: {refusal}")


def encode_png(image: Image.Image, parameters: str) -> bytes:
    """A PNG whose ``parameters`` text says how it was made."""
    text = PngInfo()
    text.add_text("parameters", parameters)
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=text, compress_level=_COMPRESS_LEVEL)
    return file.getvalue()


def _in_rgb(image: Image.Image) -> Image.Image:
    image = eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    ground = Image.new("RGB", image.size, (255, 255, 255))
    ground.paste(layer, mask=layer.getchannel("A"))
    return ground
