"""Reads the texts in the metadata of an image file."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from typing import Any

from ....statemachine.files.png import PngError, chunks, is_png
from ...image_decoding import DECODING_ERRORS, FORMATS, without_warnings

_MOST_TEXT = 16 * 1024 * 1024
"""The largest size of one text after decompression."""
_PACKED = (b"zTXt", b"iCCP")
_NO_TEXT = frozenset([b"IHDR", b"PLTE", b"IDAT", b"IEND", b"fdAT"])
_PLAIN = frozenset(
    [
        *(b"tEXt", b"eXIf", b"sPLT", b"pCAL", b"sCAL", b"gIFx", b"gIFt"),
        *(b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"acTL", b"fcTL", b"gIFg"),
        *(b"bKGD", b"hIST", b"pHYs", b"tIME", b"cICP", b"mDCV", b"cLLI", b"oFFs", b"sTER"),
        *(b"iDOT", b"vpAg", b"orNT", b"caNv"),
    ]
)
_HEX_PROFILE = b"Raw profile type"
"""Keywords with this beginning mark texts of hexadecimal digits."""
_JPEG_END, _JPEG_START, _JPEG_PIXELS = b"\xff\xd9", b"\xff\xd8", b"\xda"
_WEBP_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANMF")


class _UnreadablePartError(ValueError):
    """A part of an image that cannot be searched for texts."""


def texts_in(data: bytes) -> list[str] | None:
    """The texts, some decoded in several ways; None if a part cannot be searched.

    That is an unknown chunk of a PNG, a text that unpacks to more than 16 MiB, data after the
    end of the image, or a file that is not PNG, JPEG or WebP.
    """
    try:
        parts = _parts_of_png(data) if is_png(data) else _parts_of_others(data)
        return [text for part in parts for text in _readings(part)]
    except (_UnreadablePartError, PngError, zlib.error, ValueError):
        return None


def _parts_of_png(data: bytes) -> Iterator[bytes]:
    end = 0
    for chunk in chunks(data):
        body, end = data[chunk.start + 8 : chunk.end - 4], chunk.end
        if chunk.kind in _PACKED:
            keyword, _, packed = body.partition(b"\0")
            yield keyword
            yield _profile(keyword, _unpacked(packed[1:]))
        elif chunk.kind == b"iTXt":
            yield from _international(body)
        elif chunk.kind in _PLAIN:
            keyword, _, text = body.partition(b"\0")
            yield _profile(keyword, text) if chunk.kind == b"tEXt" else body
            yield keyword
        elif chunk.kind not in _NO_TEXT:
            raise _UnreadablePartError(f"unknown chunk {chunk.kind!r}")
    if end != len(data):
        raise _UnreadablePartError("data after the end of the PNG")


def _international(body: bytes) -> Iterator[bytes]:
    keyword, _, rest = body.partition(b"\0")
    flags, rest = rest[:2], rest[2:]
    language, _, rest = rest.partition(b"\0")
    translated, _, text = rest.partition(b"\0")
    yield from (keyword, language, translated)
    yield _unpacked(text) if flags[:1] == b"\1" else text


def _unpacked(packed: bytes) -> bytes:
    stream = zlib.decompressobj()
    text = stream.decompress(packed, _MOST_TEXT)
    if stream.unconsumed_tail or stream.unused_data or not stream.eof:
        raise _UnreadablePartError("a text is too long, or followed by other data")
    return text


def _profile(keyword: bytes, text: bytes) -> bytes:
    """The text, or the bytes that it holds as digits behind their kind and number."""
    if not keyword.startswith(_HEX_PROFILE):
        return text
    return bytes.fromhex(b"".join(text.split()[2:]).decode("ascii"))


def _parts_of_others(data: bytes) -> Iterator[bytes]:
    from PIL import Image  # noqa: PLC0415 - it takes 20 ms to load, and only --images needs it

    if data.startswith(_JPEG_START):
        yield from _segments_of_jpeg(data)
    elif data[:4] == b"RIFF":
        yield from _chunks_of_webp(data)
    try:
        with without_warnings(), Image.open(io.BytesIO(data), formats=list(FORMATS)) as image:
            image.load()
            values: dict[Any, Any] = dict(image.info)
    except (*DECODING_ERRORS, Image.DecompressionBombError) as error:
        raise _UnreadablePartError(str(error)) from error
    for name, value in values.items():
        yield str(name).encode()
        yield value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


def _segments_of_jpeg(data: bytes) -> Iterator[bytes]:
    """The segments before the pixels."""
    if not data.endswith(_JPEG_END):
        raise _UnreadablePartError("data after the end of the JPEG")
    place = len(_JPEG_START)
    while data[place : place + 1] == b"\xff" and data[place + 1 : place + 2] != _JPEG_PIXELS:
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        yield data[place + 4 : end]
        place = end


def _chunks_of_webp(data: bytes) -> Iterator[bytes]:
    """All that is not made of pixels."""
    if int.from_bytes(data[4:8], "little") + 8 != len(data):
        raise _UnreadablePartError("data after the end of the WebP")
    place = 12
    while place < len(data):
        end = place + 8 + int.from_bytes(data[place + 4 : place + 8], "little")
        if data[place : place + 4] not in _WEBP_PIXELS:
            yield data[place + 8 : end]
        place = end + end % 2


def _readings(part: bytes) -> Iterator[str]:
    """Bytes as texts: of one byte a character, or of two, from the first or the second on."""
    yield part.decode("utf-8", "replace")
    if b"\0" in part:
        yield part.replace(b"\0", b"").decode("utf-8", "replace")
        for order in ("utf-16-le", "utf-16-be"):
            for begin in (0, 1):
                yield part[begin:].decode(order, "replace")
    elif not part.isascii():
        yield part.decode("latin-1")
