"""The texts in an image file: chunks of a PNG, EXIF of a JPEG or WebP."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from ...events.errors import StagewrightError
from ...statemachine.files.png import PngError, chunks, is_png
from ..imaging import ImageError, open_image

MAX_TEXT = 8 * 1024 * 1024
"""The longest text in bytes that is read; the graphs of large ComfyUI workflows take one."""
_LONGEST_KEYWORD = 80
USER_COMMENT, MAKE, CAMERA_MODEL, SOFTWARE = 0x9286, 0x010F, 0x0110, 0x0131
_EXIF_TABLE = 0x8769
_ENCODINGS = {b"UNICODE\0": "utf-16-be", b"ASCII\0\0\0": "ascii", b"\0" * 8: "utf-8"}
_WORDS = {USER_COMMENT: "UserComment", MAKE: "Make", CAMERA_MODEL: "Model", SOFTWARE: "Software"}


class ImageMetadataError(StagewrightError, ValueError):
    """The metadata of an image cannot be read."""


def texts_of(data: bytes, name: str) -> Mapping[str, str]:
    """The texts of an image by keyword; of several with one keyword, the first.

    Those of EXIF are ``UserComment``, ``Make``, ``Model`` and ``Software``. Raises
    ImageMetadataError, which names the image, for a file that is no image, and for a text that
    is malformed or longer than ``MAX_TEXT``.
    """
    found: dict[str, str] = {}
    try:
        for keyword, text in _png_texts(data) if is_png(data) else _exif_texts(data):
            found.setdefault(keyword, text)
    except (PngError, ImageError, zlib.error, ValueError) as error:
        raise ImageMetadataError(f"{name}: its metadata cannot be read: {error}") from error
    return found


def _png_texts(data: bytes) -> Iterator[tuple[str, str]]:
    for chunk in chunks(data):
        if chunk.kind not in (b"tEXt", b"zTXt", b"iTXt"):
            continue
        start = chunk.start + 8
        word = data[start : start + _LONGEST_KEYWORD].partition(b"\0")[0].decode("latin-1")
        # Before the text is copied, which takes as much memory again.
        _refuse_longer(word, chunk.end - start - len(word))
        body = chunk.body(data)[len(word) + 1 :]
        if chunk.kind == b"tEXt":
            yield word, body.decode("latin-1")
        elif chunk.kind == b"zTXt":
            yield word, _unpacked(word, body[1:]).decode("latin-1")
        else:
            packed, text = body[:1] == b"\1", body[2:].split(b"\0", 2)[-1]
            yield word, (_unpacked(word, text) if packed else text).decode("utf-8", "replace")


def _exif_texts(data: bytes) -> Iterator[tuple[str, str]]:
    with open_image(data, metadata=True) as image:
        exif = image.getexif()
        values = {**exif, **exif.get_ifd(_EXIF_TABLE)}
    for tag, word in _WORDS.items():
        if tag in values:
            yield word, _exif_text(word, values[tag])


def _exif_text(word: str, value: Any) -> str:
    if not isinstance(value, bytes):
        return _bounded(word, str(value).encode("utf-8", "replace")).decode()
    body = _bounded(word, value)
    encoding = _ENCODINGS.get(body[:8])
    if encoding == "utf-16-be" and body[8:10] and not body[8]:
        return body[8:].decode("utf-16-be", "replace")
    if encoding == "utf-16-be":
        return body[8:].decode("utf-16-le", "replace")
    return (body[8:] if encoding else body).decode("utf-8", "replace")


def _bounded(word: str, text: bytes) -> bytes:
    _refuse_longer(word, len(text))
    return text


def _refuse_longer(word: str, length: int) -> None:
    if length > MAX_TEXT:
        raise ValueError(f"its text {word!r} is longer than {MAX_TEXT} bytes")


def _unpacked(word: str, packed: bytes) -> bytes:
    stream = zlib.decompressobj()
    return _bounded(word, stream.decompress(packed, MAX_TEXT + 1))
