"""Repair of a torn tail: its bytes are kept beside the log before they are cut off."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path
from typing import BinaryIO

import msgspec

from .storage import Storage
from .verified_scan import TornTail

MAX_TORN_BYTES = 256 * 1024 * 1024
"""A crash leaves a few records and unwritten sectors; a longer tail is not read into memory."""


class RepairedTail(msgspec.Struct, frozen=True, kw_only=True):
    """A torn tail that was cut: ``bytes`` bytes from ``offset`` on, now in ``copied_to``."""

    offset: int
    bytes: int
    sha256: str
    copied_to: str


def copy_torn_tail(
    log: Path, end: int, torn: TornTail | None, copy_name: str, *, storage: Storage
) -> RepairedTail | None:
    """Copy the torn tail of a log, whose sound records end at ``end``, to ``copy_name`` beside it.

    The copy of an earlier process that died before it could record it is kept, and the tail is
    added to it. The caller cuts the log at ``end`` and records the result, which is None without
    a copy. Raises OSError.
    """
    copy = log.with_name(copy_name)
    try:
        with storage.open_read(copy) as stream:
            kept = _read_bounded(stream, copy_name)
    except FileNotFoundError:
        kept = b""
    if torn is not None:
        with storage.open_read(log) as stream:
            stream.seek(end)
            tail = _read_bounded(stream, "its torn tail")
        # The earlier process may have died between the copy and the cut, or before the copy was
        # durable: so it is written again.
        kept = kept if kept.endswith(tail) else kept + tail
        storage.write_file(copy, kept)
    if not kept:
        return None
    digest = hashlib.sha256(kept).hexdigest()
    return RepairedTail(offset=end, bytes=len(kept), sha256=digest, copied_to=copy_name)


def _read_bounded(stream: BinaryIO, what: str) -> bytes:
    data = stream.read(MAX_TORN_BYTES + 1)
    if len(data) > MAX_TORN_BYTES:
        raise OSError(
            errno.EFBIG, f"{what} is longer than {MAX_TORN_BYTES} bytes; move it elsewhere"
        )
    return data
