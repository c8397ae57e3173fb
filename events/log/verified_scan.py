"""Verified reading of a log: every record checked, chained and decoded, in bounded memory.

What ends a reading before the end of the file is either a *torn tail*, which a crash or a
power loss leaves and which a resume may cut, or *corruption*, which nobody may write to.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Generic

import msgspec

from ..codec import E, EventDecodeError, tag_of
from ..errors import LogCorruptError
from .format import (
    FIRST_CHAIN,
    HEADER_BYTES,
    MAX_BODY_BYTES,
    MAX_LINE_BYTES,
    TRAILER_BYTES,
    UNWRITTEN_NULS,
    body_length,
    check,
    frame,
    next_chain,
)
from .kind import LogKind
from .record_writer import RecordWriter

CHUNK_BYTES = 256 * 1024


class TornTail(msgspec.Struct, frozen=True):
    """What a crash left after the last sound record: ``bytes`` bytes from ``offset`` on."""

    offset: int
    bytes: int


class LogPosition(msgspec.Struct, frozen=True):
    """A place in a log: record ``seq`` begins at byte ``offset``, and ``chain`` is C(seq)."""

    seq: int
    offset: int
    chain: str


class RecordScan(Generic[E]):
    """One pass over the bytes of a log of any kind.

    Iterate ``batches()``; afterwards ``count`` records in the first ``end`` bytes are sound,
    ``owner`` is theirs, ``chain`` is C(count) in 64 digits, ``offsets`` holds the first byte of
    each, and ``torn`` is the torn tail, if there is one. From ``proved_end`` on, no record is
    known to be durable: it lies behind the last barrier that has a record behind it, and so was
    synced before that was written. ``last`` is where the last sound record begins. Raises
    LogCorruptError where the log is corrupt, after every record before that place has been
    yielded.

    With ``start``, where a record of this log that was checked before begins, it starts there.
    """

    def __init__(
        self,
        kind: LogKind[E],
        stream: BinaryIO,
        *,
        path: Path | None = None,
        size: int | None = None,
        start: LogPosition | None = None,
    ) -> None:
        self._kind = kind
        self._stream = stream
        self._path = path
        # Taken once: what a writer adds meanwhile is for the next reading.
        self._size = stream.seek(0, 2) if size is None else size
        self.last = start
        self.owner: str | None = None
        self._first = self.count = start.seq if start else 0
        self.end = start.offset if start else 0
        self.chain = start.chain.encode() if start else FIRST_CHAIN
        stream.seek(self.end)
        self.offsets: array[int] = array("Q")
        self.torn: TornTail | None = None
        self.proved_end = self.end
        self._last_is_barrier = False

    def grow(self, size: int) -> None:
        """Take the log to be ``size`` bytes long now; ``batches`` continues behind what was sound.

        Raises LogCorruptError where that is less than what has been read.
        """
        if size < self.end:
            raise self._corrupt("it was cut while it was being read")
        self._size = size
        # Through the end: what a buffered stream has read ahead may have been replaced since.
        self._stream.seek(0, 2)
        self._stream.seek(self.end)
        self.torn = None

    def batches(self) -> Iterator[Sequence[E]]:
        """The events in order, a few hundred at a time."""
        rest = b""
        while True:
            chunk = self._read()
            *lines, rest = (rest + chunk).split(b"\n")
            chain = self.chain
            bodies = self._verify(lines)
            if bodies:
                events, corruption = self._decode(bodies, chain)
                if events:
                    self._note_barriers(events)
                    yield events
                if corruption is not None:
                    raise corruption
            sound = len(bodies) == len(lines) and len(rest) <= MAX_LINE_BYTES
            if not sound or (not chunk and rest):
                self._judge()
                return
            if not chunk:
                if self.count == self._first:
                    raise self._corrupt(self._no_first)
                return

    def writer(self) -> RecordWriter[E]:
        """What follows the last sound record, once all have been read."""
        assert self.owner is not None
        return RecordWriter(
            self._kind, self.owner, next_seq=self.count, end=self.end, chain=self.chain
        )

    @property
    def _no_first(self) -> str:
        if self._first:
            return "a record is gone that was there before"
        return f"it holds no whole {tag_of(self._kind.first)}"

    def _note_barriers(self, events: Sequence[E]) -> None:
        first = self.count - len(events)
        for seq in range(self.count - 1, first, -1):
            if events[seq - 1 - first].barrier:
                self.proved_end = self.offsets[seq - self._first]
                break
        else:
            if self._last_is_barrier:
                self.proved_end = self.offsets[first - self._first]
        self._last_is_barrier = events[-1].barrier

    def _read(self) -> bytes:
        return self._stream.read(min(CHUNK_BYTES, max(0, self._size - self._stream.tell())))

    def _verify(self, lines: Sequence[bytes]) -> list[bytes]:
        """The bodies of ``lines`` (without their newlines) up to the first that fails.

        A line is not parsed but made anew from its body and compared, which checks the
        literals, the length, both checksums and the chain in one comparison.
        """
        bodies: list[bytes] = []
        chain, end = self.chain, self.end
        before = chain
        add_body, add_offset = bodies.append, self.offsets.append
        for line in lines:
            body = line[HEADER_BYTES:-1]
            if line + b"\n" != frame(body, chain) or not 0 < len(body) <= MAX_BODY_BYTES:
                break
            add_body(body)
            add_offset(end)
            before = chain
            chain = next_chain(chain, body)
            end += len(line) + 1
        self.chain, self.end = chain, end
        if bodies:
            seq = self._first + len(self.offsets) - 1
            self.last = LogPosition(seq, self.offsets[-1], before.decode())
        return bodies

    def _decode(
        self, bodies: list[bytes], chain: bytes
    ) -> tuple[Sequence[E], LogCorruptError | None]:
        """The events of ``bodies`` up to the first that is wrong, and what is wrong with it.

        ``chain`` is the chain value of the first of them.
        """
        try:
            events = self._kind.codec.decode_many(bodies)
        except EventDecodeError:
            return self._decode_each(bodies, chain)
        expected = range(self.count, self.count + len(events))
        if (
            self.owner is None
            or [event.seq for event in events] != list(expected)
            or set(map(self._kind.owner_of, events)) != {self.owner}
            or (self._kind.seal is not None and self._kind.seal in map(type, events))
        ):
            return self._decode_each(bodies, chain)
        self.count += len(events)
        return events, None

    def _decode_each(
        self, bodies: list[bytes], chain: bytes
    ) -> tuple[list[E], LogCorruptError | None]:
        """The same, one by one: for batches with a wrong record, the first one, or a seal."""
        events: list[E] = []
        for body in bodies:
            try:
                event = self._kind.codec.decode(body)
            except EventDecodeError as error:
                return events, self._corrupt(str(error))
            if wrong := self._misfit(event, chain):
                return events, self._corrupt(wrong)
            events.append(event)
            chain = next_chain(chain, body)
            self.count += 1
        return events, None

    def _misfit(self, event: E, chain: bytes) -> str:
        """Why the next event does not fit those before it; "" if it does."""
        kind, owner = self._kind, self._kind.owner_of(event)
        if self.owner is None:
            if not self._first and not isinstance(event, kind.first):
                return f"the first record is not a {tag_of(kind.first)}"
            self.owner = owner
        if event.seq != self.count:
            return f"its sequence number is {event.seq}"
        if owner != self.owner:
            return f"it belongs to {kind.noun} {owner!r}"
        seal: Any = event if kind.seal is not None and isinstance(event, kind.seal) else None
        if seal is not None and (seal.count, seal.head) != (self.count, chain.decode()):
            return "the seal does not fit the records before it"
        return ""

    def _corrupt(self, reason: str) -> LogCorruptError:
        at = self.count
        known = at - self._first
        offset = self.offsets[known] if known < len(self.offsets) else self.end
        return LogCorruptError(
            reason, offset=offset, seq=at, path=self._path, advice=self._kind.advice
        )

    def _judge(self) -> None:
        """Tell a torn tail from corruption at ``self.end``, where the next record fails."""
        if self.count == self._first:
            raise self._corrupt(self._no_first)
        tail = _Tail(self._stream, self.end, self._size, self._kind.codec.barrier_tags)
        if not tail.is_torn:
            raise self._corrupt("its bytes are all there but fail their check")
        if tail.stands_before_a_proved_barrier():
            raise self._corrupt("a record fails that sound records were built upon")
        self.torn = TornTail(offset=self.end, bytes=self._size - self.end)


class _Tail:
    """The bytes from a failing record to the end of the file.

    ``is_torn`` says whether the failing record may be what a crash left unfinished.
    """

    def __init__(
        self, stream: BinaryIO, offset: int, size: int, barrier_tags: frozenset[str]
    ) -> None:
        self._stream = stream
        self._barrier_tags = barrier_tags
        self._offset = offset
        self._size = size
        stream.seek(offset)
        header = stream.read(min(HEADER_BYTES, size - offset))
        length = body_length(header)
        stream.seek(offset)
        if length is None:
            record = stream.readline(min(MAX_LINE_BYTES, size - offset))
            self._end = offset + len(record)
        else:
            self._end = offset + HEADER_BYTES + length + TRAILER_BYTES
            record = stream.read(min(self._end, size) - offset)
        self.is_torn = (
            len(header) < HEADER_BYTES
            # A record that lacks only its newline ends one byte before its place.
            or self._end > size
            or record.count(0) >= UNWRITTEN_NULS
        )

    def stands_before_a_proved_barrier(self) -> bool:
        """Whether a barrier at or after the failing record has a sound record behind it.

        Nothing is written after a barrier until its sync has returned, so such a barrier
        and all before it were durable, and what fails here was damaged, not torn.
        """
        self._stream.seek(self._offset + HEADER_BYTES)
        barrier_seen = _tag(self._stream.read(64)) in self._barrier_tags
        position = self._end
        while position < self._size:
            self._stream.seek(position)
            line = self._stream.readline(min(MAX_LINE_BYTES, self._size - position))
            position += len(line)
            body = check(line)
            if body is None:
                continue
            if barrier_seen:
                return True
            barrier_seen = _tag(body) in self._barrier_tags
        return False


def _tag(body: bytes) -> str:
    """The event type that a body begins with, or "" where that cannot be read."""
    start = b'{"type":"'
    if not body.startswith(start):
        return ""
    return body[len(start) :].split(b'"', 1)[0].decode("ascii", "replace")
