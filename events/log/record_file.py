"""A log on disk: one writer, checked writes, syncs at the barriers, torn tails repaired."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Generic, NoReturn, Self

from ..codec import E
from ..errors import EventLogError, LogWriteError
from ..model import Durability
from .format import FIRST_CHAIN, check
from .kind import LogKind
from .lock import LOCK_WAIT_S, FileLock
from .record_writer import RecordWriter
from .storage import PART_SUFFIX, AppendFile, Storage
from .tail_repair import RepairedTail, copy_torn_tail
from .verified_scan import LogPosition, RecordScan, TornTail

_CLOSED = "it is closed"


class RecordFile(Generic[E]):
    """The log in one folder, of any kind, held by its lock until ``close``.

    After a write that fails or falls short the file is cut back to its last whole record and
    the next append is tried on a new descriptor. After a failed sync it is unknown what the disk
    holds, so nothing is ever written again.
    """

    kind: ClassVar[LogKind[Any]]

    def __init__(
        self,
        path: Path,
        lock: FileLock,
        records: RecordWriter[E],
        offsets: array[int],
        *,
        storage: Storage,
        durability: Durability,
        last: LogPosition | None = None,
        torn: TornTail | None = None,
        unproved: bytes = b"",
    ) -> None:
        self.path = path
        self.torn = torn
        self.durability = durability
        # Values: an object for each append would take 5 % of its time, and few ask for it.
        self._last = (last.seq, last.offset, last.chain.encode()) if last else (0, 0, FIRST_CHAIN)
        self._lock = lock
        self._records = records
        self._offsets = offsets
        self._storage = storage
        self._unproved = unproved
        """The last records, as far as they are not known to be durable."""
        self._refusal = ""
        """Why nothing more can be written."""
        self._file = None if torn else storage.open_append(path)

    @classmethod
    def create(
        cls,
        folder: Path,
        opened: E,
        *,
        storage: Storage | None = None,
        durability: Durability = Durability.CHECKPOINT,
        lock: FileLock | None = None,
    ) -> Self:
        """Begin the log of ``folder``, which appears with ``opened`` whole and synced in it.

        Takes the lock unless it is handed in. Raises LogLockedError, LogWriteError.
        """
        storage, kind = storage or Storage(), cls.kind
        records = RecordWriter(kind, kind.owner_of(opened))
        line = records.line(opened)
        path = folder / kind.file_name
        held = lock or FileLock(folder, kind.lock_name, noun=kind.noun)
        try:
            if path.exists():
                raise EventLogError("a log is there already", path=path)  # noqa: TRY301 - lock
            storage.syncs = durability is not Durability.PROCESS
            storage.write_file(path, line)
            records.accept(line)
            return cls(path, held, records, array("Q", [0]), storage=storage, durability=durability)
        except BaseException as error:
            if lock is None:
                held.release()
            if isinstance(error, OSError):
                raise LogWriteError(f"the log cannot be made: {error}", path=path) from error
            raise

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        storage: Storage | None = None,
        durability: Durability = Durability.CHECKPOINT,
        observe: Callable[[Sequence[E]], None] = lambda _events: None,
        start: LogPosition | None = None,
        wait_s: float = LOCK_WAIT_S,
    ) -> Self:
        """Take an existing log to continue it; ``observe`` is given its events, in batches.

        With ``start``, where a record begins that was checked before, these are the events from
        there on. A torn tail must be repaired before the first append. Raises LogLockedError,
        LogCorruptError, and LogWriteError where the folder cannot be written to.
        """
        storage, kind = storage or Storage(), cls.kind
        path = folder / kind.file_name
        if not path.exists():
            raise EventLogError("there is no log", path=path)
        try:
            lock = FileLock(folder, kind.lock_name, noun=kind.noun, wait_s=wait_s)
        except OSError as error:
            raise LogWriteError(f"its lock cannot be taken: {error}", path=folder) from error
        try:
            with storage.open_read(path) as stream:
                scan = RecordScan(kind, stream, path=path, start=start)
                for batch in scan.batches():
                    observe(batch)
                unproved = _read_unproved(stream, scan, path)
            return cls(
                path,
                lock,
                scan.writer(),
                scan.offsets,
                storage=storage,
                durability=durability,
                last=scan.last,
                torn=scan.torn,
                unproved=unproved,
            )
        except BaseException as error:
            lock.release()
            if isinstance(error, OSError):
                raise LogWriteError(f"it cannot be opened: {error}", path=path) from error
            raise

    def begin_epoch(self, epoch: int, durability: Durability) -> None:
        """Write the epoch into the lock file, and make durable what earlier processes could not.

        Their temporary files are removed. Raises OSError.
        """
        self._lock.note_epoch(epoch)
        self.durability = durability
        self._storage.syncs = durability is not Durability.PROCESS
        left_overs = self.path.parent.glob(f".{self.path.name}*{PART_SUFFIX}")
        for left in filter(Path.is_file, left_overs):
            self._storage.remove(left, durable=False)
        self.make_durable()

    def make_durable(self) -> None:
        """Make the records and the folder's entry durable, which another process may not have.

        Records are written again: after a failed sync no later one writes them. Raises OSError.
        """
        if self._storage.syncs:
            # The bytes that were checked: a second reading may return others.
            self._storage.rewrite(self.path, self.size - len(self._unproved), self._unproved)
        self._unproved = b""
        self._storage.sync_folder(self.path.parent)

    @property
    def owner(self) -> str:
        """The id that all its events have."""
        return self._records.owner

    @property
    def next_seq(self) -> int:
        return self._records.next_seq

    @property
    def size(self) -> int:
        """The bytes of its records so far, each as durable as its kind must be."""
        return self._records.end

    @property
    def chain(self) -> str:
        return self._records.chain.decode()

    @property
    def last(self) -> LogPosition:
        """Where the last record begins."""
        seq, offset, chain = self._last
        return LogPosition(seq, offset, chain.decode())

    def append(self, event: E) -> None:
        """Write the next event; on return a barrier is durable.

        Raises SequenceError, LogWriteError.
        """
        line = self._records.line(event)
        self._check_writable()
        if self._file is None:
            raise LogWriteError("its torn tail must be repaired first", path=self.path)
        # If this call is interrupted, the end of the file is unknown: refuse further writes.
        self._refusal = "an append was interrupted"
        self._write(line, event)
        # Nothing may be written after a barrier before its sync has returned.
        if self._must_sync(event):
            try:
                self._file.sync()
            except OSError as error:
                self._refusal = f"a sync failed: {error}"
                raise LogWriteError(
                    f"{type(event).__name__} (record {event.seq}) could not be synced: {error}",
                    path=self.path,
                ) from error
        records = self._records
        self._last = (records.next_seq, records.end, records.chain)
        self._offsets.append(records.end)
        # Not before: readers in other threads read the file up to ``size``.
        records.accept(line)
        self._refusal = ""

    def repair(self, copy_name: str) -> RepairedTail | None:
        """Copy the torn tail, if there is one, to ``copy_name`` beside the log, and cut it off.

        The copy of an earlier process that died before it could record it is kept, and the tail
        is added to it. The caller records what is returned as ``LogRepaired``. Raises
        LogWriteError.
        """
        self._check_writable()
        try:
            cut = copy_torn_tail(self.path, self.size, self.torn, copy_name, storage=self._storage)
            if self.torn is not None:
                self._file = self._cut_off()
                self.torn = None
        except OSError as error:
            raise LogWriteError(f"the torn tail cannot be cut: {error}", path=self.path) from error
        return cut

    def close(self) -> None:
        """Give the descriptor and the lock back; closing twice is fine."""
        if self._refusal == _CLOSED:
            return
        self._refusal = _CLOSED
        try:
            if self._file is not None:
                self._file.close()
        finally:
            self._lock.release()

    def _check_writable(self) -> None:
        if self._refusal:
            raise LogWriteError(f"nothing more can be written: {self._refusal}", path=self.path)

    def _cut_off(self) -> AppendFile:
        file = self._storage.open_append(self.path)
        try:
            file.truncate(self.size)
            file.sync()
        except OSError as error:
            # What of this has reached the disk is unknown.
            self._refusal = f"its torn tail could not be cut: {error}"
            _close_quietly(file)
            raise
        return file

    def _must_sync(self, event: E) -> bool:
        if self.durability is Durability.CHECKPOINT:
            return event.barrier
        return self.durability is Durability.EVERY

    def _write(self, line: bytes, event: E) -> None:
        assert self._file is not None
        try:
            written = self._file.write(line)
        except OSError as error:
            self._cut_back(event, error)
        if written != len(line):
            # The system gives no other reason than the number of bytes.
            taken = f"{written} of {len(line)} bytes were taken"
            self._cut_back(event, OSError(f"{taken}: the disk is full, or a limit is reached"))

    def _cut_back(self, event: E, cause: OSError) -> NoReturn:
        """Leave whole records only, and a new descriptor for one more try."""
        assert self._file is not None
        failed, self._file = self._file, None
        try:
            failed.truncate(self.size)
            self._file = self._storage.open_append(self.path)
            self._refusal = ""
        except OSError as error:
            self._refusal = f"after a failed write the log could not be cut back: {error}"
        _close_quietly(failed)
        raise LogWriteError(
            f"{type(event).__name__} (record {event.seq}) could not be written: {cause}",
            path=self.path,
        ) from cause


def _read_unproved(stream: BinaryIO, scan: RecordScan[E], path: Path) -> bytes:
    """The records that are not known to be durable, read again.

    Raises LogWriteError where these are not what was found: the system has dropped its cache,
    and the disk holds something else.
    """
    stream.seek(scan.proved_end)
    unproved = stream.read(scan.end - scan.proved_end)
    lines = [line + b"\n" for line in unproved.split(b"\n")[:-1]]
    if len(unproved) < scan.end - scan.proved_end or None in map(check, lines):
        raise LogWriteError("its end has changed while it was read; try again", path=path)
    return unproved


def _close_quietly(file: AppendFile) -> None:
    """Close a descriptor that has failed already; another error of it adds nothing."""
    with contextlib.suppress(OSError):
        file.close()
