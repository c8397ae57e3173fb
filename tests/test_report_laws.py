"""What holds for every log: its text is never markup, and every moment has a place."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stagewright.adapters.export.report import gantt
from stagewright.events import (
    CallFailed,
    ErrorDetail,
    MemoryEventLog,
    Outcome,
    RunOpened,
    StageEnd,
)

from .log_format import changed, make_log, split_bodies
from .reports import Page, reported
from .resuming import LOG
from .stories import Story, error

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


@cache
def plain_shape() -> object:
    """The elements of the page of a run with plain text."""
    return told_with("x").shape


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
@example(HOSTILE)
@example("\x00")
@example("two\nlines")
def test_no_text_of_a_log_is_ever_markup(text: str) -> None:
    """Whatever it is, the page's elements are the same, and no control character is in it."""
    page = told_with(text)
    assert page.shape == plain_shape()
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
        assert "IDLE" in page_of(story).text


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


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=8))
@settings(max_examples=25, deadline=None)
def test_every_event_has_a_place_and_none_goes_back(lengths: list[tuple[float, float]]) -> None:
    """Places run from 0 to 100 percent, and later epochs are never further left."""
    story = Story("txt2img").move("start").begin("txt2img")
    for idle_s, worked_s in lengths:
        story.late_s += worked_s
        story.move("fail")
        story.late_s += idle_s
        story.resume("recover").begin("txt2img").ask("txt2img", 0)
    page = page_of(story)
    for tag, name in (("rect", "bar unanswered"), ("svg", "mark")):
        found = [
            one["x"] for one in page.all(tag) if "data-seq" in one and one["class"].startswith(name)
        ]
        places = [float(place.removesuffix("%")) for place in found]
        assert len(places) >= len(lengths)
        assert all(0.0 <= place <= 100.0 for place in places)
        assert places == sorted(places)
    assert len(page.all("line", **{"class": "grid"})) <= 16


def page_of(story: Story) -> Page:
    """The report of a story."""
    with tempfile.TemporaryDirectory() as name:
        return reported(written(story, Path(name) / "runs"))[0]


def test_the_time_between_two_epochs_is_left_out() -> None:
    """Two epochs of ten seconds, a day apart, have half of the width each."""
    story = Story("txt2img", images=1).move("start").begin("txt2img")
    story.late_s = 10
    story.make("txt2img", 0).move("fail")
    story.late_s = 86_410
    story.resume("recover").begin("txt2img").make("txt2img", 0)
    story.late_s = 86_420
    page = page_of(story.move("finish"))
    assert "Left out: 1 day, 0:00:00 idle." in page.text
    bars = [one for one in page.all("rect") if one.get("class", "").startswith("bar retried")]
    assert float(bars[-1]["x"].removesuffix("%")) == pytest.approx(50, abs=0.1)


def test_a_call_beyond_those_that_can_be_drawn_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the others has a bar of its own, and each failed one a cross."""
    monkeypatch.setattr(gantt, "MAX_CALLS", 30)
    story = Story("txt2img", images=0).move("start").begin("txt2img")
    for index in range(31):
        call_id = story.ask("txt2img", index)
        if index < 20:
            story.add(CallFailed, call_id=call_id, endpoint="x", error=error(), will_retry=False)
    page = page_of(story)
    bars = [one for one in page.all("rect") if "data-seq" in one]
    assert len(bars) == 30
    assert len(page.all("use", href="#cross")) == 20
    assert "Calls 31: 0 completed; 20 failed; " in page.text
    assert "1 further calls are not drawn." in page.text


def test_calls_at_the_same_time_are_below_each_other() -> None:
    """A backend that serves several requests at once has a row for each."""
    story = Story("txt2img", images=3).move("start").begin("txt2img")
    calls = [story.ask("txt2img", index) for index in range(3)]
    for index, call_id in enumerate(calls):
        story.answer(call_id, "txt2img", index)
    bars = [one for one in page_of(story).all("rect") if "data-seq" in one]
    assert len({bar["y"] for bar in bars}) == 3


def test_a_clock_that_was_set_back_does_not_turn_the_timeline_round() -> None:
    """Time stands still until the clock has caught up, and the head says so."""
    story = Story("txt2img")
    for late_s in (5, 2, 3, 6):
        story.late_s = late_s
        story.move("start")
    page = page_of(story)
    assert [round(columns[2]) for columns, _ in page.events()] == [0, 5, 5, 5, 6]
    assert "Clock set back during the run: 2 events" in page.text
