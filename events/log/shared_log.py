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

from ..errors import EventLogError, LogCorruptError, LogWriteError
from .format import HEADER_BYTES, TRAILER_BYTES, frame
from .kind import LogKind
from .lock import FileLock, boot_id, host_name
from .record_writer import RecordWriter
from .scan import LogPosition, RecordScan
from .shared_events import SharedEnvelope, SharedEvent, SharedLogRepaired
from .storage import AppendFile, Storage
from .tail_repair import copy_torn_tail, describe_repair

SHARED_LOCK_WAIT_S = 30.0
"""How long a writer waits for others, each of which holds the lock for some milliseconds."""
_LOCK_LOOK_S = 0.002
_READS = 3
_BETWEEN_READS_S = 0.01

Make = Callable[[SharedEnvelope], SharedEvent]
"""Builds an event around the envelope that the log gives to it."""


class SharedLog:
    """One process's view of a shared log; for one thread at a time.

    ``observe`` is given every event once and in order, those that this process appends among
    them. ``begin`` makes the first event of a log that is not there yet. ``position`` is where the
    last event that was observed begins; a later ``SharedLog`` that is given it as ``start`` goes on
    behind that event.
    """

    def __init__(
        self,
        kind: LogKind[SharedEvent],
        folder: Path,
        *,
        begin: Make,
        observe: Callable[[Sequence[SharedEvent]], None],
        start: LogPosition | None = None,
        storage: Storage | None = None,
    ) -> None:
        self.path = folder / kind.file_name
        self.position = start
        self._kind = kind
        self._begin = begin
        self._observe = observe
        self._observed = 0 if start is None else start.seq + 1
        self._storage = storage or Storage()
        self._is_folder_made = False
        self._is_entry_durable = False
        """Whether this process has synced the folder since the log was there."""
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
        folder = self.path.parent
        try:
            if not self._is_folder_made:
                self._storage.make_folder(folder)
                self._is_folder_made = True
            lock = FileLock(
                folder,
                self._kind.lock_name,
                noun=self._kind.noun,
                wait_s=SHARED_LOCK_WAIT_S,
                look_s=_LOCK_LOOK_S,
            )
        except OSError as error:
            raise LogWriteError(f"its lock cannot be taken: {error}", path=self.path) from error
        try:
            writer = self._open_writer()
            try:
                yield writer
            finally:
                writer.close()
        finally:
            lock.release()

    def _opened(self) -> BinaryIO:
        """Raises FileNotFoundError for a log that never was there, OSError."""
        try:
            return self._storage.open_read(self.path)
        except FileNotFoundError as error:
            if self.position is None:
                raise
            raise EventLogError("the log is gone", path=self.path) from error

    def _scan(self, stream: BinaryIO) -> RecordScan[SharedEvent]:
        scan = RecordScan(self._kind, stream, path=self.path, start=self.position)
        for batch in scan.batches():
            # The record at the position is checked again, and so is all after a failed reading.
            new = batch[max(0, self._observed - batch[0].seq) :]
            if new:
                self._observed = new[-1].seq + 1
                self._observe(new)
        self.position = scan.last
        return scan

    def _open_writer(self) -> SharedLogWriter:
        try:
            try:
                stream = self._opened()
            except FileNotFoundError:
                self._make()
                stream = self._opened()
            with stream:
                scan = self._scan(stream)
                self._make_durable(stream, scan)
            return self._repaired(scan)
        except OSError as error:
            raise LogWriteError(f"it cannot be written to: {error}", path=self.path) from error

    def _make(self) -> None:
        """Put a log in place that has its first event. Raises OSError."""
        opened = self._begin(self._envelope(0))
        # By link, which replaces nothing, even if another program does not heed the lock.
        self._storage.write_new(self.path, RecordWriter(self._kind, "").line(opened))
        self._is_entry_durable = True

    def _make_durable(self, stream: BinaryIO, scan: RecordScan[SharedEvent]) -> None:
        """Make the last record durable, which another process may have died before it could.

        It is written again: after a failed sync no later one writes it. All records before it
        were durable when it was written. Raises LogWriteError, OSError.
        """
        last = scan.last
        assert last is not None
        if last != self._durable:
            stream.seek(last.offset)
            line = stream.read(scan.end - last.offset)
            if line != frame(line[HEADER_BYTES:-TRAILER_BYTES], last.chain.encode()):
                raise LogWriteError("its end has changed while it was read", path=self.path)
            self._storage.rewrite(self.path, last.offset, line)
            self._durable = last
        if not self._is_entry_durable:
            self._storage.sync_folder(self.path.parent)
            self._is_entry_durable = True

    def _repaired(self, scan: RecordScan[SharedEvent]) -> SharedLogWriter:
        """The writer at the end, once a torn tail is copied, cut off and recorded."""
        copy_name = f"{self.path.name}.torn-{scan.count}"
        cut = copy_torn_tail(self.path, scan.torn, copy_name, storage=self._storage)
        file = self._storage.open_append(self.path)
        writer = SharedLogWriter(self, scan.writer(), file)
        with contextlib.ExitStack() as stack:
            stack.callback(writer.close)
            if scan.torn is not None:
                file.truncate(scan.torn.offset)
                file.sync()
            if cut:
                told = describe_repair(cut, scan.end, copy_name)
                writer.append(
                    lambda at: SharedLogRepaired(
                        **at,
                        offset=told.offset,
                        bytes=told.bytes,
                        sha256=told.sha256,
                        copied_to=told.copied_to,
                    )
                )
            stack.pop_all()  # the caller closes it
        return writer

    def _envelope(self, seq: int) -> SharedEnvelope:
        return SharedEnvelope(
            seq=seq, ts=datetime.now(UTC), host=host_name(), boot_id=boot_id(), pid=os.getpid()
        )

    def _note(self, event: SharedEvent, position: LogPosition) -> None:
        """Take an event of this process, which is durable, into account."""
        self.position = self._durable = position
        self._observed = event.seq + 1
        self._observe([event])


