"""Reading along while a log grows, whichever process writes it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from .lock import is_locked
from .model import RunSealed, StageEvent
from .reading import log_path
from .scan import LogScan, TornTail
from .storage import open_regular
from .written_logs import written_log

POLL_S = 0.02
"""How often a log that another process writes is looked at."""
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
        return self._scan.count

    @property
    def torn(self) -> TornTail | None:
        """What stood behind the last record at the last reading, and is no record."""
        return self._scan.torn

    def read(self) -> Iterator[StageEvent]:
        """What has come since the last reading, in order. Raises LogCorruptError."""
        size = self._size()
        if size == self._scan.end:
            return
        self._scan.grow(size)
        for batch in self._scan.batches():
            self._sealed = isinstance(batch[-1], RunSealed)
            yield from self._wanted(batch)

    def has_ended(self) -> bool:
        """Whether nothing more will come, as far as can be told: all is read, nobody writes.

        A run that has ended may be taken up again by a later resume.
        """
        if not self._sealed and time.monotonic() - self._looked < _LOOK_FOR_WRITER_S:
            return False
        self._looked = time.monotonic()
        return not is_locked(self.path.parent) and self._size() == self._read_up_to()

    def close(self) -> None:
        """Give the file back."""
        self._stream.close()

    def _size(self) -> int:
        log = written_log(self.path)
        return os.fstat(self._stream.fileno()).st_size if log is None else log.size

    def _read_up_to(self) -> int:
        torn = self._scan.torn
        return self._scan.end + (0 if torn is None else torn.bytes)

    def _wanted(self, batch: Sequence[StageEvent]) -> Sequence[StageEvent]:
        passed_over = self._from_seq - batch[0].seq
        return batch if passed_over <= 0 else batch[passed_over:]


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
