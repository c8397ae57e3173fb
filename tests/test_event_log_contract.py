"""What every event log keeps to, run against the one in memory and the one on disk."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stagewright.events import (
    CancelMode,
    CancelRequested,
    EventLog,
    FileEventLog,
    LogWriteError,
    MemoryEventLog,
    RunOpened,
    SequenceError,
    StageEvent,
)

from .log_format import chain_value, make_log, split_bodies
from .support import START, fill_log, run_opened

pytestmark = pytest.mark.lowest

RUN = "20261120T225226.123456Z-contract-7f3a9c"
MAX_BODY = 16 * 1024 * 1024


class Shelf(Protocol):
    """Where the logs of one kind are made, looked at and opened again."""

    def new(self, opened: RunOpened) -> EventLog: ...
    def data(self) -> bytes: ...
    def open_again(self) -> EventLog: ...


class MemoryShelf:
    """Logs in memory."""

    def new(self, opened: RunOpened) -> EventLog:
        self._log = MemoryEventLog(opened.run_id)
        self._log.append(opened)
        return self._log

    def data(self) -> bytes:
        return self._log.to_bytes()

    def open_again(self) -> EventLog:
        return MemoryEventLog.from_bytes(self.data())


class FileShelf:
    """Logs on disk, each in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._root = folder
        self._made = 0

    def new(self, opened: RunOpened) -> EventLog:
        self._made += 1
        self._folder.mkdir()
        return FileEventLog.create(self._folder, opened)

    def data(self) -> bytes:
        return (self._folder / "events.jsonl").read_bytes()

    def open_again(self) -> EventLog:
        return FileEventLog.open(self._folder)

    @property
    def _folder(self) -> Path:
        return self._root / str(self._made)


