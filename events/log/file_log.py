"""The log on disk: one writer, checked writes, syncs at the barriers, torn tails repaired."""

from __future__ import annotations

import contextlib
import errno
import hashlib
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn

import msgspec

from ..errors import EventLogError, LogWriteError
from ..model import Durability, RunOpened, StageEvent
from .format import FIRST_CHAIN, check, frame, next_chain
from .lock import LOCK_WAIT_S, RunLock
from .memory_log import check_follows, encode_checked
from .open_logs import note_closed, note_written
from .scan import LogScan, TornTail
from .storage import PART_SUFFIX, AppendFile, OsStorage, Storage
from .timeline import FileTimeline

LOG_NAME = "events.jsonl"
MAX_TORN_BYTES = 256 * 1024 * 1024
"""A crash leaves a few records and unwritten sectors; a longer tail is not read into memory."""


class RepairedTail(msgspec.Struct, frozen=True, kw_only=True):
    """A torn tail that was cut: ``bytes`` bytes from ``offset`` on, now in ``copied_to``."""

    offset: int
    bytes: int
    sha256: str
    copied_to: str


class FileEventLog:
    """The log of one run folder, held by ``run.lock`` until ``close``.

    After a write that fails or falls short the file is cut back to its last whole record and
    the next append is tried on a new descriptor. After a sync that fails nothing is known of
    what is on the disk, so nothing is ever written again.
    """

    def __init__(
        self,
        path: Path,
        lock: RunLock,
        *,
        run_id: str,
        chain: bytes,
        offsets: array[int],
        end: int,
        storage: Storage,
        durability: Durability,
        torn: TornTail | None = None,
        unproved: bytes = b"",
    ) -> None:
        self.path = path
        self.torn = torn
        self._unproved = unproved
        self.durability = durability
        self._lock = lock
        self._run_id = run_id
        self._chain = chain
        self._offsets = offsets
        self._end = end
        self._storage = storage
        self._dead: str | None = None
        self._file = None if torn else storage.open_append(path)
        note_written(self)

    @classmethod
    def create(
        cls,
        folder: Path,
        opened: RunOpened,
        *,
        storage: Storage | None = None,
        durability: Durability = Durability.CHECKPOINT,
        lock: RunLock | None = None,
    ) -> FileEventLog:
        """Begin the log of ``folder``, which appears with ``opened`` whole and synced in it.

        Takes the run's lock unless it is handed in. Raises LogLockedError, LogWriteError.
        """
        storage = storage or OsStorage()
        check_follows(opened, run_id=opened.run_id, next_seq=0)
        body = encode_checked(opened, 0)
        path = folder / LOG_NAME
        held = lock or RunLock(folder)
        try:
            if path.exists():
                raise EventLogError("a log is there already", path=path)  # noqa: TRY301 - lock
            line = frame(body, FIRST_CHAIN)
            storage.write_file(path, line, durable=durability is not Durability.PROCESS)
            return cls(
                path,
                held,
                run_id=opened.run_id,
                chain=next_chain(FIRST_CHAIN, body),
                offsets=array("Q", [0]),
                end=len(line),
                storage=storage,
                durability=durability,
            )
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
        observe: Callable[[Sequence[StageEvent]], None] | None = None,
        wait_s: float = LOCK_WAIT_S,
    ) -> FileEventLog:
        """Take an existing log to go on with it; ``observe`` is given its events, in batches.

        A torn tail must be repaired before the first append. Raises LogLockedError,
        LogCorruptError, and LogWriteError where the folder cannot be written to.
        """
        storage = storage or OsStorage()
        path = folder / LOG_NAME
        if not path.exists():
            raise EventLogError("there is no log", path=path)
        try:
            lock = RunLock(folder, wait_s=wait_s)
        except OSError as error:
            raise LogWriteError(f"its lock cannot be taken: {error}", path=folder) from error
        try:
            run_id, scan, unproved = _scanned(storage, path, observe)
            return cls(
                path,
                lock,
                run_id=run_id,
                chain=scan.chain,
                offsets=scan.offsets,
                end=scan.end,
                storage=storage,
                durability=durability,
                torn=scan.torn,
                unproved=unproved,
            )
        except BaseException as error:
            lock.release()
            if isinstance(error, OSError):
                raise LogWriteError(f"it cannot be opened: {error}", path=path) from error
            raise

    def begin_epoch(self, epoch: int, durability: Durability) -> None:
        """Say in the lock file which epoch is written from here on, and sync as told.

        What an earlier process wrote and named, and could not sync, is made durable before
        anything is built upon it, and its temporary files are removed. Raises OSError.
        """
        self._lock.note_epoch(epoch)
        self.durability = durability
        if durability is not Durability.PROCESS:
            # As they were read and checked: by now the system may show other bytes in their place.
            self._storage.rewrite(self.path, self._end - len(self._unproved), self._unproved)
        self._unproved = b""
        left_overs = self.path.parent.glob(f".{self.path.name}*{PART_SUFFIX}")
        for left in filter(Path.is_file, left_overs):
            self._storage.remove(left, durable=False)
        self._storage.sync_folder(self.path.parent)

    @property
    def run_id(self) -> str:
        return self._run_id

    @property
    def next_seq(self) -> int:
        return len(self._offsets)

    @property
    def size(self) -> int:
        """The bytes of its records so far, each as durable as its kind must be."""
        return self._end

    @property
    def chain(self) -> str:
        return self._chain.decode()

    def append(self, event: StageEvent) -> None:
        """Write the next event; on return a barrier is durable.

        Raises SequenceError, LogWriteError.
        """
        check_follows(event, run_id=self._run_id, next_seq=len(self._offsets))
        if self._dead is not None:
            raise LogWriteError(f"nothing more can be written: {self._dead}", path=self.path)
        if self._file is None:
            raise LogWriteError("its torn tail must be repaired first", path=self.path)
        body = encode_checked(event, self._end)
        line = frame(body, self._chain)
        # Stands until the record is accounted for: whatever ends this call before (an
        # interrupt, say) leaves a file of which nobody knows where it ends.
        self._dead = "an append was interrupted"
        self._write(line, event)
        if self._must_sync(event):
            try:
                self._file.sync()
            except OSError as error:
                self._dead = f"a sync failed: {error}"
                raise LogWriteError(
                    f"{type(event).__name__} (record {event.seq}) could not be synced: {error}",
                    path=self.path,
                ) from error
        self._dead = None
        self._chain = next_chain(self._chain, body)
        self._offsets.append(self._end)
        self._end += len(line)

    def repair(self, copy_name: str) -> RepairedTail | None:
        """Copy the torn tail, if there is one, to ``copy_name`` beside the log, and cut it off.

        What an earlier process cut to that name, and died before it could record it, stands
        before it in the copy: one cut, at the place where the log ends. The caller records
        what is returned as ``LogRepaired``. Raises LogWriteError.
        """
        if self._dead is not None:
            raise LogWriteError(f"nothing more can be written: {self._dead}", path=self.path)
        try:
            cut = self._copied(copy_name)
            if self.torn is not None:
                torn = self._torn_bytes(self.torn)
                # It may have died between the copy and the cut.
                cut = cut if cut.endswith(torn) else cut + torn
                self._storage.write_file(self.path.with_name(copy_name), cut)
                self._file = self._cut_off(self.torn)
                self.torn = None
        except OSError as error:
            raise LogWriteError(f"the torn tail cannot be cut: {error}", path=self.path) from error
        if not cut:
            return None
        digest = hashlib.sha256(cut).hexdigest()
        return RepairedTail(offset=self._end, bytes=len(cut), sha256=digest, copied_to=copy_name)

    def _copied(self, copy_name: str) -> bytes:
        try:
            with self._storage.open_read(self.path.with_name(copy_name)) as stream:
                return self._bounded(stream, copy_name)
        except FileNotFoundError:
            return b""

    def _torn_bytes(self, torn: TornTail) -> bytes:
        with self._storage.open_read(self.path) as stream:
            stream.seek(torn.offset)
            return self._bounded(stream, "its torn tail")

    def _bounded(self, stream: BinaryIO, what: str) -> bytes:
        data = stream.read(MAX_TORN_BYTES + 1)
        if len(data) > MAX_TORN_BYTES:
            raise OSError(
                errno.EFBIG, f"{what} is longer than {MAX_TORN_BYTES} bytes; move it elsewhere"
            )
        return data

    def _cut_off(self, torn: TornTail) -> AppendFile:
        file = self._storage.open_append(self.path)
        try:
            file.truncate(torn.offset)
            file.sync()
        except OSError as error:
            # Nobody knows what of this has reached the disk.
            self._dead = f"its torn tail could not be cut: {error}"
            _close_quietly(file)
            raise
        return file

    def event_at(self, seq: int) -> StageEvent:
        return FileTimeline(self.path, self._offsets, self._end, storage=self._storage)[seq]

    def timeline(self) -> FileTimeline:
        offsets = array("Q", self._offsets)
        return FileTimeline(self.path, offsets, self._end, torn=self.torn, storage=self._storage)

    def close(self) -> None:
        """Give the descriptor and the lock back; closing twice is fine."""
        if self._dead == "it is closed":
            return
        self._dead = "it is closed"
        note_closed(self)
        try:
            if self._file is not None:
                self._file.close()
        finally:
            self._lock.release()

    def _must_sync(self, event: StageEvent) -> bool:
        if self.durability is Durability.CHECKPOINT:
            return event.barrier
        return self.durability is Durability.EVERY

    def _write(self, line: bytes, event: StageEvent) -> None:
        assert self._file is not None
        try:
            written = self._file.write(line)
        except OSError as error:
            self._cut_back(event, error)
        if written != len(line):
            # A system that takes less than it was given says no more than that.
            taken = f"{written} of {len(line)} bytes were taken"
            self._cut_back(event, OSError(f"{taken}: the disk is full, or a limit is reached"))

    def _cut_back(self, event: StageEvent, cause: OSError) -> NoReturn:
        """Leave whole records only, and a new descriptor for one more try."""
        assert self._file is not None
        failed, self._file = self._file, None
        try:
            failed.truncate(self._end)
            self._file = self._storage.open_append(self.path)
            self._dead = None
        except OSError as error:
            self._dead = f"after a failed write the log could not be cut back: {error}"
        _close_quietly(failed)
        raise LogWriteError(
            f"{type(event).__name__} (record {event.seq}) could not be written: {cause}",
            path=self.path,
        ) from cause


def _scanned(
    storage: Storage, path: Path, observe: Callable[[Sequence[StageEvent]], None] | None
) -> tuple[str, LogScan, bytes]:
    """Read a whole log, telling ``observe``; the run that it is of, what was found, and the
    records that are not known to be durable.

    Raises LogWriteError where these are not what was found: the system has dropped its cache,
    and the disk holds something else.
    """
    run_id = ""
    with storage.open_read(path) as stream:
        scan = LogScan(stream, path=path)
        for batch in scan.batches():
            run_id = batch[0].run_id
            if observe is not None:
                observe(batch)
        stream.seek(scan.proved_end)
        unproved = stream.read(scan.end - scan.proved_end)
    lines = [line + b"\n" for line in unproved.split(b"\n")[:-1]]
    if len(unproved) < scan.end - scan.proved_end or None in map(check, lines):
        raise LogWriteError(
            "its end has changed while it was read; resume the run again", path=path
        )
    return run_id, scan, unproved


def _close_quietly(file: AppendFile) -> None:
    """Give back a descriptor that has failed already; what closing it says adds nothing."""
    with contextlib.suppress(OSError):
        file.close()
