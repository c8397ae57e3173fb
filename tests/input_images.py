"""Input images as people have them: files of every format, with every kind of metadata."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from stagewright.adapters import EmbeddedBackend, PillowInputReader
from stagewright.adapters.thumbnails import thumbnail_of
from stagewright.events import PipelineRunResult
from stagewright.statemachine import (
    PipelineController,
)

from .support import ScriptedBackend

WAIT_S = 60
SIZE = (64, 40)
READER = PillowInputReader()


def picture() -> Image.Image:
    """A picture that looks different from every side."""
    image = Image.new("RGB", SIZE, "navy")
    image.paste("orange", (0, 0, 40, 12))
    image.paste("white", (0, 0, 8, 8))
    return image


def saved(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    (image or picture()).save(stream, kind, **options)
    return stream.getvalue()


def exif(orientation: int) -> bytes:
    found = Image.Exif()
    found[0x0112] = orientation
    return found.tobytes()


def xmp(orientation: int, padding: int = 0) -> bytes:
    turned = f'<rdf:Description tiff:Orientation="{orientation}"/>'
    return f"<x:xmpmeta><rdf:RDF>{turned}</rdf:RDF></x:xmpmeta>{' ' * padding}".encode()


def chunk(kind: bytes, body: bytes, *, checksum: int | None = None) -> bytes:
    crc = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def png_with(*chunks: bytes, behind: bool = False) -> bytes:
    """The picture as a PNG with these chunks before its pixels, or behind them."""
    data = saved("PNG")
    place = len(data) - 12 if behind else 33
    return data[:place] + b"".join(chunks) + data[place:]


def raw_profile(data: bytes) -> bytes:
    return f"\nexif\n{len(data):8}\n{data.hex()}\n".encode()


def text(keyword: bytes, value: bytes) -> bytes:
    return chunk(b"tEXt", keyword + b"\0" + value)


def packed_text(keyword: bytes, value: bytes) -> bytes:
    return chunk(b"zTXt", keyword + b"\0\0" + zlib.compress(value))


def international(keyword: bytes, value: bytes, *, packed: bool = False) -> bytes:
    value = zlib.compress(value) if packed else value
    return chunk(b"iTXt", keyword + (b"\0\1" if packed else b"\0\0") + b"\0\0\0" + value)


XMP, RAW = b"XML:com.adobe.xmp", b"Raw profile type exif"


def two_pictures(**options: Any) -> bytes:
    """A JPEG with a second picture behind the first, as cameras make it."""
    preview = Image.new("RGB", (16, 16), "red")
    return saved("MPO", save_all=True, append_images=[preview], **options)


def heic(**options: Any) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs the extra heic")
    pillow_heif.register_heif_opener()
    return saved("HEIF", **options)


def shown(data: bytes) -> tuple[int, int]:
    """The displayed size of an input; if the run keeps the file, the header says it as well."""
    facts = READER.inspect(data, name="in", convertible=True)
    if facts.media_type in ("image/png", "image/jpeg", "image/webp"):
        assert READER.inspect(data, name="in", decode=False) == facts
    return facts.width, facts.height


def finished(
    runs: Path, config: dict[str, Any], backend: ScriptedBackend | EmbeddedBackend
) -> PipelineRunResult:
    controller = PipelineController(backend=backend, runs=runs, inputs=READER)
    return controller.start(config).wait(WAIT_S)


def thumbnail_size(file: Path) -> tuple[int, int]:
    """The size of a thumbnail, which does not pass the orientation on."""
    image = Image.open(io.BytesIO(thumbnail_of(file)))
    assert not image.getexif()
    return image.size


UNREADABLE = [
    b"",
    b"garbage garbage",
    b"b'Exif\\x00\\x00MM\\x00*'",
    b"MM\0*\0\0\0\xff",
    b"MM\0*\0\0\0\x08\xff\xff",
    b"II*\0\xff\xff\xff\xff",
    b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\xff\xff\xff\xff\0\0\0\6",
    b"MM\0*\0\0\0\x08\0\1\1\x12\0\2\0\0\0\4six\0",
    b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\x63\0\0",
]


def damaged_lists() -> list[bytes]:
    """JPEGs of two pictures in which one byte of the list of pictures is wrong."""
    whole = two_pictures()
    start = whole.index(b"MPF\0") + 4
    places = range(start, start + 80, 3)
    return [whole[:place] + b"\xff" + whole[place + 1 :] for place in places]
