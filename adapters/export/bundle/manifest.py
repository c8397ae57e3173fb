"""The manifest of a bundle, ``manifest.json``."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ....events.codec import DECODE_ERRORS
from ....events.log.storage import open_regular
from ....events.model import RunState
from .source import ByteRange

MANIFEST_NAME = "manifest.json"
THUMBNAILS = "thumbnails"
"""The folder of a bundle that holds the thumbnails."""
BUNDLE_FORMAT = 1
_MOST_BYTES = 16 * 1024 * 1024


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of private text that was replaced, and how often."""

    what: str
    count: int


class NotBundled(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded file that the bundle does not hold, or only as a thumbnail."""

    path: str
    why: str


class BundledLog(msgspec.Struct, frozen=True, kw_only=True):
    """The original log and the log in the bundle.

    ``head`` is the chain value of the original log, ``bundled_head`` that of the log in the
    bundle. ``head`` is None where credentials were replaced, because it would allow guesses to
    be tested. ``renumbered`` says that records were lost, so that the sequence numbers differ
    from the original; ``running`` that a process was executing the run meanwhile.
    """

    records: int
    state: RunState
    head: str | None
    bundled_head: str
    renumbered: bool
    running: bool = False


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a bundle.

    ``log`` is None if no record is readable. ``corrupt`` says how the log is corrupt, "" if it
    is sound. ``not_in_log`` lists the byte ranges of damaged or torn records, which are left
    out because they cannot be searched for secrets. ``not_bundled`` lists the first files of
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
