"""Reading a log while it grows, whichever process writes it."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from ..lock import is_locked
from ..model import RunSealed, StageEvent
from ..reading import log_path
from ..scan import LogScan, TornTail
from ..storage import open_regular
from ..written_logs import written_log

POLL_S = 0.02
"""How often to look at a log that another process writes."""
_IDLE_POLL_S = 0.5
"""How often to look at a log that no other process writes now."""
_LOOK_FOR_WRITER_S = 0.25


class LogTail:
    """The events of one log, as they come; each is checked, and chained to those before it.

    Of a log that this process writes, only what is durable is read. A torn tail is not: it may
    be a record that is being written. Use it from one thread; ``close`` it, or use it as a
    context manager. Raises RunNotFoundError.
    """

    def __init__(self, run: Path | str, *, from_seq: int = 0) -> None:
        self.path = log_path(run)
        self._stream = open_regular(self.path)
        self._scan = LogScan(self._stream, path=self.path, size=0)
        self._unread: deque[StageEvent] = deque()
        self._from_seq = from_seq
        self._sealed = False
        self._looked = float("-inf")

    def __enter__(self) -> LogTail:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def next_seq(self) -> int:
        """The sequence number of the event that is read next; also how many have been."""
        return self._scan.count - len(self._unread)

    @property
    def torn(self) -> TornTail | None:
        """The bytes behind the last record at the last reading, if they are no record."""
        return self._scan.torn

    def read(self) -> Iterator[StageEvent]:
        """What has come since the last reading, in order. Raises LogCorruptError.

        An iterator that is left early loses nothing: the next reading gives the rest.
        """
        while self._unread:
            yield self._unread.popleft()
        size = self._size()
        if size == self._scan.end:
            return
        self._scan.grow(size)
        for batch in self._scan.batches():
            self._sealed = isinstance(batch[-1], RunSealed)
            self._unread.extend(batch[max(0, self._from_seq - batch[0].seq) :])
            while self._unread:
                yield self._unread.popleft()

    def has_ended(self) -> bool:
        """Whether nothing more will come, as far as can be told: all is read, nobody writes.

        A run that has ended may be taken up again by a later resume.
        """
        if not self._sealed and time.monotonic() - self._looked < _LOOK_FOR_WRITER_S:
            return False
        self._looked = time.monotonic()
        torn_bytes = 0 if self.torn is None else self.torn.bytes
        return (
            not is_locked(self.path.parent)
            and not self._unread
            and self._size() == self._scan.end + torn_bytes
        )

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        self._stream.close()

    def _size(self) -> int:
        log = written_log(self.path)
        return os.fstat(self._stream.fileno()).st_size if log is None else log.size


class LogPosition:
    """A subscriber's place in the log of one run: before event ``next_seq``.

    Events that were announced come through ``up_to``; those that the subscriber has missed are
    read from the log, which is opened when it is first needed. ``announced`` is the number of
    the last event that was announced to it, ``is_sealed`` says that the last one passed ends a run.
    """

    def __init__(self, path: Path, next_seq: int) -> None:
        self.path = path
        self.next_seq = next_seq
        self.announced = next_seq - 1
        self.is_sealed = False
        self._tail: LogTail | None = None

    @classmethod
    def open(cls, path: Path, from_seq: int | None) -> LogPosition:
        """Before event ``from_seq`` of a log, or behind its present end.

        Raises ValueError, RunNotFoundError, and LogCorruptError where it has to find the end.
        """
        if from_seq is not None and from_seq < 0:
            raise ValueError(f"from_seq = {from_seq} is no sequence number")
        position = cls(path, from_seq or 0)
        position._tail = LogTail(path, from_seq=from_seq or 0)
        if from_seq is not None:
            return position
        log = written_log(path)
        if log is not None:
            position.next_seq = log.next_seq
            return position
        try:
            for _ in position.read():
                pass
        except BaseException:
            position.close()
            raise
        return position

    @property
    def is_announced(self) -> bool:
        """Whether this process writes the log, so that every event is announced here."""
        return written_log(self.path) is not None

    @property
    def poll_s(self) -> float:
        """How long to wait for an announcement before the log is looked at again."""
        if self.is_announced or (self._tail is not None and self._tail.has_ended()):
            return _IDLE_POLL_S
        return POLL_S

    def up_to(self, event: StageEvent) -> Iterator[StageEvent]:
        """An announced event after those before it that were missed; nothing if it was given."""
        if event.seq > self.next_seq:
            yield from self.read(until=event.seq - 1)
        if event.seq == self.next_seq:
            self._pass(event)
            yield event

    def read(self, *, until: int | None = None) -> Iterator[StageEvent]:
        """What the log holds from ``next_seq`` on, up to event ``until`` if that is given.

        Raises RunNotFoundError, LogCorruptError.
        """
        if self._tail is None:
            self._tail = LogTail(self.path, from_seq=self.next_seq)
        for event in self._tail.read():
            if event.seq >= self.next_seq:
                self._pass(event)
                yield event
            if event.seq == until:
                return

    def _pass(self, event: StageEvent) -> None:
        self.next_seq = event.seq + 1
        self.is_sealed = isinstance(event, RunSealed)

    def close(self) -> None:
        """Close the log; closing twice is fine."""
        if self._tail is not None:
            self._tail.close()


def follow(
    run: Path | str, *, from_seq: int = 0, stop: threading.Event | None = None
) -> Iterator[StageEvent]:
    """The events of a run from number ``from_seq`` on, as they come, until the run ends.

    ``run`` is a run folder or a log; this or any other process may be running it. Every event
    comes once and in order, about 10 ms after it has been written. It ends when all has been
    read and nobody works on the run any more: that is at once for a run that has ended, and
    soon after the death of its process. ``stop`` ends it from another thread.

    Raises RunNotFoundError, LogCorruptError.
    """
    stopped = stop or threading.Event()
    with LogTail(run, from_seq=from_seq) as tail:
        while not stopped.is_set():
            yield from tail.read()
            if tail.has_ended():
                return
            stopped.wait(POLL_S)
