"""The thumbnails of a bundle, and the image files if requested."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ....events.log.storage import open_regular
from ....statemachine.files.png import chunks, is_png
from ....statemachine.files.recorded_files import FileState, RecordedFile, WrongFile, read_file
from ...imaging import ImageError, open_image
from ...thumbnails import thumbnail_of
from .redaction import Redactor

_SIDE = 128
_THREADS = 4
_AT_ONCE = 8
_MOST_TEXT = 16 * 1024 * 1024
"""The largest size of one text after decompression."""
_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"fdAT")


class Picture(NamedTuple):
    """A recorded file: its thumbnail and its bytes, if they may be in the bundle.

    ``missing`` says why one of these is not there, ``altered`` that the file is not the recorded
    one.
    """

    file: RecordedFile
    thumbnail: bytes = b""
    data: bytes = b""
    missing: tuple[str, ...] = ()
    altered: bool = False


def read_pictures(
    folder: Path,
    files: Iterable[RecordedFile],
    redactor: Redactor,
    *,
    images: bool,
    thumbnails: bool,
) -> Iterator[Picture]:
    """The recorded files of a run folder in order, read by a few threads; follows no links."""

    def read(file: RecordedFile) -> Picture:
        if file.removed:
            return Picture(file, missing=("it was removed on purpose",))
        data = read_file(folder, file.path, file.sha256, open_regular)
        if isinstance(data, WrongFile):
            return Picture(file, missing=(str(data),), altered=data.state is FileState.ALTERED)
        thumbnail = b""
        missing: tuple[str, ...] = ()
        try:
            if thumbnails and file.stage_id:
                thumbnail = thumbnail_of(folder / file.path, _SIDE)
        except (ImageError, OSError):
            missing = ("no thumbnail: it cannot be decoded",)
        if not images:
            return Picture(file, thumbnail, missing=missing)
        objection = _objection(file.path, data, redactor)
        if objection:
            return Picture(file, thumbnail, missing=(*missing, objection))
        return Picture(file, thumbnail, data, missing)

    waiting = iter(files)
    with ThreadPoolExecutor(_THREADS) as threads:
        while chunk := list(islice(waiting, _AT_ONCE)):
            yield from threads.map(read, chunk)


def _objection(path: str, data: bytes, redactor: Redactor) -> str:
    """Why an image file may not be in the bundle; "" if it may."""
    if redactor.changes(path):
        return "its path holds private text"
    try:
        texts = list(_texts_of_png(data) if is_png(data) else _texts_of_others(data))
    except (ImageError, ValueError, zlib.error):
        return "its metadata cannot be searched for private text"
    return "its metadata holds private text" if any(map(redactor.holds_secret, texts)) else ""


def _texts_of_png(data: bytes) -> Iterator[str]:
    end = 0
    for chunk in chunks(data):
        body, end = data[chunk.start + 8 : chunk.end - 4], chunk.end
        if chunk.kind not in _PIXELS:
            yield _decoded(body)
        if chunk.kind in (b"zTXt", b"iCCP"):
            yield _decoded(_unpacked(body.partition(b"\0")[2][1:]))
        elif chunk.kind == b"iTXt":
            _, flag, *parts = body.split(b"\0", 4)
            yield _decoded(_unpacked(parts[-1]) if flag == b"\1" else b"")
    yield _decoded(data[end:])


def _unpacked(packed: bytes) -> bytes:
    stream = zlib.decompressobj()
    text = stream.decompress(packed, _MOST_TEXT)
    if not stream.eof:
        raise ValueError("a text is cut off, or is longer than 16 MiB")
    return text


def _texts_of_others(data: bytes) -> Iterator[str]:
    with open_image(data, metadata=True) as image:
        image.load()
        # The segments of a JPEG, of which ``info`` has the last one of a name.
        parts: list[Any] = [body for _, body in getattr(image, "applist", ())]
        parts += [value for pair in image.info.items() for value in pair]
    for part in parts:
        yield _decoded(part) if isinstance(part, bytes) else str(part)


def _decoded(part: bytes) -> str:
    """Bytes as text; without NUL bytes, texts with two bytes a character can be searched too."""
    return part.replace(b"\0", b"").decode("utf-8", "replace")
