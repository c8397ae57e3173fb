"""What is sound of a corrupt log, found again behind every damage; and the log made from it.

A record is sound if it passes its own checks, whatever stands before it: its length, its two
checksums, its decoding, its run id. Only the chain cannot be checked behind a damage.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from .codec import CODEC, EventDecodeError
from .errors import EventLogError, LogCorruptError, LogWriteError
from .file_log import LOG_NAME
from .frame import (
    FIRST_CHAIN,
    HEADER_BYTES,
    MAX_BODY_BYTES,
    PREFIX,
    TRAILER,
    TRAILER_BYTES,
    body_length,
    check,
    frame,
    next_chain,
)
from .log import encode_checked
from .model import (
    Artifact,
    CallCompleted,
    CallRequested,
    RunOpened,
    StageEvent,
    StageImageProgress,
)
from .storage import PART_SUFFIX, AppendFile, Storage

_CHUNK_BYTES = 256 * 1024
_WRITE_BYTES = 1024 * 1024
_PATIENCE = 16
"""A file that makes us read it so many times over in vain is searched line by line only."""


class PlanLostError(LogCorruptError):
    """A corrupt log without a sound RunOpened: nobody knows what its images were made for."""

    def __init__(self, path: Path, *, folder: Path) -> None:
        reason = (
            "its RunOpened is damaged, and the plan with it, so nothing can be salvaged; the "
            f"images that were made are in {folder}"
        )
        EventLogError.__init__(self, f"corrupt at byte 0 (record 0): {reason}", path=path)
        self.reason = reason
        self.offset = 0
        self.seq = 0


class Tally(msgspec.Struct, kw_only=True):
    """Things that are of no use: how many, how many bytes, and where the first one begins."""

    count: int = 0
    bytes: int = 0
    offset: int | None = None

    def add(self, offset: int, size: int) -> None:
        """Count one more; the first byte of the first one stays."""
        self.count += 1
        self.bytes += size
        self.offset = offset if self.offset is None else min(offset, self.offset)


class RescuedRecord(msgspec.Struct, frozen=True):
    """One sound record: where it stands in the log, the bytes of ``e``, and their event."""

    offset: int
    body: bytes
    event: StageEvent

    @property
    def size(self) -> int:
        """The bytes of its whole line."""
        return HEADER_BYTES + len(self.body) + TRAILER_BYTES


class RescuedLog:
    """The sound records of a log, by sequence number; 16 bytes of memory for each.

    ``damage`` tells of the stretches of bytes that hold no sound record, ``foreign`` of
    records of other runs, ``repeated`` of records whose sequence number was there already.
    ``lost`` is how many sequence numbers before the last one are nowhere to be found. Raises
    PlanLostError where there is no sound RunOpened, and OSError. Writes nothing.
    """

    def __init__(self, path: Path, *, storage: Storage) -> None:
        self.path = path
        self._storage = storage
        self.damage, self.foreign, self.repeated = Tally(), Tally(), Tally()
        self._seqs, self._offsets = array("Q"), array("Q")
        self.opened = self._find_opened()
        self._find_all()
        self._put_in_order()
        self.lost = self._seqs[-1] + 1 - len(self._seqs)

    def __len__(self) -> int:
        return len(self._seqs)

    def records(self, *, latest_first: bool = False) -> Iterator[RescuedRecord]:
        """The records by sequence number, RunOpened first, or the other way round.

        Each is read and checked again. Raises LogCorruptError if the log has changed.
        """
        places = range(len(self))
        with self._storage.open_read(self.path) as stream:
            search = _Search(stream)
            for place in reversed(places) if latest_first else places:
                yield self._read(search, place)

    def record(self, place: int) -> RescuedRecord:
        """The record at ``place`` of ``records()``. Raises LogCorruptError."""
        with self._storage.open_read(self.path) as stream:
            return self._read(_Search(stream), place)

    def _read(self, search: _Search, place: int) -> RescuedRecord:
        offset = self._offsets[place]
        found = search.record_at(offset)
        if found is None:
            reason = "it changed while it was being read"
            raise LogCorruptError(reason, offset=offset, seq=self._seqs[place], path=self.path)
        return found

    def _find_opened(self) -> RunOpened:
        with self._storage.open_read(self.path) as stream:
            for found in _Search(stream).records(Tally()):
                if isinstance(found.event, RunOpened) and found.event.seq == 0:
                    return found.event
        raise PlanLostError(self.path, folder=self.path.parent / "images")

    def _find_all(self) -> None:
        with self._storage.open_read(self.path) as stream:
            for found in _Search(stream).records(self.damage):
                if found.event.run_id != self.opened.run_id:
                    self.foreign.add(found.offset, found.size)
                else:
                    self._seqs.append(found.event.seq)
                    self._offsets.append(found.offset)

    def _put_in_order(self) -> None:
        """Sort by sequence number: a sound record that was moved still says where it belongs."""
        if all(before < after for before, after in pairwise(self._seqs)):
            return
        seqs, offsets = array("Q"), array("Q")
        for place in sorted(range(len(self._seqs)), key=self._seqs.__getitem__):
            seq, offset = self._seqs[place], self._offsets[place]
            if seqs and seqs[-1] == seq:
                self.repeated.add(offset, self.record(place).size)
            else:
                seqs.append(seq)
                offsets.append(offset)
        self._seqs, self._offsets = seqs, offsets


class _Search:
    """Looks for records in a stream of bytes, wherever they begin."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._size = stream.seek(0, 2)
        self._window = (0, b"")
        self._wasted = 0

    def records(self, damage: Tally) -> Iterator[RescuedRecord]:
        """Every sound record as it comes; ``damage`` is told what lies between them."""
        position = end = 0
        while position < self._size:
            found = self.record_at(position)
            if found is None:
                position = self._next_start(position + 1)
                continue
            if position > end:
                damage.add(end, position - end)
            yield found
            position = end = min(self._after(found), self._size)
        if self._size > end:
            damage.add(end, self._size - end)

    def record_at(self, offset: int) -> RescuedRecord | None:
        """The record that begins at ``offset``, if a sound one does; its newline may be gone."""
        self._stream.seek(offset)
        header = self._stream.read(HEADER_BYTES)
        length = body_length(header)
        if length is None:
            return None
        # A line ends a record, whatever its header says: JSON has no line break of its own.
        rest = self._stream.readline(length + TRAILER_BYTES)
        body = check(header + rest[:length] + TRAILER) if len(rest) >= length else None
        if body is not None and b"\n" not in body:
            try:
                return RescuedRecord(offset, body, CODEC.decode(body))
            except EventDecodeError:
                pass  # it is as it was written, and no event all the same
        self._wasted += len(rest)
        return None

    def _after(self, record: RescuedRecord) -> int:
        """Where the next record may begin: behind as much of the line's end as is there."""
        end = record.offset + HEADER_BYTES + len(record.body)
        self._stream.seek(end)
        trailer = self._stream.read(TRAILER_BYTES)
        if trailer == TRAILER:
            return end + TRAILER_BYTES
        return end + trailer.startswith(TRAILER[:1])

    def _next_start(self, offset: int) -> int:
        """The next place from ``offset`` on that looks like the beginning of a record."""
        patient = self._wasted <= _PATIENCE * self._size
        sought = PREFIX if patient else b"\n" + PREFIX
        while offset < self._size:
            start, window = self._window
            if not start <= offset < start + len(window) - len(sought):
                self._stream.seek(offset)
                start, window = self._window = (offset, self._stream.read(_CHUNK_BYTES))
            found = window.find(sought, offset - start)
            if found >= 0:
                return start + found + (not patient)
            if start + len(window) >= self._size:
                break
            # What is sought may begin in this window and end behind it.
            offset = start + len(window) - len(sought) + 1
        return self._size


