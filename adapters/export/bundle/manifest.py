"""What a bundle says of itself, beside the log: ``manifest.json``."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ....events.codec import DECODE_ERRORS
from ....events.log.storage import open_regular
from ....events.model import RunState
from .source import ByteRange

MANIFEST_NAME = "manifest.json"
THUMBNAILS = "thumbnails"
"""The folder of a bundle with a small picture of each image."""
BUNDLE_FORMAT = 1
_MOST_BYTES = 16 * 1024 * 1024


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of what was taken out of texts, and how often it stood there."""

    what: str
    count: int


class NotBundled(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded file of which the bundle holds nothing, or no whole copy."""

    path: str
    why: str


class BundledLog(msgspec.Struct, frozen=True, kw_only=True):
    """The log as it was, and as it is in the bundle.

    ``head`` is the chain value of the log that the bundle was made from, ``bundled_head`` that
    of the one in it. ``head`` is None where credentials were taken out: with it, guesses of
    them could be tried. ``renumbered`` says that records are lost, and the sequence numbers of
    the others not what they were; ``running`` that a process worked on the run meanwhile.
    """

    records: int
    state: RunState
    head: str | None
    bundled_head: str
    renumbered: bool
    running: bool = False


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle as a whole.

    ``log`` is None where not one record could be told. ``corrupt`` says how the log is, "" if
    it is sound; ``not_in_log`` names the bytes of it that no record stands in: they are damaged,
    or torn, and nobody can say which secrets are in them. ``not_bundled`` lists the first files of
    ``not_bundled_count``.
    """

    bundle: int = BUNDLE_FORMAT
    software: str
    run_id: str
    log: BundledLog | None
    corrupt: str
    not_in_log: tuple[ByteRange, ...]
    left_out: tuple[LeftOut, ...]
    thumbnails: int
    images: int
    with_images: bool
    not_bundled: tuple[NotBundled, ...]
    not_bundled_count: int


def manifest_in(folder: Path) -> Manifest | None:
    """The manifest of the bundle that was unpacked to ``folder``; None where there is none."""
    try:
        with open_regular(folder / MANIFEST_NAME) as stream:
            return msgspec.json.decode(stream.read(_MOST_BYTES), type=Manifest)
    except (OSError, *DECODE_ERRORS):
        return None


def lacks_images(folder: Path) -> bool:
    """Whether a run folder is an unpacked bundle that was made without the image files."""
    manifest = manifest_in(folder)
    return manifest is not None and not manifest.with_images
