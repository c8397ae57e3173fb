"""Reads input images with Pillow, within limits."""

from __future__ import annotations

from ..statemachine.errors import InputImageError
from ..statemachine.ports import ImageFacts


class PillowInputReader:
    """Reads the formats of inputs, although Pillow supports more."""

    def inspect(
        self, data: bytes, *, name: str, decode: bool = True, convertible: bool = False
    ) -> ImageFacts:
        """The format and displayed size of an image; with ``decode`` all pixels are decoded.

        Raises InputImageError, naming ``name``.
        """
        from . import imaging  # noqa: PLC0415 - it loads Pillow, which few commands need

        formats = imaging.INPUT_FORMATS if convertible else imaging.RUN_FORMATS
        try:
            with imaging.open_image(data, tuple(formats)) as image:
                if decode:
                    image.load()
                width, height = imaging.displayed_size(image)
                media_type = formats[image.format or ""]
        except imaging.ImageError as error:
            raise InputImageError(f"{name}: {error}") from error
        return ImageFacts(media_type=media_type, width=width, height=height)

    def convert_to_png(self, data: bytes, *, name: str) -> bytes:
        """The PNG that a run keeps of an input of another format.

        Raises InputImageError, naming ``name``.
        """
        from . import imaging  # noqa: PLC0415 - see above

        try:
            return imaging.png_of(data)
        except imaging.ImageError as error:
            raise InputImageError(f"{name}: {error}") from error
