"""What is shown of a group, in which words, and from which facts."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from stagewright.adapters import RunStatus, StatusBar
from stagewright.adapters.projections.status import group_history_in, history_in
from stagewright.adapters.projections.varied_values import varied_text
from stagewright.events import ErrorDetail, RunOpened, RunState, StageEvent, replay, subscribe
from stagewright.events.groups.log import read_group
from stagewright.events.groups.model import (
    GroupEvent,
    GroupSealed,
    VariantBegun,
    VariantFailure,
)

from .group_lives import GroupStory, in_group, variants
from .group_runs import HeldBackend, run_group, start_group
from .status_stories import after, made, planned
from .stories import Story
from .support import controller


def give(bar: StatusBar, story: Story, place: int) -> None:
    for event in story.events:
        bar.take_event(in_group(event, place))


def bar_with(*events: GroupEvent) -> StatusBar:
    """A bar that was given events of a group, and whose clock stands still."""
    bar = StatusBar(monotonic=lambda: 0.0)
    for event in events:
        bar.take_group_event(event)
    return bar


def variant_of(seconds: float, images: int = 2) -> Story:
    """A finished run of a variant that took so long."""
    story = made(planned("img2img").begin("img2img"), "img2img", *range(images))
    return after(story, seconds)


def test_the_variant_and_the_whole_group_are_shown() -> None:
    """Place, values, percentage by sampling steps, and the time from the variants that ran."""
    group = GroupStory(
        variants(40, 40, 80, txt2img__cfg_scale=[5.0, 7.0, 9.0], model=["a", "b", "c"])
    )
    bar = bar_with(group.open())
    assert bar.snapshot().group_headline == "3 variants"
    bar.take_group_event(group.begin(0))
    give(bar, variant_of(40).move("finish"), 0)
    bar.take_group_event(group.begin(1))
    give(bar, planned("img2img").begin("img2img"), 1)
    now = bar.snapshot()
    assert now.variant == "variant 2 of 3: cfg_scale 7.0, model b"
    assert now.group_percentage == pytest.approx(25)
    assert now.group_remaining_s == pytest.approx(120, rel=0.01)
    assert (now.variants_finished, now.variants_failed) == (1, 0)


def test_images_of_earlier_processes_do_not_spoil_the_pace() -> None:
    """A variant that a resume finished counts with the work and the time of each epoch alone."""
    group = GroupStory(variants(40, 40))
    first = after(made(planned("img2img").begin("img2img"), "img2img", 0), 20)
    first.move("fail").epoch += 1
    after(first.move("recover"), 90_000)
    first.resumed().move("start").begin("img2img")
    after(made(first, "img2img", 1), 90_020).move("finish")
    bar = bar_with(group.open(), group.begin(0))
    give(bar, first, 0)
    assert bar.snapshot().group_remaining_s == pytest.approx(40, rel=0.01)


def test_a_single_run_shows_no_group_also_after_one() -> None:
    """All fields of a group are empty then."""
    group = GroupStory(variants(40))
    bar = bar_with(group.open(), group.begin(0))
    give(bar, variant_of(1).move("finish"), 0)
    bar.take_group_event(group.seal("completed"))
    assert bar.snapshot().group_headline == "Group completed: 1 variant"
    for other in planned("img2img").events:
        bar.take_event(other)
    now = bar.snapshot()
    assert (now.group_id, now.group_headline, now.group_detail) == ("", "", "")


def test_a_removed_variant_is_done_and_takes_no_time() -> None:
    """It is neither finished nor failed, and nothing of it is left to be made."""
    group = GroupStory(variants(40, 40, 40))
    bar = bar_with(group.open(), group.begin(0))
    give(bar, variant_of(40).move("finish"), 0)
    bar.take_group_event(group.remove(1))
    now = bar.snapshot()
    assert now.group_percentage == pytest.approx(200 / 3)
    assert now.group_remaining_s == pytest.approx(40, rel=0.01)
    assert (now.variants_finished, now.variants_failed) == (1, 0)


def test_a_variant_that_cannot_begin_is_a_failed_one() -> None:
    """The first reason is shown; a resume starts without it."""
    group = GroupStory(variants(40, 40, 40))
    bar = bar_with(group.open(), group.begin(0))
    give(bar, variant_of(40).move("finish"), 0)
    failures = tuple(
        VariantFailure(variant_index=place, error=ErrorDetail(kind="E", message=f"reason {place}"))
        for place in (1, 2)
    )
    bar.take_group_event(group.seal("partial", failures=failures))
    now = bar.snapshot()
    assert now.group_headline == "Group error: 1 of 3 variants"
    assert now.group_detail == "group 33%, 2 failed"
    assert now.trouble == "Error: variant 2: reason 1"
    bar.take_group_event(group.resume())
    now = bar.snapshot()
    assert (now.group_detail, now.trouble) == ("group 33%, about 0:01:20 left", "")


def test_what_keeps_all_variants_from_beginning_is_shown() -> None:
    """In place of the reason of a single variant."""
    group = GroupStory(variants(40, 40))
    error = ErrorDetail(kind="PreflightError", message="the server\ncannot be reached")
    failure = VariantFailure(variant_index=0, error=ErrorDetail(kind="E", message="another"))
    sealed = group.open(), group.seal("failed", failures=(failure,), error=error)
    now = bar_with(*sealed).snapshot()
    assert now.group_headline == "Group error: 0 of 2 variants"
    assert now.trouble == "Error: the server cannot be reached"


def test_a_resumed_group_is_shown_with_its_past_from_its_first_event_on(tmp_path: Path) -> None:
    """A bar that is given nothing before it reads the log of the group, and those of its runs."""
    dead = HeldBackend(3)
    first = controller(tmp_path, dead)
    handle = start_group(first, [2, 3])
    dead.wait_held()
    first.cancel(handle.group_id)
    handle.wait(60)
    held = HeldBackend(0)
    read: list[str] = []

    def history(run_id: str) -> Iterable[StageEvent]:
        read.append(run_id)
        return history_in(tmp_path)(run_id)

    bar = StatusBar(history=history, group_history=group_history_in(tmp_path))
    with subscribe(bar.take_event, on="publisher", on_group=bar.take_group_event):
        second = controller(tmp_path, held).resume_group(handle.group_id)
        held.wait_held()
        now = [bar.snapshot() for _ in range(3)][-1]
        held.let_go()
        second.wait(60)
    assert now.variant == "variant 2 of 2: steps 3"
    assert (now.group_percentage, now.variants_finished) == (70.0, 1)
    assert now.group_remaining_s is not None
    assert bar.snapshot().group_percentage == 100.0
    # Once as a part of the group; the one that goes on also for its own status.
    assert [read.count(one.run_id or "") for one in second.wait().variants] == [1, 2]


def test_the_past_of_a_run_is_read_in_the_folder_of_the_runs_alone(tmp_path: Path) -> None:
    """Whatever a foreign log of a group calls its run."""
    (run, *_) = run_group(tmp_path / "runs", [2]).variants
    assert run.run_id is not None
    shutil.copytree(tmp_path / "runs" / run.run_id, tmp_path / "outside")
    history = history_in(tmp_path / "runs")
    assert len(list(history(run.run_id))) > 5
    for name in ("../outside", str(tmp_path / "outside"), f"../runs/{run.run_id}", ""):
        assert list(history(name)) == []


def test_a_finished_group_is_resumed_without_reading_its_past_for_a_status(
    tmp_path: Path,
) -> None:
    """Only a group that goes on is shown."""
    read: list[str] = []

    def group_history(group_id: str) -> list[GroupEvent]:
        read.append(group_id)
        return []

    result = run_group(tmp_path, [2])
    bar = StatusBar(group_history=group_history)
    with subscribe(bar.take_event, on="publisher", on_group=bar.take_group_event):
        controller(tmp_path).resume_group(result.group_id).wait(60)
    assert read == []


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"txt2img.steps": 5}, "steps 5"),
        ({"txt2img.steps": 5, "img2img.steps": 6}, "txt2img.steps 5, img2img.steps 6"),
        ({"txt2img.model": "xl/b.safetensors"}, "model xl/b"),
        ({"prompt": "a\n" + "x" * 60 + " storm"}, f"prompt a {'x' * 28}…{'x' * 23} storm"),
        ({"adetailer.passes": [{"model": "f"}]}, 'passes [{"model":"f"}]'),
    ],
)
def test_varied_values_are_short(values: dict[str, Any], text: str) -> None:
    """Keys by the parts that tell them apart, values in one line of limited length."""
    assert varied_text(values, without_suffixes=True) == text


@pytest.mark.parametrize("where", ["worker", "publisher", "loop"])
def test_events_of_a_group_and_its_runs_come_in_order(tmp_path: Path, where: str) -> None:
    """On each kind of thread: a variant begins before its run, and ends before the next one."""
    seen: list[StageEvent | GroupEvent] = []
    done = threading.Event()
    on: Any = (lambda call: call()) if where == "loop" else where

    def take_group_event(event: GroupEvent) -> None:
        seen.append(event)
        if isinstance(event, GroupSealed):
            done.set()

    with subscribe(seen.append, on=on, on_group=take_group_event):
        result = run_group(tmp_path, [2, 3, 4])
        assert done.wait(10)
    expected: list[GroupEvent | StageEvent] = []
    for event in read_group(tmp_path / "groups" / result.group_id):
        expected.append(event)
        if isinstance(event, VariantBegun):
            expected += replay(tmp_path / event.run_id).events
    assert seen == expected
    assert result.state is RunState.COMPLETED


def test_a_bar_of_real_runs_ends_at_100_and_a_later_one_shows_the_same(tmp_path: Path) -> None:
    """From the events as they come, and from the logs alone."""
    live, later = StatusBar(), StatusBar(history=history_in(tmp_path))
    percentages: list[float] = []

    def take(event: StageEvent) -> None:
        live.take_event(event)
        percentages.append(live.snapshot().group_percentage or 0.0)

    with subscribe(take, on="publisher", on_group=live.take_group_event):
        result = run_group(tmp_path, [2, 3])
    for event in read_group(tmp_path / "groups" / result.group_id):
        later.take_group_event(event)
    assert percentages == sorted(percentages)
    now, then = live.snapshot(), later.snapshot()
    assert (now.group_percentage, now.variants_finished) == (100.0, 2)
    assert (then.group_percentage, then.variants_finished) == (100.0, 2)


def test_a_run_that_is_shown_without_its_group_names_its_variant() -> None:
    """From what it recorded itself."""
    opened = in_group(planned("img2img").events[0], 2, {"txt2img.steps": 5})
    assert isinstance(opened, RunOpened)
    bar = StatusBar()
    bar.take_event(opened)
    now = bar.snapshot()
    assert (now.variant, now.group_percentage) == ("variant 3: steps 5", None)
    bar.take_event(msgspec.structs.replace(opened, group_id=None, run_id="another"))
    assert bar.snapshot().variant == RunStatus().variant == ""