class Choice(msgspec.Struct, frozen=True):
    """Which records of images tell of files that are there.

    ``dropped`` are the sequence numbers of records that do not, ``settled`` the paths that a
    sound CallCompleted vouches for, ``halved`` those of answers of which a file is missing.
    ``orphans`` are the call ids of answers that are kept and whose requests are lost.
    """

    dropped: set[int]
    settled: set[str]
    halved: set[str]
    orphans: set[str]

    def drops(self, event: StageEvent) -> bool:
        """Whether a record is to be left out: an answer counts whole or not at all."""
        if isinstance(event, StageImageProgress) and event.artifact.path in self.halved:
            return event.artifact.path not in self.settled
        return event.seq in self.dropped


def choose(rescued: RescuedLog, is_there: Callable[[Artifact], bool]) -> Choice:
    """Go through the records of images from the last to the first.

    A record whose file was replaced since stays, behind it stands the CallCompleted that
    replaced it; so a resume knows that what was made of the first is to be looked at. Raises
    LogCorruptError if the log has changed.
    """
    choice, calls = Choice(set(), set(), set(), set()), set[str]()
    for record in rescued.records(latest_first=True):
        event = record.event
        if isinstance(event, CallCompleted):
            paths = [artifact.path for artifact in event.artifacts]
            if all(one.path in choice.settled or is_there(one) for one in event.artifacts):
                choice.settled.update(paths)
                choice.orphans.add(event.call_id)
            else:
                choice.halved.update(paths)
                choice.dropped.add(event.seq)
                calls.add(event.call_id)
        elif isinstance(event, StageImageProgress):
            if event.artifact.path not in choice.settled and not is_there(event.artifact):
                choice.dropped.add(event.seq)
        elif isinstance(event, CallRequested):
            choice.orphans.discard(event.call_id)
            if event.call_id in calls:
                choice.dropped.add(event.seq)
    return choice


