"""The manifest of a bundle, ``manifest.json``."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ....events.codec import DECODE_ERRORS
from ....events.log.storage import open_regular
from ....events.model import RunState

MANIFEST_NAME = "manifest.json"
THUMBNAILS = "thumbnails"
"""The folder of a bundle that holds the thumbnails."""
_MOST_BYTES = 16 * 1024 * 1024


class ByteRange(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of a log: a torn tail, or everything from a damaged record on."""

    offset: int
    bytes: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a bundle.

    ``records`` are in its log, which ends in ``state``; ``running`` says that a process was
    executing the run meanwhile. ``corrupt`` says how the original log is corrupt, "" if it is
    sound. ``not_in_log`` are the bytes of it that are left out because they cannot be searched
    for secrets. ``replaced`` counts the replacements by kind. ``with_images`` says whether
    ``images`` files are copied, with the texts in them; ``not_bundled`` says which
    recorded files the bundle does not hold, or only as a thumbnail, and why.
    """

    bundle: int = 1
    software: str
    run_id: str
    records: int
    state: RunState
    running: bool
    corrupt: str
    not_in_log: ByteRange | None
    replaced: dict[str, int]
    thumbnails: int
    images: int
    with_images: bool
    not_bundled: dict[str, str]


def manifest_in(folder: Path) -> Manifest | None:
    """The manifest of an unpacked bundle; None if ``folder`` is not one."""
    try:
        with open_regular(folder / MANIFEST_NAME) as stream:
            return msgspec.json.decode(stream.read(_MOST_BYTES), type=Manifest)
    except (OSError, *DECODE_ERRORS):
        return None


def lacks_images(folder: Path) -> bool:
    """Whether a run folder is an unpacked bundle that was made without the image files."""
    manifest = manifest_in(folder)
    return manifest is not None and not manifest.with_images
