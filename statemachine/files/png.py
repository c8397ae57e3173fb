"""The ``stagewright`` chunk of a PNG: added, read and removed without touching pixels."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEYWORD = b"stagewright"
_OUR_START = KEYWORD + b"\0"
_TEXT_TYPES = (b"tEXt", b"zTXt", b"iTXt")
_HEADER = struct.Struct(">IIBBBBB")
_HEADER_START = len(SIGNATURE) + 8
_IHDR_END = len(SIGNATURE) + 25
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""The bit depths of each colour type."""
_METHODS = ((0, 0, 0), (0, 0, 1))
"""Compression, filter and interlace that are defined."""
_MOST_CHUNKS = 1 << 20
"""Far above what any encoder makes; each costs us a microsecond."""


_LONGEST_STAMP = 64 * 1024
"""A chunk that we write takes some hundred bytes."""


class PngError(ValueError):
    """The bytes are not a complete PNG; the message says at which byte."""


class Chunk(NamedTuple):
    """A part of a PNG: its type, and where its length begins and its checksum ends."""

    kind: bytes
    start: int
    end: int

    def body(self, data: bytes) -> bytes:
        """What the chunk of the PNG ``data`` holds, without length, type and checksum."""
        return data[self.start + 8 : self.end - 4]


def _shown(kind: bytes) -> str:
    return kind.decode("ascii", "backslashreplace")


def is_png(data: bytes) -> bool:
    """Whether ``data`` begins as a PNG does."""
    return data.startswith(SIGNATURE)


def chunks(data: bytes) -> Iterator[Chunk]:
    """Every chunk up to IEND. Raises PngError where the file is cut off or malformed."""
    if not is_png(data):
        raise PngError("the bytes do not begin with the signature of a PNG")
    position = len(SIGNATURE)
    first = True
    for _ in range(_MOST_CHUNKS):
        if position + 12 > len(data):
            raise PngError(f"the PNG ends at byte {len(data)} without an IEND chunk")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise PngError(f"the PNG ends inside the {_shown(kind)} chunk at byte {position}")
        if first and (kind != b"IHDR" or length != 13):
            raise PngError(f"the PNG begins with {_shown(kind)} instead of IHDR")
        first = False
        yield Chunk(kind, position, end)
        if kind == b"IEND":
            return
        position = end
    raise PngError(f"the PNG has more than {_MOST_CHUNKS} chunks")


def check_whole(data: bytes) -> tuple[int, int]:
    """Width and height in pixels of a complete PNG.

    Raises PngError unless its header is valid and every chunk passes its checksum. That
    covers each byte, so that the pixels need not be decoded.
    """
    view = memoryview(data)
    kinds = set()
    for kind, start, end in chunks(data):
        kinds.add(kind)
        if crc32(view[start + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise PngError(f"the {_shown(kind)} chunk at byte {start} fails its checksum")
    if b"IDAT" not in kinds:
        raise PngError("the PNG holds no pixels: it has no IDAT chunk")
    width, height, depth, colour, *methods = _HEADER.unpack_from(data, _HEADER_START)
    if not (width and height and depth in _DEPTHS.get(colour, ()) and tuple(methods) in _METHODS):
        raise PngError("the PNG's header makes no sense")
    return width, height


def size_in_header(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels from a PNG's header, or None where it has none."""
    if len(data) < _IHDR_END or data[len(SIGNATURE) + 4 : len(SIGNATURE) + 8] != b"IHDR":
        return None
    width, height, *_ = _HEADER.unpack_from(data, _HEADER_START)
    return width, height


def _is_ours(data: bytes, chunk: Chunk) -> bool:
    return chunk.kind in _TEXT_TYPES and data.startswith(_OUR_START, chunk.start + 8, chunk.end - 4)


def source_of(data: bytes) -> bytes:
    """The image without any ``stagewright`` chunk; anything but a complete PNG unchanged."""
    try:
        ours = [chunk for chunk in chunks(data) if _is_ours(data, chunk)]
    except PngError:
        return data
    if not ours:
        return data
    kept, position = [], 0
    for chunk in ours:
        kept.append(data[position : chunk.start])
        position = chunk.end
    return b"".join([*kept, data[position:]])


def stamp(source: bytes, facts: dict[str, Any]) -> bytes:
    """``source``, a PNG without our chunk, with ``facts`` as ASCII JSON right after IHDR."""
    text = _OUR_START + json.dumps(facts, separators=(",", ":")).encode("ascii")
    body = b"tEXt" + text
    chunk = struct.pack(">I", len(text)) + body + struct.pack(">I", crc32(body))
    return source[:_IHDR_END] + chunk + source[_IHDR_END:]


def read_stamp(data: bytes) -> dict[str, Any] | None:
    """The facts in the first ``stagewright`` chunk, or None where none can be read."""
    try:
        for chunk in chunks(data):
            if chunk.kind == b"tEXt" and _is_ours(data, chunk):
                if chunk.end - chunk.start > _LONGEST_STAMP:
                    return None
                text = chunk.body(data).removeprefix(_OUR_START)
                return msgspec.json.decode(text, type=dict[str, Any])
    except (ValueError, RecursionError):  # malformed, not JSON, not UTF-8, nested too deep
        return None
    return None
