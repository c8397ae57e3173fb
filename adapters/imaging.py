"""The only module that opens images with Pillow: formats, limits, orientation, conversion.

It loads Pillow, which takes 20 ms: modules that every command loads import it where it is needed.
"""

from __future__ import annotations

import io
import logging
import os
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Any, cast

from PIL import ExifTags, Image, JpegImagePlugin, UnidentifiedImageError

from ..events.errors import StagewrightError
from ..statemachine.files.png import PngError, chunks, is_png
from ..statemachine.stages.sizes import max_pixels, size_refusal

RUN_FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
"""The formats of a run's images, by Pillow's names, and their media types."""
CONVERTED_FORMATS = {
    "AVIF": "image/avif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "GIF": "image/gif",
    "HEIF": "image/heic",
}
"""The formats of inputs that a run keeps as PNG."""
INPUT_FORMATS = RUN_FORMATS | CONVERTED_FORMATS

_READABLE_NAMES = {"WEBP": "WebP", "HEIF": "HEIC"}
_DECODING_ERRORS = (
    OSError, ValueError, SyntaxError, LookupError, TypeError, EOFError, AttributeError,
    ArithmeticError, AssertionError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow raises for malformed files."""

PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"acTL", b"fcTL", b"fdAT", b"IEND")
"""The chunks of a PNG that decide its pixels."""
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTATION_TEXTS = (b"exif", b"xmp", b"XML:com.adobe.xmp", b"Raw profile type exif")
"""The keywords of the texts in which Pillow looks for an orientation."""
_MOST_EXIF_PARTS = 256
"""Pillow joins them one by one: 1,500 of 64 KB take it minutes."""
_JPEG_START = b"\xff\xd8\xff"
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How an image with an EXIF orientation becomes the image as it is displayed."""
_SIDES_SWAPPED = (5, 6, 7, 8)

_one_silence = threading.Lock()
_MOST_EXIF_BYTES = 65_000
"""A JPEG has room for 65,533."""
_SAVED: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0, "optimize": True},
    "WEBP": {"quality": 95, "method": 4},
}
"""How images are saved that are converted for people: smaller, and without visible loss."""

# Without a handler, Python would print the warnings of Pillow's loggers.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class ImageError(StagewrightError):
    """An image cannot be decoded, or has more pixels than the limit."""


_IGNORED = ("ignore", None, Warning, re.compile(r"(PIL|pillow_heif)(\.|$)"), 0)
"""The entry of ``warnings.filters`` that mutes Pillow's modules."""


def _warning_filters() -> list[Any]:
    return cast("list[Any]", warnings.filters)


class _PillowSettings:
    """Mutes Pillow's warnings, and suspends its own limit of pixels, while any thread is inside.

    Both settings belong to the process: the first thread changes them, the last restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._limit: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                _warning_filters().insert(0, _IGNORED)
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                Image.MAX_IMAGE_PIXELS = self._limit
                # Only our own entry: other threads may have changed the list in the meantime.
                with suppress(ValueError):
                    _warning_filters().remove(_IGNORED)


pillow_settings = _PillowSettings()
"""``with pillow_settings:`` for work on images of any size; ``open_image`` enters it itself."""


@contextmanager
def open_image(
    data: bytes, formats: Sequence[str] = tuple(RUN_FORMATS), *, metadata: bool = False
) -> Iterator[Image.Image]:
    """An image within the limit of pixels; the caller decodes it in the ``with`` block.

    It is the first picture of a file with several. Without ``metadata`` nothing is read of a
    PNG but its pixels and orientation, so that no text or profile makes it unreadable. Raises
    ImageError for malformed data, also for the errors of Pillow in the block.
    """
    max_pixels()  # A wrong limit is no fault of the image.
    with pillow_settings, _silence_for(data, formats):
        try:
            with _opened(data, formats, metadata=metadata) as image:
                refusal = size_refusal(image.size)
                if refusal:
                    raise ImageError(refusal)
                yield image
        except UnidentifiedImageError as error:
            # The message of Pillow names an object in memory.
            raise ImageError(_not_one_of(formats)) from error
        except _DECODING_ERRORS as error:
            raise ImageError(f"{_not_one_of(formats)} ({error})") from error


def _silence_for(data: bytes, formats: Sequence[str]) -> AbstractContextManager[object]:
    """Silence for a decoder that prints; it is not reentrant."""
    converted = not CONVERTED_FORMATS.keys().isdisjoint(formats)
    loud = converted and (data.startswith(_TIFF_STARTS) or data[4:8] == b"ftyp")
    return _without_standard_error() if loud else nullcontext()


@contextmanager
def _without_standard_error() -> Iterator[None]:
    """Discard standard error: the decoders of TIFF, AVIF and HEIC print their errors there."""
    with _one_silence, ExitStack() as undo:
        with suppress(OSError):  # a program without standard error
            kept = os.dup(2)
            undo.callback(os.close, kept)
            nothing = os.open(os.devnull, os.O_WRONLY)
            undo.callback(os.close, nothing)
            os.dup2(nothing, 2)
            undo.callback(os.dup2, kept, 2)
        yield


def _not_one_of(formats: Sequence[str]) -> str:
    *first, last = [_READABLE_NAMES.get(name, name) for name in formats]
    return f"not a {', '.join(first)} or {last} image"


def _opened(data: bytes, formats: Sequence[str], *, metadata: bool) -> Image.Image:
    if data.startswith(_JPEG_START):
        if data.count(b"Exif\0\0") > _MOST_EXIF_PARTS:
            raise ImageError(f"the JPEG has more than {_MOST_EXIF_PARTS} parts of EXIF")
        # Image.open would look for further pictures, and might fail at a malformed list of them.
        return JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    if is_png(data) and not metadata:
        try:
            return Image.open(io.BytesIO(_reduced_png(data)), formats=["PNG"])
        except _DECODING_ERRORS:
            return Image.open(io.BytesIO(_reduced_png(data, oriented=False)), formats=["PNG"])
    known = set(formats)
    if not _is_heic(data):
        known.discard("HEIF")
    elif "HEIF" in known:
        _register_heic()
    try:
        return Image.open(io.BytesIO(data), formats=[one for one in formats if one in known])
    except _DECODING_ERRORS:
        if "AVIF" not in formats or data[4:8] != b"ftyp":
            raise
        # Pillow refuses an AVIF with unreadable EXIF: hide it behind another type of item.
        return Image.open(io.BytesIO(data.replace(b"Exif", b"none", 1)), formats=["AVIF"])


def _reduced_png(data: bytes, *, oriented: bool = True) -> bytes:
    """A PNG without metadata, except for its orientation, if ``oriented``.

    The orientation is moved before the pixels: Pillow would decode them to look behind them.
    """
    pixels, orientation, end, view = [], [], 0, memoryview(data)
    with suppress(PngError):  # Pillow refuses what follows.
        for chunk in chunks(data):
            end = chunk.end
            if chunk.kind in PNG_PIXELS:
                pixels.append(data[chunk.start : end])
            elif oriented and _may_orient(chunk.kind, view[chunk.start + 8 : chunk.end - 4]):
                orientation.append(data[chunk.start : end])
    if not pixels or not pixels[-1].endswith(b"IEND\xaeB`\x82"):
        pixels.append(data[end:])
    return b"".join([data[:8], *pixels[:1], *orientation, *pixels[1:]])


def _may_orient(kind: bytes, body: memoryview) -> bool:
    keyword = bytes(body[:80]).partition(b"\0")[0]
    return kind == b"eXIf" or (kind in _PNG_TEXTS and keyword in _ORIENTATION_TEXTS)


def _is_heic(data: bytes) -> bool:
    """Whether a brand in the first box of the file says HEIC."""
    if data[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(data[:4], "big"), len(data), 1024)
    brands = {data[place : place + 4] for place in (8, *range(16, end, 4))}
    return not brands.isdisjoint(_HEIC_BRANDS)


def _register_heic() -> None:
    try:
        import pillow_heif  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ImageError(
            "HEIC images need the extra heic: pip install 'stagewright[heic]'"
        ) from error
    pillow_heif.register_heif_opener()


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation that Pillow's ``exif_transpose`` applies; 1 if it is unreadable."""
    try:
        # PngImageFile.getexif would decode the pixels first; the orientation is before them.
        found = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except _DECODING_ERRORS:
        return 1
    return found if isinstance(found, int) and found in _TRANSPOSITIONS else 1


