"""Reading a log while it grows, whichever process writes it."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from ..log.kind import RUN_LOG
from ..log.lock import is_locked
from ..log.open_log_registry import open_log
from ..log.reader import log_path
from ..log.storage import open_regular
from ..log.timeline import with_files
from ..log.verified_scan import RecordScan, TornTail
from ..model import RunSealed, StageEvent

POLL_S = 0.02
"""How often to look at a log that another process writes."""
_LOOK_FOR_WRITER_S = 0.25


class LogTail:
    """A position in one log, and the events from there on, as they come.

    Each event is checked, and chained to those before it. Of a log that this process writes,
    only what is durable is read. A torn tail is not: it may be a record that is being written.
    The file is opened at the first reading. Use it from one thread; ``close`` it, or use it as a
    context manager. Raises RunNotFoundError.
    """

    def __init__(self, run: Path | str, *, from_seq: int = 0) -> None:
        self.path = log_path(run)
        self._folder = self.path.parent.absolute()
        self._next = from_seq
        self._stream: BinaryIO | None = None
        self._scan: RecordScan[StageEvent] | None = None
        self._batches: Iterator[Sequence[StageEvent]] | None = None
        self._unread: deque[StageEvent] = deque()
        self._sealed = False
        self._looked = float("-inf")

    def __enter__(self) -> LogTail:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def next_seq(self) -> int:
        """The sequence number of the event that is given next."""
        return self._next

    @property
    def torn(self) -> TornTail | None:
        """The bytes behind the last record at the last reading, if they are not a record."""
        return None if self._scan is None else self._scan.torn

    @property
    def is_written_here(self) -> bool:
        """Whether this process writes the log now."""
        return open_log(self.path) is not None

    def read(self, *, until: int | None = None) -> Iterator[StageEvent]:
        """What has come since the last reading, in order, up to event ``until`` if that is given.

        An iterator that is left early loses nothing: the next reading gives the rest. Raises
        RunNotFoundError, LogCorruptError.
        """
        while self._unread or self._read_batch():
            event = self._unread.popleft()
            if event.seq >= self._next:
                self._next = event.seq + 1
                yield with_files(event, self._folder)
            if event.seq == until:
                return

    def up_to(self, event: StageEvent) -> Iterator[StageEvent]:
        """An announced event, after those before it; nothing if it was given before.

        Only events that were missed are read from the file.
        """
        if event.seq > self._next:
            yield from self.read(until=event.seq - 1)
        if event.seq == self._next:
            self._next += 1
            yield event

    def skip_to_end(self) -> None:
        """Go to the end of the log as it is now. Raises LogCorruptError."""
        log = open_log(self.path)
        if log is not None:
            self._next = log.next_seq
            return
        try:
            deque(self.read(), maxlen=0)
        except BaseException:
            self.close()
            raise

    def has_ended(self) -> bool:
        """Whether nothing more is expected: all has been read, and no process writes the log.

        A run that has ended may be taken up again by a later resume.
        """
        if not self._sealed and time.monotonic() - self._looked < _LOOK_FOR_WRITER_S:
            return False
        self._looked = time.monotonic()
        if is_locked(self.path.parent) or self._unread or self._scan is None:
            return False
        torn_bytes = 0 if self._scan.torn is None else self._scan.torn.bytes
        return self._size() == self._scan.end + torn_bytes

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if self._stream is not None:
            self._stream.close()

    def _read_batch(self) -> bool:
        """Read and check a few hundred events, if the file holds more."""
        # Twice, for a reading that was left early is continued first: it may be about to raise.
        for _ in range(2):
            self._batches = self._batches or self._new_batches()
            batch = next(self._batches, None)
            if batch is not None:
                self._unread.extend(batch)
                self._sealed = isinstance(batch[-1], RunSealed)
                return True
            self._batches = None
        return False

    def _new_batches(self) -> Iterator[Sequence[StageEvent]]:
        """What has been appended since the last look at the file."""
        if self._stream is None:
            self._stream = open_regular(self.path)
            self._scan = RecordScan(RUN_LOG, self._stream, path=self.path, size=0)
        assert self._scan is not None
        size = self._size()
        if size != self._scan.end:
            self._scan.grow(size)
            yield from self._scan.batches()

    def _size(self) -> int:
        log = open_log(self.path)
        if log is not None:
            return log.size
        assert self._stream is not None
        return os.fstat(self._stream.fileno()).st_size


def follow(
    run: Path | str, *, from_seq: int = 0, stop: threading.Event | None = None
) -> Iterator[StageEvent]:
    """The events of a run from number ``from_seq`` on, as they come, until the run ends.

    ``run`` is a run folder or a log; this or any other process may be running it. Every event
    comes once and in order, about 10 ms after it has been written. It ends when all has been
    read and no process works on the run: that is at once for a run that has ended, and
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
