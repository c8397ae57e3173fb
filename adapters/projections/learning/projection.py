"""From the log of a run to its learning record, and back: does a record still fit its log?"""

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
"""The events of a log up to this size are held while its record is made; others are read again."""
_SEAL = b'{"type":"RunSealed"'


def learning_record(
    events: Sequence[StageEvent], *, folder: str = "", log_head: str = ""
) -> LearningRecord | None:
    """The record of a run from its events, in order and from the first on.

    None for a run that has not ended, and for one that was to leave no record. Raises
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
    """The record of the run in a folder, from its log alone, as ``learning_record`` makes it.

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
    """Whether a log is seen to end as it did when a record with this ``log_head`` was made of it.

    A header pins all records before it, so a look at the last ones suffices. False also where
    a look cannot tell. ``log`` is the path of a file. Raises OSError.
    """
    # Not by way of pathlib and io, which take several times as long as the look itself.
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
    """The last line before a seal in the last bytes of a log; nothing where they tell none."""
    *lines, torn = tail.split(b"\n")
    if not is_whole:
        del lines[:1]  # the end of a longer one
    if lines and lines[-1].startswith(_SEAL, HEADER_BYTES):
        del lines[-1]
    return lines[-1] if lines and not torn else b""


def _summary_of(events: Iterable[StageEvent]) -> RunSummary:
    summary = RunSummary()
    summary.take(events)
    return summary


def _scanned(scan: LogScan, *, hold: bool) -> tuple[RunSummary, list[StageEvent] | None]:
    """What a log comes to; with ``hold`` its events as well. No more than it takes to opt out."""
    summary = RunSummary()
    held: list[StageEvent] = []
    for batch in scan.batches():
        summary.take(batch)
        if summary.is_opted_out:
            break
        if hold:
            held += batch
    return summary, held if hold else None
