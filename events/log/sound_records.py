"""The sound records of a corrupt log, wherever they are in the file.

A record is sound if it passes its own checks: the header's checksum, the length, the body's
checksum, the decoding, the run id. The chain is not checked: behind a damage it is unknown.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from ..codec import CODEC, EventDecodeError
from ..errors import EventLogError, LogCorruptError
from ..model import RunOpened, StageEvent
from .format import (
    HEADER_BYTES,
    PREFIX,
    TRAILER,
    TRAILER_BYTES,
    body_length,
    check,
)
from .storage import Storage

_WINDOW_BYTES = 256 * 1024
_MAX_REREADS = 16
"""After reading 16 times the file's size in vain, only line starts are tried (a forged log may
hold a false header every 48 bytes, each with a body of 16 MiB to be checked)."""


class PlanLostError(LogCorruptError):
    """A corrupt log without a sound RunOpened: what its images were made for is unknown."""

    def __init__(self, path: Path, *, folder: Path) -> None:
        reason = (
            "its RunOpened is damaged, and the plan with it, so nothing can be salvaged; the "
            f"images that were made are in {folder}"
        )
        # Not LogCorruptError's own message, which recommends salvage.
        EventLogError.__init__(self, f"corrupt at byte 0 (record 0): {reason}", path=path)
        self.reason = reason
        self.offset = 0
        self.seq = 0


class SoundRecord(msgspec.Struct, frozen=True):
    """One sound record: its first byte in the log, the bytes of ``e``, and their event."""

    offset: int
    body: bytes
    event: StageEvent

    @property
    def size(self) -> int:
        """The bytes of its whole line."""
        return HEADER_BYTES + len(self.body) + TRAILER_BYTES


class SoundRecords:
    """The sound records of a log in order of their sequence numbers, RunOpened first.

    Of records with the same number the first in the file counts; records of other runs do not.
    ``lost`` is how many numbers before the last one have no sound record. Holds 8 bytes for
    each record, and reads it again when it is asked for. Raises PlanLostError where there is
    no sound RunOpened, and OSError. Writes nothing.
    """

    def __init__(self, path: Path, *, storage: Storage) -> None:
        self.path = path
        self._storage = storage
        first = self._find_opened()
        assert isinstance(first.event, RunOpened)
        self.opened = first.event
        offsets = {0: first.offset}
        for record in self._in_file_order():
            # The number of an unknown event is not checked by its type.
            if record.event.run_id == self.opened.run_id and record.event.seq > 0:
                offsets.setdefault(record.event.seq, record.offset)
        seqs = sorted(offsets)
        self.lost = seqs[-1] + 1 - len(seqs)
        self._offsets = array("Q", [offsets[seq] for seq in seqs])

    def __len__(self) -> int:
        return len(self._offsets)

    def __iter__(self) -> Iterator[SoundRecord]:
        """Every record, read and checked again. Raises LogCorruptError if the log has changed."""
        with self._storage.open_read(self.path) as stream:
            search = _Search(stream)
            for place in range(len(self)):
                yield self._read(search, place)

    def __getitem__(self, place: int) -> SoundRecord:
        """The record at ``place``, from 0. Raises IndexError, LogCorruptError."""
        with self._storage.open_read(self.path) as stream:
            return self._read(_Search(stream), place)

    def _read(self, search: _Search, place: int) -> SoundRecord:
        offset = self._offsets[place]
        record = search.record_at(offset)
        if record is None:
            reason = "it changed while it was being read"
            raise LogCorruptError(reason, offset=offset, seq=place, path=self.path)
        return record

    def _find_opened(self) -> SoundRecord:
        for record in self._in_file_order():
            if isinstance(record.event, RunOpened) and record.event.seq == 0:
                return record
        raise PlanLostError(self.path, folder=self.path.parent / "images")

    def _in_file_order(self) -> Iterator[SoundRecord]:
        with self._storage.open_read(self.path) as stream:
            yield from _Search(stream).records()


class _Search:
    """Looks for records in a stream of bytes, wherever they begin."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._size = stream.seek(0, 2)
        self._window_start, self._window = 0, b""
        self._read_in_vain = 0

    def records(self) -> Iterator[SoundRecord]:
        """Every sound record in the order of the file."""
        offset = self._next_prefix(0)
        while offset < self._size:
            record = self.record_at(offset)
            if record is not None:
                yield record
            # Behind the body, not the line: the newline may be what is damaged.
            end = offset + 1 if record is None else offset + HEADER_BYTES + len(record.body)
            offset = self._next_prefix(end)

    def record_at(self, offset: int) -> SoundRecord | None:
        """The record that begins at ``offset``, if a sound one does; its newline may be gone."""
        self._stream.seek(offset)
        header = self._stream.read(HEADER_BYTES)
        length = body_length(header)
        if length is None:
            return None
        # By line, because a body holds no line break: a forged length costs one line at most.
        body = self._stream.readline(length)
        if not body.endswith(b"\n") and check(header + body + TRAILER) is not None:
            try:
                return SoundRecord(offset, body, CODEC.decode(body))
            except EventDecodeError:
                pass  # the bytes are as they were written, but they are no event
        self._read_in_vain += len(body)
        return None

    def _next_prefix(self, offset: int) -> int:
        """The next place from ``offset`` on that looks like the start of a record, or the end."""
        anywhere = self._read_in_vain <= _MAX_REREADS * self._size
        sought = PREFIX if anywhere else b"\n" + PREFIX
        while offset < self._size:
            start, window = self._window_start, self._window
            if not start <= offset <= start + len(window) - len(sought):
                self._stream.seek(offset)
                self._window_start, self._window = offset, self._stream.read(_WINDOW_BYTES)
                start, window = self._window_start, self._window
            found = window.find(sought, offset - start)
            if found >= 0:
                return start + found + (0 if anywhere else 1)
            # The next window overlaps by what is sought, which may lie across the border.
            offset = max(offset + 1, start + len(window) - len(sought) + 1)
        return self._size
