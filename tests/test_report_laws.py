"""What holds for every log: its text is never markup, and every moment has a place."""

from __future__ import annotations

import tempfile
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stagewright.adapters.export.report.calls import CallState, CallTimeline, Epoch
from stagewright.adapters.export.report.gantt import draw
from stagewright.adapters.export.report.quantities import (
    byte_size,
    day_and_time,
    ranges,
    span_text,
    time_of_day,
)
from stagewright.adapters.export.report.time_scale import TimeScale
from stagewright.events import (
    CallCompleted,
    CallFailed,
    CallRequested,
    ErrorDetail,
    MemoryEventLog,
    Outcome,
    RunOpened,
    StageEnd,
)

from .log_format import changed, make_log, split_bodies
from .reports import Page, reported
from .resuming import LOG
from .stories import Story
from .support import START

HOSTILE = "</script><img src=x onerror=alert(1)>\u2028\u202e\x1b[31m'\"&{{ 7*7 }}]]>-->"
_FORBIDDEN = {chr(code) for code in (*range(32), *range(127, 160), 0x2028, 0x2029, 0x202E)} - {"\n"}


def run_with(text: str, runs: Path) -> Path:
    """A run in which ``text`` stands wherever a log holds text."""
    story = Story("txt2img", images=2).move("start").begin("txt2img", note=text)
    story.miss("txt2img", 1, ErrorDetail(kind=text, message=text, detail=text, stage_id=text))
    story.make("txt2img", 0, sampler_name=text, infotexts=[text], extra={text: [text]})
    story.add(
        StageEnd, stage_id="00-txt2img", stage_type="txt2img", image_count=1, duration_ms=1.0,
        outcome=Outcome.PARTIAL,
    )  # fmt: skip
    story.ask_to_cancel().move(
        "fail", ErrorDetail(kind=text, message=text, detail=text, stage_id=text), reason=text
    )
    opened = story.events[0]
    assert isinstance(opened, RunOpened)
    story.events[0] = msgspec.structs.replace(
        opened, config={"name": text, "k" + text: {"k" + text: [text]}}, plan=_plan(text),
        software=text, host=text, group_id=text,
    )  # fmt: skip
    return written(story, runs)


def written(story: Story, runs: Path) -> Path:
    """The folder of a story, with its log and nothing else."""
    log = MemoryEventLog()
    for event in story.events:
        log.append(event)
    folder = runs / "story"
    folder.mkdir(parents=True)
    (folder / "events.jsonl").write_bytes(log.to_bytes())
    return folder


def told_with(text: str) -> Page:
    """The report of such a run."""
    with tempfile.TemporaryDirectory() as name:
        return reported(run_with(text, Path(name) / "runs"))[0]


def _plan(text: str) -> dict[str, Any]:
    stages: list[dict[str, Any]] = [
        {"stage_id": "00-txt2img", "stage_type": text, "input_source": text, "order_index": text,
         "config": {"sampler": "s" + text, "prompt": text, "k" + text: text}},
        {"stage_id": "k" + text, "stage_type": text, "config": text},
    ]  # fmt: skip
    return {"stages": stages, "summary": text, "warnings": [text, {text: text}], "run_id": text,
            "one_click_action": {text: text}, "conflicts": text}  # fmt: skip


PLAIN = told_with("x").shape


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
@example(HOSTILE)
@example("\x00")
@example("two\nlines")
def test_no_text_of_a_log_is_ever_markup(text: str) -> None:
    """Whatever it is, the page's elements are the same, and no control character is in it."""
    page = told_with(text)
    assert page.shape == PLAIN
    assert not _FORBIDDEN & set(page.text)
    # Every event is carried, and its text comes out as it went in.
    failed = next(raw for columns, raw in page.events() if columns[0] == "CallFailed")
    assert msgspec.json.decode(failed)["error"]["message"] == text


def test_a_plan_that_is_none_is_reported() -> None:
    """A foreign log may hold anything in the place of its plan."""
    for plan in ({}, {"stages": 3}, {"stages": [1, {"stage_id": 2}]}, {"warnings": {"a": 1}}):
        story = Story("txt2img")
        opened = story.events[0]
        assert isinstance(opened, RunOpened)
        story.events[0] = msgspec.structs.replace(opened, plan=plan)
        with tempfile.TemporaryDirectory() as name:
            page, report = reported(written(story, Path(name) / "runs"))
        assert report.events == 1
        assert "IDLE" in page.text


seconds = st.floats(0, 1e7, allow_nan=False)


@given(st.lists(st.tuples(seconds, seconds), min_size=1, max_size=30), seconds)
def test_every_moment_has_a_place_and_none_goes_back(
    lengths: list[tuple[float, float]], moment: float
) -> None:
    """Places run from 0 to 100 percent, and later moments never stand further left."""
    epochs, at = [], 0.0
    for number, (gap, length) in enumerate(lengths):
        begin = at + (gap if number else 0.0)
        at = begin + length
        epochs.append(Epoch(number, START, begin, at))
    scale = TimeScale(epochs)
    moments = sorted([moment, *(one.began_s for one in epochs), *(one.ended_s for one in epochs)])
    places = [scale.place(one) for one in moments]
    assert all(0.0 <= place <= 100.0 for place in places)
    assert all(early <= late + 1e-9 for early, late in pairwise(places))
    assert len(list(scale.ticks())) <= 30 * 41


