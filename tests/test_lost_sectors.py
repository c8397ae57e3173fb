"""Sectors that a power loss takes out of what was not synced, at every place of a log."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as some
from stagewright.events import CancelMode, CancelRequested, MemoryEventLog, StageEnd

from .log_format import split_lines
from .samples import STAGE
from .support import START, memory_log

SECTOR = 512


def log_of(lengths: list[int], last: int) -> tuple[bytes, int]:
    """A log whose last records are unsynced ones, one of them long; and its synced size."""
    log = memory_log(1, finished=False)
    for length in lengths:
        log.append(
            CancelRequested(
                run_id=log.run_id, seq=log.next_seq, ts=START, reason="x" * length,
                mode=CancelMode.NOW,
            )
        )  # fmt: skip
    synced = len(log.to_bytes())
    end = {"image_count": 1, "duration_ms": 1.0, "outcome": "failed"}
    log.append(StageEnd(run_id=log.run_id, seq=log.next_seq, ts=START, **STAGE, **end))  # type: ignore[arg-type]  # a plain mapping
    log.append(
        CancelRequested(
            run_id=log.run_id, seq=log.next_seq, ts=START, reason="y" * last, mode=CancelMode.NOW
        )
    )
    return log.to_bytes(), synced


@settings(deadline=None)
@given(some.lists(some.integers(0, 600), max_size=3), some.integers(0, 1200))
def test_whatever_sectors_are_lost_the_synced_records_are_there_and_the_rest_is_torn(
    lengths: list[int], last: int
) -> None:
    """Every choice of lost sectors behind the last sync leaves a log that opens."""
    data, synced = log_of(lengths, last)
    sound = len(split_lines(data)) - 2
    sectors = range(synced // SECTOR, (len(data) - 1) // SECTOR + 1)
    for kept in product([True, False], repeat=len(sectors)):
        found = bytearray(data)
        for sector, is_kept in zip(sectors, kept, strict=True):
            begin, end = max(synced, sector * SECTOR), min(len(data), (sector + 1) * SECTOR)
            if not is_kept:
                found[begin:end] = bytes(end - begin)
        read = MemoryEventLog.from_bytes(bytes(found)).next_seq
        assert sound <= read <= sound + 2
        assert (read == sound + 2) == all(kept)