def displayed_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an image as it is displayed."""
    swapped = orientation_of(image) in _SIDES_SWAPPED
    return (image.height, image.width) if swapped else image.size


def upright(image: Image.Image) -> Image.Image:
    """The decoded image as it is displayed."""
    return transposed(image, orientation_of(image))


def transposed(image: Image.Image, orientation: int) -> Image.Image:
    """An image of an EXIF orientation as it is displayed."""
    method = _TRANSPOSITIONS.get(orientation)
    return image if method is None else image.transpose(method)


def eight_bits(image: Image.Image) -> Image.Image:
    """An image of 16-bit grey with the high byte of each pixel; Pillow would clip it."""
    if not image.mode.startswith("I"):
        return image
    return image.point(lambda value: value * (1 / 256)).convert("L")


def png_of(data: bytes) -> bytes:
    """The first picture of an input of any format as a PNG, as it is displayed.

    It keeps a colour profile that fits, and no other metadata. Raises ImageError.
    """
    with open_image(data, tuple(INPUT_FORMATS)) as image:
        image.load()
        picture = upright(image)
        if picture.mode in ("I", "F"):
            raise ImageError("its pixels have 32 bits a channel: save it with 8 or 16")
        profile = image.info.get("icc_profile") if picture.mode not in ("CMYK", "LAB") else None
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
        elif picture.mode not in ("1", "L", "RGB") and not picture.mode.startswith("I;16"):
            picture = picture.convert("RGB")
        stream = io.BytesIO()
        picture.save(stream, "PNG", compress_level=1, icc_profile=profile)
    return stream.getvalue()


def converted(data: bytes, file_format: str, *, comment: str = "", software: str = "") -> bytes:
    """A run's image in another of ``RUN_FORMATS``, as it is displayed.

    EXIF holds ``comment`` as ``UserComment``, as WebUI servers write their settings, unless it is
    too long for it, and ``software``. JPEG has no transparency: white shows through. Raises
    ImageError.
    """
    with open_image(data) as image:
        image.load()
        picture = eight_bits(upright(image))
        if not picture.has_transparency_data:
            picture = picture.convert("RGB")
        elif file_format == "JPEG":
            picture = picture.convert("RGBA")
            below = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(below, picture).convert("RGB")
        else:
            picture = picture.convert("RGBA")
        exif = _exif(comment, software)
        if len(exif) > _MOST_EXIF_BYTES:
            exif = _exif("", software)
        stream = io.BytesIO()
        picture.save(stream, file_format, exif=exif, **_SAVED.get(file_format, {}))
    return stream.getvalue()


def _exif(comment: str, software: str) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = software
    if comment:
        text = b"UNICODE\0" + comment.encode("utf-16-be", "replace")
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = text
    return exif.tobytes()