@pytest.mark.parametrize(
    ("written", "day", "time"),
    [
        ("0001-01-01T00:00:00+14:00", "0001-01-01 00:00:00+14:00", "00:00:00.000+14:00"),
        ("9999-12-31T23:59:59.999999-14:00", "9999-12-31 23:59:59-14:00", "23:59:59.999-14:00"),
        ("2026-11-20T22:52:26.123456+01:00", "2026-11-20 21:52:26 UTC", "21:52:26.123"),
        ("0001-01-01T00:00:00Z", "0001-01-01 00:00:00 UTC", "00:00:00.000"),
    ],
)
def test_every_legal_time_can_be_told(written: str, day: str, time: str) -> None:
    """In UTC, but for the first and the last hours of all, which UTC has in no year."""
    moment = datetime.fromisoformat(written)
    assert (day_and_time(moment), time_of_day(moment)) == (day, time)


def test_a_log_at_the_ends_of_time_is_reported(tmp_path: Path) -> None:
    """From the first hour of all to the last one, as a foreign log may have it."""
    story = Story("txt2img", images=1).move("start").begin("txt2img").make("txt2img", 0)
    folder = written(story, tmp_path / "runs")
    bodies = split_bodies((folder / LOG).read_bytes())
    bodies[0] = changed(bodies[0], ts="0001-01-01T00:00:00+14:00")
    bodies[-1] = changed(bodies[-1], ts="9999-12-31T23:59:59-14:00")
    (folder / LOG).write_bytes(make_log(bodies))
    page, _ = reported(folder)
    assert "0001-01-01 00:00:00+14:00" in page.text
    assert "9999-12-31 23:59:59-14:00" in page.text


def test_hours_without_work_are_cut_out() -> None:
    """Two epochs of ten seconds, a day apart, fill the width."""
    day = 86_400.0
    scale = TimeScale([Epoch(0, START, 0, 10), Epoch(1, START, day, day + 10)])
    assert scale.place(10) > 45
    assert scale.place(day) < 55
    assert scale.place(day + 10) == 100
    assert scale.spans[1].cut_s == day - 10


def timeline_of(calls: int, failing: int) -> CallTimeline:
    """Calls one after the other, of which each ``failing``-th fails."""
    timeline = CallTimeline()
    at: dict[str, Any] = {"run_id": "r", "seq": 0}
    for index in range(calls):
        call, begin = f"c{index}", START + timedelta(milliseconds=10 * index)
        timeline.take(
            CallRequested(
                **at, ts=begin, call_id=call, stage_id="00-txt2img", image_index=index, count=1,
                attempt=0, request_sha256="",
            )
        )  # fmt: skip
        end: dict[str, Any] = {**at, "ts": begin + timedelta(milliseconds=9), "call_id": call}
        if index % failing == 0:
            error = ErrorDetail(kind="E", message="m")
            timeline.take(CallFailed(**end, endpoint="x", error=error, will_retry=False))
        else:
            timeline.take(
                CallCompleted(**end, endpoint="x", artifacts=(), info={}, duration_ms=9.0)
            )
    return timeline


def test_a_picture_of_very_many_calls_stays_small() -> None:
    """Calls that no eye could tell apart are one bar; the counts are of all."""
    picture = draw(timeline_of(20_000, failing=1_000), [("00-txt2img", "")])
    bars = picture.lanes[0].bars
    assert len(bars) < 4_000
    assert dict(picture.legend) == {CallState.COMPLETED: 19_980, CallState.FAILED: 20}
    assert sum(bar.state is CallState.FAILED for bar in bars) == 20
    assert len(picture.lanes[0].crosses) == 20


def test_four_thousand_calls_are_drawn_one_by_one() -> None:
    """Each can be looked at from near by."""
    picture = draw(timeline_of(4_000, failing=7), [("00-txt2img", "")])
    assert len(picture.lanes[0].bars) == 4_000


def test_calls_at_once_stand_below_each_other() -> None:
    """A backend that serves several requests at once has a row for each."""
    timeline = CallTimeline()
    for index in range(3):
        timeline.take(
            CallRequested(
                run_id="r", seq=0, ts=START, call_id=str(index), stage_id="s", image_index=index,
                count=1, attempt=0, request_sha256="",
            )
        )  # fmt: skip
    for index in range(3):
        timeline.take(
            CallCompleted(
                run_id="r", seq=0, ts=START + timedelta(seconds=1), call_id=str(index),
                endpoint="x", artifacts=(), info={}, duration_ms=1.0,
            )
        )  # fmt: skip
    assert len({bar.top for bar in draw(timeline, [("s", "")]).lanes[0].bars}) == 3


def test_a_clock_that_was_set_back_does_not_turn_the_timeline_round() -> None:
    """Time stands still until the clock has caught up, and the head says so."""
    timeline = CallTimeline()
    moments = [timeline.clock.read(START + timedelta(seconds=one)) for one in (0, 5, 2, 3, 6)]
    assert moments == [0, 5, 5, 5, 6]
    assert timeline.clock.set_back == 2


def test_quantities_read_well() -> None:
    """Spans, sizes and rows of numbers, at the edges of their units."""
    assert [span_text(one) for one in (0, 0.25, 0.9999, 1.94, 59.96, 192, 7_500, 273_600)] == [
        "0 ms", "250 ms", "1.0 s", "1.9 s", "1 min 00 s", "3 min 12 s", "2 h 05 min", "3 d 4 h",
    ]  # fmt: skip
    assert [byte_size(one) for one in (0, 999, 1_400, 1_400_000)] == [
        "0 bytes", "999 bytes", "1.4 KB", "1.4 MB",
    ]  # fmt: skip
    assert ranges([1, 2, 3, 7, 9, 10]) == "1\N{EN DASH}3, 7, 9\N{EN DASH}10"
    assert ranges(range(0, 100, 2)).endswith(", ...")
