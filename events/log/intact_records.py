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
from .format import HEADER_BYTES, MAX_LINE_BYTES, PREFIX, TRAILER, TRAILER_BYTES, body_length, check
from .storage import Storage

_MAX_REREADS = 16
"""After checking 16 times the file's size in vain, only line starts are tried (a forged log may
hold a false header every 48 bytes, each with a body of many MiB to be checked)."""


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
        self.opened, start = self._find_opened()
        offsets = {0: start}
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
            for place in range(len(self)):
                yield self._read(stream, place)

    def __getitem__(self, place: int) -> SoundRecord:
        """The record at ``place``, from 0. Raises IndexError, LogCorruptError."""
        with self._storage.open_read(self.path) as stream:
            return self._read(stream, place)

    def _read(self, stream: BinaryIO, place: int) -> SoundRecord:
        offset = self._offsets[place]
        stream.seek(offset)
        line = stream.readline(MAX_LINE_BYTES)
        body = check(line[: _end_of_body(line, 0)] + TRAILER)
        record = None if body is None else _decoded(offset, body)
        if record is None:
            reason = "it changed while it was being read"
            raise LogCorruptError(reason, offset=offset, seq=place, path=self.path)
        return record

    def _find_opened(self) -> tuple[RunOpened, int]:
        for record in self._in_file_order():
            if isinstance(record.event, RunOpened) and record.event.seq == 0:
                return record.event, record.offset
        raise PlanLostError(self.path, folder=self.path.parent / "images")

    def _in_file_order(self) -> Iterator[SoundRecord]:
        with self._storage.open_read(self.path) as stream:
            for offset, body in intact_bodies(stream):
                record = _decoded(offset, body)
                if record is not None:
                    yield record


def intact_bodies(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """First byte and body of each record that passes its own checks, in the order of the file.

    A record may begin within a line, where the newline before it is damaged, but it lies in one
    line: a body holds no line break.
    """
    left = _MAX_REREADS * stream.seek(0, 2)
    start = 0
    stream.seek(start)
    while line := stream.readline(2 * MAX_LINE_BYTES):
        at = line.find(PREFIX)
        while at >= 0:
            end = _end_of_body(line, at)
            body = check(line[at:end] + TRAILER)
            if body is not None:
                yield start + at, body
            else:
                left -= end - at
            # Behind the body, not the line: the newline may be what is damaged.
            after = at + 1 if body is None else end
            at = line.find(PREFIX, after) if left > 0 else -1
        start += len(line)
        if len(line) == 2 * MAX_LINE_BYTES:
            # A line that is longer than any: a record may lie across the place where it was cut.
            start -= MAX_LINE_BYTES
            stream.seek(start)


def _end_of_body(line: bytes, at: int) -> int:
    """Where the body of the record ends that begins there; ``at`` if it is not a whole record."""
    length = body_length(line[at : at + HEADER_BYTES])
    end = at + HEADER_BYTES + (length or 0)
    return end if length and end <= len(line) - line.endswith(b"\n") else at


def _decoded(offset: int, body: bytes) -> SoundRecord | None:
    try:
        return SoundRecord(offset, body, CODEC.decode(body))
    except EventDecodeError:
        return None  # the bytes are as they were written, but they are not an event
