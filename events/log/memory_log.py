"""What a log is: append-only, contiguous, one writer; and the log that lives in memory."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Protocol

from ..errors import LogWriteError
from ..model import StageEvent
from .kind import RUN_LOG
from .record_writer import RecordWriter
from .verified_scan import RecordScan


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


class MemoryEventLog:
    """A log in memory, in the very bytes that a file would hold.

    Without a ``run_id`` it is the log of the run that its first event belongs to.
    """

    def __init__(self, run_id: str = "") -> None:
        self._records = RecordWriter(RUN_LOG, run_id)
        self._is_closed = False
        self._events: list[StageEvent] = []
        self._bytes = bytearray()

    @classmethod
    def from_bytes(cls, data: bytes) -> MemoryEventLog:
        """The log whose file holds ``data``; a torn tail is cut. Raises LogCorruptError."""
        scan = RecordScan(RUN_LOG, io.BytesIO(data))
        log = cls()
        log._events = [event for batch in scan.batches() for event in batch]
        log._bytes = bytearray(data[: scan.end])
        log._records = scan.writer()
        return log

    @property
    def run_id(self) -> str:
        return self._records.owner

    @property
    def next_seq(self) -> int:
        return self._records.next_seq

    @property
    def chain(self) -> str:
        return self._records.chain.decode()

    def append(self, event: StageEvent) -> None:
        if self._is_closed:
            raise LogWriteError("nothing more can be written: it is closed")
        records = self._records if self.run_id else RecordWriter(RUN_LOG, event.run_id)
        line = records.line(event)
        records.accept(line)
        self._records = records
        self._bytes += line
        self._events.append(event)

    def event_at(self, seq: int) -> StageEvent:
        return self._events[seq]

    def timeline(self) -> Sequence[StageEvent]:
        return tuple(self._events)

    def close(self) -> None:
        """Take no more events; what is there stays readable."""
        self._is_closed = True

    def to_bytes(self) -> bytes:
        """What ``events.jsonl`` would hold."""
        return bytes(self._bytes)
