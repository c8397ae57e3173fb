"""What is shown of a group, in which words, and from which facts."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from stagewright.adapters import RunStatus, StatusBar
from stagewright.adapters.projections.status import history_in
from stagewright.adapters.projections.status.varied import varied_text
from stagewright.events import RunOpened, RunState, StageEvent, replay, subscribe
from stagewright.events.groups.log import read_group
from stagewright.events.groups.model import GroupEvent, VariantBegun

from .group_lives import GroupStory, in_group, variants
from .group_runs import GroupRuns
from .status_stories import after, made, planned
from .stories import Story


def give(bar: StatusBar, story: Story, place: int) -> None:
    for event in story.events:
        bar.take_event(in_group(event, place))


def variant_of(seconds: float, images: int = 2) -> Story:
    """A finished run of a variant that took so long."""
    story = made(planned("img2img").begin("img2img"), "img2img", *range(images))
    return after(story, seconds)


def test_the_variant_and_the_whole_group_are_shown() -> None:
    """Place, values, percentage by sampling steps, and the time from the variants that ran."""
    group = GroupStory(
        variants(40, 40, 80, txt2img__cfg_scale=[5.0, 7.0, 9.0], model=["a", "b", "c"])
    )
    bar = StatusBar(monotonic=lambda: 0.0)
    bar.take_group_event(group.open())
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
    bar = StatusBar(monotonic=lambda: 0.0)
    for event in (group.open(), group.begin(0)):
        bar.take_group_event(event)
    give(bar, first, 0)
    assert bar.snapshot().group_remaining_s == pytest.approx(40, rel=0.01)


def test_a_single_run_shows_no_group_also_after_one() -> None:
    """All fields of a group are empty then."""
    group = GroupStory(variants(40))
    bar = StatusBar(monotonic=lambda: 0.0)
    for event in (group.open(), group.begin(0)):
        bar.take_group_event(event)
    give(bar, variant_of(1).move("finish"), 0)
    bar.take_group_event(group.seal("completed"))
    assert bar.snapshot().group_headline == "Group completed: 1 variant"
    for other in planned("img2img").events:
        bar.take_event(other)
    now = bar.snapshot()
    assert (now.group_id, now.group_headline, now.group_detail) == ("", "", "")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"txt2img.steps": 5}, "steps 5"),
        ({"txt2img.steps": 5, "img2img.steps": 6}, "txt2img.steps 5, img2img.steps 6"),
        ({"txt2img.model": "xl/b.safetensors"}, "model xl/b"),
        ({"prompt": "a\n" + "x" * 60 + " storm"}, "prompt a xxxxxxxxxxxxxxxx...xxxxxxxxxxxx storm"),
        ({"adetailer.passes": [{"model": "f"}]}, 'passes [{"model":"f"}]'),
    ],
)
def test_varied_values_are_short(values: dict[str, Any], text: str) -> None:
    """Keys by the parts that tell them apart, values in one line of limited length."""
    assert varied_text(values) == text


@pytest.mark.parametrize("where", ["worker", "publisher", "loop"])
def test_events_of_a_group_and_its_runs_come_in_order(tmp_path: Path, where: str) -> None:
    """On each kind of thread: a variant begins before its run, and ends before the next one."""
    seen: list[StageEvent | GroupEvent] = []
    done = threading.Event()
    group = GroupRuns(tmp_path, [2, 3, 2])
    on: Any = (lambda call: call()) if where == "loop" else where

    def take_group_event(event: GroupEvent) -> None:
        seen.append(event)
        if event.seq == len(group.steps) + 1:
            done.set()

    with subscribe(seen.append, on=on, on_group=take_group_event):
        results = group.run()
        assert done.wait(10)
    expected: list[Any] = []
    for event in group.story.events:
        expected.append(("group", event.seq))
        if isinstance(event, VariantBegun):
            length = len(replay(tmp_path / event.run_id).events)
            expected += [(event.run_id, seq) for seq in range(length)]
    told = [
        (getattr(event, "run_id", "group"), event.seq)
        for event in seen
        if not isinstance(event, VariantBegun)
    ]
    assert told == [one for one in expected if one[0] != "group" or one[1] in (0, 4)]
    assert [result.state for result in results] == [RunState.COMPLETED] * 3


def test_a_bar_of_real_runs_ends_at_100_and_a_later_one_shows_the_same(tmp_path: Path) -> None:
    """From the events as they come, and from the logs alone."""
    live, later = StatusBar(), StatusBar(history=history_in(tmp_path))
    percentages: list[float] = []

    def take(event: StageEvent) -> None:
        live.take_event(event)
        percentages.append(live.snapshot().group_percentage or 0.0)

    group = GroupRuns(tmp_path, [2, 3])
    with subscribe(take, on="publisher", on_group=live.take_group_event):
        group.run()
    for event in read_group(tmp_path / "groups" / group.story.group_id):
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
