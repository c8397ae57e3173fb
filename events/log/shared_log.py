"""A log that several processes append to, one at a time, and that any number of them read.

A writer takes the lock of the log, reads on to the end, makes durable what it finds there, repairs
a torn tail, and appends. A reader takes no lock and leaves an incomplete tail alone.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from ..errors import EventLogError, LogCorruptError, LogWriteError
from .lock import FileLock, boot_id, host_name
from .record_file import RecordFile
from .record_writer import RecordWriter
from .shared_events import SharedEnvelope, SharedEvent, SharedLogRepaired
from .storage import Storage
from .verified_scan import LogPosition, RecordScan

SHARED_LOCK_WAIT_S = 30.0
"""How long a writer waits for others, each of which holds the lock for some milliseconds."""
_READS = 3
_BETWEEN_READS_S = 0.01

SharedFile = RecordFile[SharedEvent]
Make = Callable[[SharedEnvelope], SharedEvent]
"""Builds an event around the envelope that the log gives to it."""


class SharedLog:
    """One process's view of a shared log; for one thread at a time.

    ``file`` is the class of the log's file. ``observe`` is given every event once and in order,
    those that this process appends among them. ``begin`` makes the first event of a log that is
    not there yet. ``position`` is where the last event that was observed begins; a later
    ``SharedLog`` that is given it as ``start`` continues behind that event.
    """

    def __init__(
        self,
        file: type[SharedFile],
        folder: Path,
        *,
        begin: Make,
        observe: Callable[[Sequence[SharedEvent]], None],
        start: LogPosition | None = None,
        storage: Storage | None = None,
    ) -> None:
        self.path = folder / file.kind.file_name
        self.position = start
        self._file = file
        self._begin = begin
        self._observe = observe
        self._observed = 0 if start is None else start.seq + 1
        self._storage = storage or Storage()
        self._durable: LogPosition | None = None
        """The last record that this process knows to be durable."""

    def read(self) -> None:
        """Observe what was added since the last call; a log that is not there holds nothing.

        Raises LogCorruptError once the sound events before the place have been observed, and
        OSError. Where ``position`` is not of this log any more, that is an error too.
        """
        for reads_left in reversed(range(_READS)):
            try:
                with self._opened() as stream:
                    self._scan(stream)
            except FileNotFoundError:
                return
            except LogCorruptError:
                # A writer may have cut off a torn tail, and written there, while it was read.
                if not reads_left:
                    raise
                time.sleep(_BETWEEN_READS_S)
            else:
                return

    @contextlib.contextmanager
    def writing(self) -> Iterator[SharedLogWriter]:
        """Hold the lock, with every event observed, in order to append what follows from them.

        Raises LogLockedError, LogCorruptError (nothing is written then), and LogWriteError.
        """
        try:
            if not self.path.exists():
                self._make()
            file = self._file.open(
                self.path.parent,
                storage=self._storage,
                observe=self._observe_new,
                start=self.position,
                wait_s=SHARED_LOCK_WAIT_S,
            )
        except OSError as error:
            raise LogWriteError(f"it cannot be written to: {error}", path=self.path) from error
        with contextlib.closing(file):
            yield self._writer(file)

    def _opened(self) -> BinaryIO:
        """Raises FileNotFoundError for a log that never was there, OSError."""
        try:
            return self._storage.open_read(self.path)
        except FileNotFoundError as error:
            if self.position is None:
                raise
            raise self._gone() from error

    def _gone(self) -> EventLogError:
        return EventLogError("the log is gone", path=self.path)

    def _scan(self, stream: BinaryIO) -> None:
        scan = RecordScan(self._file.kind, stream, path=self.path, start=self.position)
        for batch in scan.batches():
            self._observe_new(batch)
        self.position = scan.last

    def _observe_new(self, events: Sequence[SharedEvent]) -> None:
        """Observe events, but for those that were observed before.

        The record at the position is checked again, and so is all after a failed reading.
        """
        new = events[max(0, self._observed - events[0].seq) :]
        if new:
            self._observed = new[-1].seq + 1
            self._observe(new)

    def _make(self) -> None:
        """Put a log in place that has its first event. Raises LogLockedError, OSError."""
        if self.position is not None:
            raise self._gone()
        folder, kind = self.path.parent, self._file.kind
        self._storage.make_folder(folder)
        lock = FileLock(folder, kind.lock_name, noun=kind.noun, wait_s=SHARED_LOCK_WAIT_S)
        try:
            # By link, which replaces nothing: another process may have made it meanwhile.
            with contextlib.suppress(FileExistsError):
                line = RecordWriter(kind, "").line(self._begin(self._envelope(0)))
                self._storage.write_new(self.path, line)
        finally:
            lock.release()

    def _writer(self, file: SharedFile) -> SharedLogWriter:
        """The writer at the end, once that is durable and a torn tail is cut off and recorded.

        Raises LogWriteError.
        """
        self.position = file.last
        if file.last != self._durable:
            try:
                file.make_durable()
            except OSError as error:
                raise LogWriteError(f"it cannot be written to: {error}", path=self.path) from error
            self._durable = file.last
        writer = SharedLogWriter(self, file)
        cut = file.repair(f"{self.path.name}.torn-{file.next_seq}")
        if cut is not None:
            writer.append(lambda at: SharedLogRepaired(**at, **msgspec.structs.asdict(cut)))
        return writer

    def _envelope(self, seq: int) -> SharedEnvelope:
        return SharedEnvelope(
            seq=seq, ts=datetime.now(UTC), host=host_name(), boot_id=boot_id(), pid=os.getpid()
        )

    def _note(self, event: SharedEvent, position: LogPosition) -> None:
        """Take an event of this process, which is durable, into account."""
        self.position = self._durable = position
        self._observe_new([event])


class SharedLogWriter:
    """Appends to a shared log whose lock is held."""

    def __init__(self, log: SharedLog, file: SharedFile) -> None:
        self._log = log
        self._file = file

    def append(self, make: Make) -> SharedEvent:
        """Append the event that ``make`` builds; on return it is durable and has been observed.

        Raises LogWriteError. After a failed sync the event may be in the log or not, and further
        events are refused until the log is opened for writing again.
        """
        event = make(self._log._envelope(self._file.next_seq))  # noqa: SLF001 - the two are one thing
        self._file.append(event)
        self._log._note(event, self._file.last)  # noqa: SLF001 - the same
        return event
