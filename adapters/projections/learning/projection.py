"""Makes the learning record of a log, and checks whether a record still matches its log."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ....events.log.format import DIGITS, HEADER_BYTES, MAX_LINE_BYTES, PREFIX
from ....events.log.reader import log_path
from ....events.log.scan import LogScan
from ....events.log.storage import open_regular
from ....events.log.timeline import FileTimeline
from ....events.model import StageEvent
from .record_builder import make_record
from .records import LearningRecord
from .run_summary import RunSummary

_HEADER = slice(len(PREFIX), len(PREFIX) + DIGITS)
_TAIL_BYTES = (1024, 32 * 1024)
_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
HELD_BYTES = 1024 * 1024
"""Logs up to this size are kept in memory while a record is made; larger ones are read again."""
_SEAL = b'{"type":"RunSealed"'


def learning_record(
    events: Sequence[StageEvent], *, folder: str = "", log_head: str = ""
) -> LearningRecord | None:
    """The record of a run from all its events, in order.

    None for a run that has not ended or has opted out. Raises
    UnusableLogError.
    """
    summary = _summary_of(events)
    if summary.end is None or summary.is_opted_out:
        return None
    if summary.is_past_end:
        events = events[: summary.end.seq + 1]
        summary = _summary_of(events)
    return make_record(summary, events, folder, log_head)


def read_learning_record(run: Path) -> LearningRecord | None:
    """The record of the run in a folder, as ``learning_record`` makes it.

    Raises RunNotFoundError, LogCorruptError, UnusableLogError, OSError.
    """
    path = log_path(run)
    with open_regular(path) as stream:
        is_small = stream.seek(0, 2) <= HELD_BYTES
        scan = LogScan(stream, path=path)
        summary, held = _scanned(scan, hold=is_small)
        if summary.end is None or summary.is_opted_out:
            return None
        count = summary.end.seq + 1
        stop = scan.offsets[count] if count < len(scan.offsets) else scan.end
        stream.seek(scan.offsets[count - 1])
        log_head = stream.readline(MAX_LINE_BYTES)[_HEADER].decode()
    events: Sequence[StageEvent] = (
        FileTimeline(path, scan.offsets[:count], stop) if held is None else held[:count]
    )
    if summary.is_past_end:
        summary = _summary_of(events)
    return make_record(summary, events, run.name, log_head)


def still_ends_with(log: str, log_head: str) -> bool:
    """Whether a log still has the end that a record with this ``log_head`` was made of.

    A header depends on all records before it, so the last bytes of the log suffice. Also False
    if they do not decide. ``log`` is the path of a file. Raises OSError.
    """
    # Without pathlib and io, which take several times as long as the read itself.
    descriptor = os.open(log, _FLAGS)
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        for length in _TAIL_BYTES:
            os.lseek(descriptor, max(0, size - length), os.SEEK_SET)
            line = _ending(os.read(descriptor, length), is_whole=length >= size)
            if line:
                return line[_HEADER] == log_head.encode()
    finally:
        os.close(descriptor)
    return False


def _ending(tail: bytes, *, is_whole: bool) -> bytes:
    """The last line before a seal in the last bytes of a log; empty if they do not hold it."""
    *lines, torn = tail.split(b"\n")
    if not is_whole:
        del lines[:1]  # the first line may be cut
    if lines and lines[-1].startswith(_SEAL, HEADER_BYTES):
        del lines[-1]
    return lines[-1] if lines and not torn else b""


def _summary_of(events: Iterable[StageEvent]) -> RunSummary:
    summary = RunSummary()
    summary.take(events)
    return summary


def _scanned(scan: LogScan, *, hold: bool) -> tuple[RunSummary, list[StageEvent] | None]:
    """The summary of a log, and with ``hold`` its events; stops early if the run opted out."""
    summary = RunSummary()
    held: list[StageEvent] = []
    for batch in scan.batches():
        summary.take(batch)
        if summary.is_opted_out:
            break
        if hold:
            held += batch
    return summary, held if hold else None