class SharedLogWriter:
    """Appends to a shared log whose lock is held."""

    def __init__(
        self, log: SharedLog, records: RecordWriter[SharedEvent], file: AppendFile
    ) -> None:
        self._log = log
        self._records = records
        self._file = file
        self._refusal = ""
        """Why nothing more can be written."""

    def append(self, make: Make) -> SharedEvent:
        """Append the event that ``make`` builds; on return it is durable and has been observed.

        Raises LogWriteError. After a failed sync the event may be in the log or not, and further
        events are refused until the log is opened for writing again.
        """
        log, records = self._log, self._records
        if self._refusal:
            raise LogWriteError(f"nothing more can be written: {self._refusal}", path=log.path)
        position = LogPosition(records.next_seq, records.end, records.chain.decode())
        event = make(log._envelope(position.seq))  # noqa: SLF001 - the two are one thing
        line = records.line(event)
        # If this call is interrupted, the end of the file is unknown.
        self._refusal = "an append was interrupted"
        self._write(line, event)
        try:
            self._file.sync()
        except OSError as error:
            self._refusal = f"a sync failed: {error}"
            raise self._error(event, "synced", error) from error
        records.accept(line)
        self._refusal = ""
        log._note(event, position)  # noqa: SLF001 - the two are one thing
        return event

    def close(self) -> None:
        """Give the descriptor back."""
        self._refusal = "it is closed"
        self._file.close()

    def _write(self, line: bytes, event: SharedEvent) -> None:
        cause: OSError | None = None
        try:
            written = self._file.write(line)
            if written != len(line):
                # The system gives no other reason than the number of bytes.
                taken = f"{written} of {len(line)} bytes were taken"
                cause = OSError(f"{taken}: the disk is full, or a limit is reached")
        except OSError as error:
            cause = error
        if cause is None:
            return
        try:
            self._file.truncate(self._records.end)
            self._refusal = ""
        except OSError as error:
            # The next writer cuts off what is left there.
            self._refusal = f"after a failed write the log could not be cut back: {error}"
        raise self._error(event, "written", cause) from cause

    def _error(self, event: SharedEvent, done: str, cause: OSError) -> LogWriteError:
        what = f"{type(event).__name__} (record {event.seq})"
        return LogWriteError(f"{what} could not be {done}: {cause}", path=self._log.path)