def readdressed(body: bytes, *, run_id: str, seq: int, epoch: int) -> bytes:
    """The bytes of an event as one of another log; fields that nobody here knows stay."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    new: dict[str, Any] = {"run_id": run_id, "seq": seq, "epoch": epoch}
    for name, value in new.items():
        fields[name] = msgspec.Raw(msgspec.json.encode(value))
    return msgspec.json.encode(fields)


class LogDraft:
    """A whole new log: written under a temporary name, in bounded memory, there by rename.

    ``close`` it in any case; what was not published then stays a temporary file. Every method
    may raise OSError.
    """

    def __init__(self, folder: Path, *, storage: Storage) -> None:
        self._path = folder / LOG_NAME
        self._part = folder / f".{LOG_NAME}.draft{PART_SUFFIX}"
        self._storage = storage
        self._chain = FIRST_CHAIN
        self._waiting = bytearray()
        self._end = 0
        self.next_seq = 0
        storage.write_file(self._part, b"", durable=False)
        self._file: AppendFile | None = storage.open_append(self._part)

    def append(self, body: bytes) -> None:
        """Add the bytes of the next event. Raises LogWriteError if they are too many."""
        if len(body) > MAX_BODY_BYTES:
            raise LogWriteError(
                f"record {self.next_seq} takes {len(body)} bytes, not {MAX_BODY_BYTES}",
                path=self._path,
            )
        line = frame(body, self._chain)
        self._waiting += line
        self._end += len(line)
        self._chain = next_chain(self._chain, body)
        self.next_seq += 1
        if len(self._waiting) >= _WRITE_BYTES:
            self._write()

    def append_last(self, event: StageEvent) -> None:
        """Add the last event; it ends where what is appended later may begin."""
        self.append(encode_checked(event, self._end))

    def publish(self) -> None:
        """Put the log where it makes its folder a run, durably; nothing can be added then."""
        self._write()
        assert self._file is not None
        self._file.sync()
        self.close()
        self._storage.rename(self._part, self._path)
        self._storage.sync_folder(self._path.parent)

    def close(self) -> None:
        """Give the descriptor back; closing twice is fine."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _write(self) -> None:
        assert self._file is not None
        _write_whole(self._file, bytes(self._waiting))
        self._waiting.clear()


class CopiedFile(msgspec.Struct, frozen=True):
    """What was copied: how many bytes, and their SHA-256."""

    bytes: int
    sha256: str


def copy_file(source: Path, target: Path, *, storage: Storage) -> CopiedFile:
    """Copy a file's bytes to a new file, synced, in bounded memory; its folder is not synced.

    Raises OSError.
    """
    digest, size = sha256(), 0
    with storage.open_read(source) as stream:
        storage.write_file(target, b"", durable=False)
        file = storage.open_append(target)
        try:
            while chunk := stream.read(_WRITE_BYTES):
                _write_whole(file, chunk)
                digest.update(chunk)
                size += len(chunk)
            file.sync()
        finally:
            file.close()
    return CopiedFile(size, digest.hexdigest())


def _write_whole(file: AppendFile, data: bytes) -> None:
    """Write all of ``data``, however little is taken at once."""
    while data:
        taken = file.write(data)
        if taken <= 0:
            raise OSError(f"0 of {len(data)} bytes were taken")
        data = data[taken:]
