"""What a log is: append-only, contiguous, one writer; and the log that lives in memory."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Protocol

import msgspec

from ..codec import CODEC
from ..errors import LogWriteError, SequenceError
from ..model import StageEvent
from .format import (
    FIRST_CHAIN,
    HEADER_BYTES,
    MAX_BODY_BYTES,
    SECTOR_BYTES,
    TRAILER_BYTES,
    UNWRITTEN_NULS,
    frame,
    next_chain,
)
from .scan import LogScan


class EventLog(Protocol):
    """An append-only sequence of one run's events."""

    @property
    def run_id(self) -> str:
        """The run that this log belongs to."""
        ...

    @property
    def next_seq(self) -> int:
        """The sequence number that the next event must carry; also how many there are."""
        ...

    @property
    def chain(self) -> str:
        """C(next_seq), 64 hex digits: a digest over every record so far."""
        ...

    def append(self, event: StageEvent) -> None:
        """Add the next event; on return a barrier is durable.

        Raises SequenceError (nothing is written) for an event that does not follow, and
        LogWriteError when the event has no JSON form or could not be made durable.
        """
        ...

    def event_at(self, seq: int) -> StageEvent:
        """The event with this sequence number, read back. Raises IndexError."""
        ...

    def timeline(self) -> Sequence[StageEvent]:
        """Every event so far, in order: a snapshot that does not grow."""
        ...

    def close(self) -> None:
        """Release what the log holds; appending afterwards is an error."""
        ...


def check_follows(event: StageEvent, *, run_id: str, next_seq: int) -> None:
    """Raise SequenceError unless ``event`` is the next one of this run."""
    if event.run_id != run_id:
        raise SequenceError(f"an event of run {event.run_id!r} cannot enter the log of {run_id!r}")
    if event.seq != next_seq:
        raise SequenceError(f"expected sequence number {next_seq}, got {event.seq}")


def encode_checked(event: StageEvent, offset: int) -> bytes:
    """The body of a record that begins at ``offset``.

    A disk loses whole sectors of what was not synced. So that a lost one is told by its NUL
    bytes, and not taken for corruption, no record reaches into a sector by fewer than
    UNWRITTEN_NULS bytes: spaces before the last brace see to that.

    Raises LogWriteError for an event larger than a record may be, and for values that have
    no JSON form. That values are of their fields' types is up to who makes the event: reading
    each one back would take a third of an append's time.
    """
    try:
        body = CODEC.encode(event)
    except (ValueError, TypeError, RecursionError, msgspec.MsgspecError) as error:
        raise LogWriteError(f"{type(event).__name__} cannot be recorded: {error}") from error
    body = _clear_of_sector_ends(body, offset)
    if len(body) > MAX_BODY_BYTES:
        raise LogWriteError(
            f"{type(event).__name__} takes {len(body)} bytes, a record holds {MAX_BODY_BYTES}"
        )
    return body


def _clear_of_sector_ends(body: bytes, offset: int) -> bytes:
    into = (offset + HEADER_BYTES + len(body) + TRAILER_BYTES) % SECTOR_BYTES
    if UNWRITTEN_NULS <= into <= SECTOR_BYTES - UNWRITTEN_NULS or into == 0:
        return body
    lacking = (UNWRITTEN_NULS if into < UNWRITTEN_NULS else SECTOR_BYTES) - into
    return body[:-1] + b" " * lacking + body[-1:]


class MemoryEventLog:
    """A log in memory, in the very bytes that a file would hold.

    Without a ``run_id`` it is the log of the run that its first event belongs to.
    """

    def __init__(self, run_id: str = "") -> None:
        self._run_id = run_id
        self._closed = False
        self._events: list[StageEvent] = []
        self._bytes = bytearray()
        self._chain = FIRST_CHAIN

    @classmethod
    def from_bytes(cls, data: bytes) -> MemoryEventLog:
        """The log whose file holds ``data``; a torn tail is cut. Raises LogCorruptError."""
        scan = LogScan(io.BytesIO(data))
        events = [event for batch in scan.batches() for event in batch]
        log = cls(events[0].run_id)
        log._events = events
        log._bytes = bytearray(data[: scan.end])
        log._chain = scan.chain
        return log

    @property
    def run_id(self) -> str:
        return self._run_id

    @property
    def next_seq(self) -> int:
        return len(self._events)

    @property
    def chain(self) -> str:
        return self._chain.decode()

    def append(self, event: StageEvent) -> None:
        run_id = self._run_id or event.run_id
        check_follows(event, run_id=run_id, next_seq=len(self._events))
        if self._closed:
            raise LogWriteError("nothing more can be written: it is closed")
        body = encode_checked(event, len(self._bytes))
        self._bytes += frame(body, self._chain)
        self._chain = next_chain(self._chain, body)
        self._events.append(event)
        self._run_id = run_id

    def event_at(self, seq: int) -> StageEvent:
        return self._events[seq]

    def timeline(self) -> Sequence[StageEvent]:
        return tuple(self._events)

    def close(self) -> None:
        """Take no more events; what is there stays readable."""
        self._closed = True

    def to_bytes(self) -> bytes:
        """What ``events.jsonl`` would hold."""
        return bytes(self._bytes)
