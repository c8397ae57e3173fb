"""The seed of an image file: a WebUI writes it into its settings, a run into its name."""

from __future__ import annotations

import re

from .png import PngError, chunks, is_png, read_stamp

_PARAMETERS = b"parameters\0"
_SEED = re.compile(r"(?:^|[\n,] ?)Seed: ([0-9]{1,10})(?![0-9])")
_NAME_IN_RUN = re.compile(r"[0-9]{5,}-([0-9]{1,10})(?![0-9])")
_USER_COMMENT = b"UNICODE\0"
"""What precedes the settings in the EXIF data of a JPEG or WebP, which are big-endian UTF-16."""
_LONGEST_COMMENT = 1 << 17


def recorded_seed(data: bytes, name: str) -> int | None:
    """The seed in the settings of an image, or in its ``name`` if a run made it; else None."""
    if found := _SEED.findall(_settings(data)):
        return int(found[-1])
    named = _NAME_IN_RUN.match(name)
    return int(named[1]) if named and read_stamp(data) else None


def _settings(data: bytes) -> str:
    if not is_png(data):
        start = data.find(_USER_COMMENT) + len(_USER_COMMENT)
        if start < len(_USER_COMMENT):
            return ""
        comment = data[start : start + _LONGEST_COMMENT]
        return comment.decode("utf-16-be", "replace")
    try:
        texts = [chunk.body(data) for chunk in chunks(data) if chunk.kind in (b"tEXt", b"iTXt")]
    except PngError:
        return ""
    found = (text for text in texts if text.startswith(_PARAMETERS))
    return next(found, b"").decode("utf-8", "replace")
