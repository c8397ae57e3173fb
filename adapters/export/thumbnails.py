"""Makes thumbnails of images, for reports and bundles."""

from __future__ import annotations

import io
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ...events.errors import StagewrightError
from ...events.log.storage import open_regular
from ...statemachine.stages.sizes import MAX_PIXELS
from ..image_decoding import DECODING_ERRORS, FORMATS, without_warnings

if TYPE_CHECKING:
    from PIL import Image

MEDIA_TYPE = "image/webp"
_QUALITY = 60
_METHOD = 4
_LARGE_PIXELS = 4096 * 4096
"""Larger images are decoded one at a time, to bound the memory."""
_one_large = threading.Lock()


class ThumbnailError(StagewrightError):
    """A file is not a PNG, JPEG or WebP image, or is too large for a thumbnail."""


def thumbnail_of(file: Path, side: int = 128) -> bytes:
    """A thumbnail that fits ``side`` x ``side`` pixels, as WebP; smaller images keep their size.

    It is rotated by the EXIF orientation. Safe to call from several threads. Raises
    ThumbnailError, naming the file.
    """
    # Pillow takes 20 ms to load, and few commands need it.
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - see above

    try:
        with (
            without_warnings(),
            open_regular(file) as stream,
            Image.open(stream, formats=list(FORMATS)) as image,
        ):
            pixels = image.width * image.height
            # Pillow's own limit may be set higher.
            if pixels <= MAX_PIXELS:
                with _room_for(pixels):
                    return _encoded(_reduced(image, side))
    except Image.DecompressionBombError as error:
        raise ThumbnailError(f"{file}: more than {MAX_PIXELS} pixels ({error})") from error
    except UnidentifiedImageError as error:
        # The message of Pillow names an object in memory.
        raise ThumbnailError(f"{file}: not a PNG, JPEG or WebP image") from error
    except DECODING_ERRORS as error:
        raise ThumbnailError(f"{file}: not a PNG, JPEG or WebP image ({error})") from error
    raise ThumbnailError(f"{file}: more than {MAX_PIXELS} pixels")


def _room_for(pixels: int) -> AbstractContextManager[object]:
    return _one_large if pixels > _LARGE_PIXELS else nullcontext()


def _reduced(image: Image.Image, side: int) -> Image.Image:
    from PIL import ImageOps  # noqa: PLC0415 - see above

    image.draft("RGB", (side, side))  # JPEG decodes to an eighth of its size at no cost.
    image.load()
    if image.mode.startswith("I"):
        image = image.point(lambda value: value * (1 / 256)).convert("L")  # 16 bits of grey
    small = image.convert("RGBA" if image.has_transparency_data else "RGB")
    small.thumbnail((side, side), reducing_gap=2.0)
    return ImageOps.exif_transpose(small)


def _encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=_QUALITY, method=_METHOD, exif=b"", icc_profile=None)
    return stream.getvalue()
