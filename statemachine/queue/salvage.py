"""Salvage of a queue's log: every record that passes its own checks is kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ...events.codec import EventDecodeError
from ...events.errors import LogCorruptError, LogWriteError
from ...events.log.format import HEADER_BYTES, MAX_LINE_BYTES, check
from ...events.log.intact_records import intact_bodies
from ...events.log.lock import FileLock, boot_id, host_name
from ...events.log.record_writer import RecordWriter
from ...events.log.shared_events import SharedEvent, UnknownSharedEvent
from ...events.log.shared_log import SHARED_LOCK_WAIT_S
from ...events.log.storage import Storage
from ...events.log.verified_scan import RecordScan
from ...events.queue.model import QUEUE_LOG, QueueOpened
from ...events.version import VERSION
from ..errors import JobRefusedError

_Write = Callable[[bytes], int]


class SalvagedQueue(msgspec.Struct, frozen=True, kw_only=True):
    """What a salvage has done.

    ``records`` are kept, and at least ``lost_records`` are not. The log was corrupt from byte
    ``corrupt_at`` on, for a ``reason``; it is kept as ``copied_to``.
    """

    records: int
    lost_records: int
    corrupt_at: int
    reason: str
    copied_to: str


def salvage_queue(runs: Path, *, storage: Storage | None = None) -> SalvagedQueue:
    """Put a sound log in the place of a corrupt one, in one step; the corrupt one is kept.

    Raises JobRefusedError where the log is not corrupt, LogLockedError, LogWriteError, OSError.
    """
    storage = storage or Storage()
    path = runs / QUEUE_LOG.file_name
    if not path.exists():
        raise JobRefusedError(f"{path}: there is no queue")
    lock = FileLock(runs, QUEUE_LOG.lock_name, noun=QUEUE_LOG.noun, wait_s=SHARED_LOCK_WAIT_S)
    try:
        return _salvage(path, storage, _find_damage(path, storage))
    finally:
        lock.release()


def _find_damage(path: Path, storage: Storage) -> LogCorruptError:
    with storage.open_read(path) as stream:
        try:
            for _ in RecordScan(QUEUE_LOG, stream, path=path).batches():
                pass
        except LogCorruptError as error:
            return error
    raise JobRefusedError(f"{path}: the log is not corrupt, so there is nothing to salvage")


def _salvage(path: Path, storage: Storage, damage: LogCorruptError) -> SalvagedQueue:
    offsets = _offsets_by_seq(path, storage)
    sound = path.with_name(f"{path.name}.salvaged")
    kept = _write_sound(path, sound, sorted(offsets.items()), storage)
    aside = _free_name(path)
    with storage.open_read(path) as stream:
        # A copy, so that at no time there is no queue: another process would begin one.
        storage.rename(storage.copy_part(stream, aside), aside)
    storage.sync_folder(path.parent)
    storage.rename(sound, path)
    storage.sync_folder(path.parent)
    last = max(offsets, default=-1)
    return SalvagedQueue(
        records=kept,
        lost_records=last + 1 - len(offsets),
        corrupt_at=damage.offset,
        reason=damage.reason,
        copied_to=aside.name,
    )


def _offsets_by_seq(path: Path, storage: Storage) -> dict[int, int]:
    """Where the sound records begin; of two with one number, the first counts."""
    found: dict[int, int] = {}
    with storage.open_read(path) as stream:
        for offset, body in intact_bodies(stream):
            event = _decoded(body)
            if event is not None:
                found.setdefault(event.seq, offset)
    return found


def _write_sound(path: Path, sound: Path, offsets: list[tuple[int, int]], storage: Storage) -> int:
    """Write the records once more, numbered and chained anew; how many there are.

    Raises LogWriteError, OSError.
    """
    records = RecordWriter(QUEUE_LOG, "")
    events = _events(path, [offset for _, offset in offsets], storage)
    first = next(events, None)
    opened = first if isinstance(first, QueueOpened) else _new_opening()
    line = records.line(_numbered(opened, 0))
    storage.write_file(sound, line)
    records.accept(line)
    file = storage.open_append(sound)
    try:
        if first is not None and first is not opened:
            _append(records, first, file.write)
        for event in events:
            if not isinstance(event, QueueOpened):
                _append(records, event, file.write)
        file.sync()
    finally:
        file.close()
    return records.next_seq


def _append(records: RecordWriter[SharedEvent], event: SharedEvent, write: _Write) -> None:
    line = records.line(_numbered(event, records.next_seq))
    if write(line) != len(line):
        raise LogWriteError("the salvaged log cannot be written: the disk is full")
    records.accept(line)


def _events(path: Path, offsets: list[int], storage: Storage) -> Iterator[SharedEvent]:
    with storage.open_read(path) as stream:
        for offset in offsets:
            stream.seek(offset)
            line = stream.readline(MAX_LINE_BYTES)
            length = int(line[6:14], 16)
            body = check(line[: HEADER_BYTES + length] + b"}\n")
            event = None if body is None else _decoded(body)
            if event is None:
                message = f"{path}: it has changed while it was read; salvage it again"
                raise LogWriteError(message)
            yield event


def _decoded(body: bytes) -> SharedEvent | None:
    try:
        return QUEUE_LOG.codec.decode(body)
    except EventDecodeError:
        return None


def _numbered(event: SharedEvent, seq: int) -> SharedEvent:
    if isinstance(event, UnknownSharedEvent):
        document = msgspec.json.decode(event.raw, type=dict[str, msgspec.Raw])
        document["seq"] = msgspec.Raw(str(seq).encode())
        return msgspec.structs.replace(event, seq=seq, raw=msgspec.json.encode(document))
    return msgspec.structs.replace(event, seq=seq)


def _new_opening() -> QueueOpened:
    """For a queue whose first record is damaged: it holds nothing that is needed."""
    return QueueOpened(
        seq=0,
        ts=datetime.now(UTC),
        host=host_name(),
        boot_id=boot_id(),
        pid=os.getpid(),
        software=f"stagewright {VERSION}",
    )


def _free_name(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    return aside