@pytest.fixture(params=["memory", "file"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    return MemoryShelf() if request.param == "memory" else FileShelf(tmp_path)


@pytest.fixture
def log(shelf: Shelf) -> Iterator[EventLog]:
    made = shelf.new(run_opened(RUN))
    yield made
    made.close()


def cancel_event(seq: int, reason: str = "enough", **envelope: Any) -> CancelRequested:
    about = {"run_id": RUN, "ts": START, **envelope}
    return CancelRequested(seq=seq, reason=reason, mode=CancelMode.NOW, **about)


def documents(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line)["e"] for line in data.splitlines()]


def test_sequence_numbers_are_contiguous_from_zero(log: EventLog) -> None:
    """The events of a log carry 0, 1, 2 ... and ``next_seq`` is how many there are."""
    fill_log(log)
    seqs = [event.seq for event in log.timeline()]
    assert seqs == list(range(12))
    assert log.next_seq == 12


@pytest.mark.parametrize(
    "wrong",
    [
        cancel_event(0),
        cancel_event(2),
        cancel_event(4),
        cancel_event(3, run_id="20261120T225226.123456Z-other-000000"),
    ],
    ids=["first again", "last again", "gap", "another run"],
)
def test_an_event_that_does_not_follow_is_refused(
    shelf: Shelf, log: EventLog, wrong: CancelRequested
) -> None:
    """A doubled, gapped or foreign event raises, writes nothing, and the right one still fits."""
    log.append(cancel_event(1))
    log.append(cancel_event(2))
    before, chain = shelf.data(), log.chain
    with pytest.raises(SequenceError):
        log.append(wrong)
    assert (shelf.data(), log.chain, log.next_seq) == (before, chain, 3)
    log.append(cancel_event(3))
    assert shelf.data().startswith(before)
    assert log.next_seq == 4


def test_the_timeline_is_what_was_appended(log: EventLog) -> None:
    """Every event is read back equal, by iteration, by index and by slice."""
    appended: list[StageEvent] = [run_opened(RUN), cancel_event(1, "a"), cancel_event(2, "b")]
    for event in appended[1:]:
        log.append(event)
    timeline = log.timeline()
    assert list(timeline) == appended
    assert [timeline[place] for place in range(3)] == appended
    assert list(timeline[1:]) == appended[1:]
    assert timeline[-1] == appended[-1]
    assert log.event_at(1) == appended[1]


def test_a_timeline_is_a_snapshot(log: EventLog) -> None:
    """A timeline does not grow when its log does; what is not there is an IndexError."""
    timeline = log.timeline()
    log.append(cancel_event(1))
    assert len(timeline) == len(list(timeline)) == 1
    with pytest.raises(IndexError):
        timeline[1]
    with pytest.raises(IndexError):
        log.event_at(2)


def test_every_byte_is_as_the_format_says(shelf: Shelf, log: EventLog) -> None:
    """Lengths, checksums, chain and newlines equal those worked out from the contract."""
    fill_log(log)
    bodies = split_bodies(shelf.data())
    assert len(bodies) == 12
    assert shelf.data() == make_log(bodies)


def test_the_chain_is_c_of_n_after_every_append(shelf: Shelf, log: EventLog) -> None:
    """``chain`` is SHA-256 over the chain before and the last body, from 64 zeros on."""
    for seq in range(1, 6):
        assert log.chain == chain_value(split_bodies(shelf.data()))
        log.append(cancel_event(seq, f"reason {seq}"))
    assert log.chain == chain_value(split_bodies(shelf.data()))


@pytest.mark.parametrize("microsecond", [0, 1, 100000, 123456, 999999])
def test_times_have_six_digits(shelf: Shelf, microsecond: int) -> None:
    """``ts`` is RFC 3339 in UTC with microseconds, a fraction of zero too, and reads back."""
    moment = START.replace(microsecond=microsecond)
    log = shelf.new(run_opened(RUN))
    log.append(cancel_event(1, 'Z","epoch": is no end of a time', ts=moment))
    written = documents(shelf.data())[1]["ts"]
    assert written == f"2026-11-20T22:52:26.{microsecond:06d}Z"
    assert log.event_at(1).ts == moment
    log.close()


def test_times_of_another_zone_are_written_in_utc(shelf: Shelf, log: EventLog) -> None:
    """A time with another offset is written as the same moment in UTC."""
    from datetime import timezone

    eastward = START.replace(microsecond=0).astimezone(timezone(timedelta(hours=2)))
    log.append(cancel_event(1, ts=eastward))
    assert documents(shelf.data())[1]["ts"] == "2026-11-20T22:52:26.000000Z"


def test_every_record_is_a_json_line_with_the_envelope_first(shelf: Shelf, log: EventLog) -> None:
    """Each line is JSON; ``e`` begins with type, v, run_id, seq, ts, epoch."""
    fill_log(log)
    for seq, line in enumerate(shelf.data().splitlines()):
        record = json.loads(line)
        assert list(record) == ["h", "e"]
        assert re.fullmatch(r"[0-9a-f]{36}", record["h"])
        assert list(record["e"])[:6] == ["type", "v", "run_id", "seq", "ts", "epoch"]
        assert (record["e"]["v"], record["e"]["run_id"], record["e"]["seq"]) == (1, RUN, seq)


def test_states_are_upper_case_and_stages_lower_case(shelf: Shelf, log: EventLog) -> None:
    """The log says RUNNING and COMPLETED, txt2img and completed."""
    fill_log(log, images=1)
    said = documents(shelf.data())
    moves = [(e["source"], e["dest"]) for e in said if e["type"] == "LifecycleChanged"]
    assert moves == [("IDLE", "RUNNING"), ("RUNNING", "COMPLETED")]
    assert {e["stage_type"] for e in said if "stage_type" in e} == {"txt2img"}
    assert [e["outcome"] for e in said if "outcome" in e] == ["completed", "completed"]
    assert isinstance(next(e for e in said if e["type"] == "StageEnd")["duration_ms"], float)


def test_a_body_of_16_mib_fits_and_one_byte_more_does_not(shelf: Shelf, log: EventLog) -> None:
    """The bound on a record is exact, and an event beyond it leaves the log as it was."""
    spare = MAX_BODY - len(json.dumps(documents_of_one(shelf, log), separators=(",", ":")))
    log.append(cancel_event(2, "x" * spare))
    size = len(shelf.data())
    with pytest.raises(LogWriteError, match="16777217"):
        log.append(cancel_event(3, "x" * (spare + 1)))
    assert len(shelf.data()) == size
    log.append(cancel_event(3))
    assert [event.seq for event in log.timeline()] == [0, 1, 2, 3]


def documents_of_one(shelf: Shelf, log: EventLog) -> dict[str, Any]:
    """What a cancel event without a reason looks like."""
    log.append(cancel_event(1, ""))
    return documents(shelf.data())[1]


def test_an_event_without_a_json_form_is_refused(shelf: Shelf, log: EventLog) -> None:
    """A time without a zone and text that is no Unicode raise before anything is written."""
    before = shelf.data()
    naive = START.replace(tzinfo=None)
    unreadable = [
        cancel_event(1, ts=naive),
        cancel_event(1, reason="\ud800"),
    ]
    for event in unreadable:
        with pytest.raises(LogWriteError):
            log.append(event)
    assert shelf.data() == before
    log.append(cancel_event(1))
    assert log.next_seq == 2


def test_appending_to_a_closed_log_is_an_error(shelf: Shelf) -> None:
    """After ``close`` an append raises and changes nothing; closing twice is fine."""
    log = shelf.new(run_opened(RUN))
    log.close()
    log.close()
    before = shelf.data()
    with pytest.raises(LogWriteError):
        log.append(cancel_event(1))
    assert shelf.data() == before


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(reasons=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=8))
def test_a_log_opened_again_goes_on_where_it_was(shelf: Shelf, reasons: Sequence[str]) -> None:
    """Whatever text the events carry, a reopened log has the same events, chain and next_seq."""
    first = shelf.new(run_opened(RUN))
    for seq, reason in enumerate(reasons, 1):
        first.append(cancel_event(seq, reason))
    expected, chain = list(first.timeline()), first.chain
    first.close()
    again = shelf.open_again()
    assert (list(again.timeline()), again.chain) == (expected, chain)
    again.append(cancel_event(len(reasons) + 1))
    assert shelf.data() == make_log(split_bodies(shelf.data()))
    again.close()


def test_a_log_in_memory_takes_its_run_from_its_first_event() -> None:
    """Without an id it adopts the first event's, and refuses any other after that."""
    log = MemoryEventLog()
    log.append(run_opened(RUN))
    assert log.run_id == RUN
    with pytest.raises(SequenceError):
        log.append(msgspec.structs.replace(cancel_event(1), run_id="another"))
