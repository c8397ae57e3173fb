"""How long a run takes, may still take, and waits."""

from __future__ import annotations

import pytest
from stagewright.adapters import StatusBar

from .group_lives import GroupStory, in_group, variants
from .status_stories import Shown, after, made, planned, reused
from .stories import error


def test_a_request_of_which_no_step_is_told_is_seen_to_wait() -> None:
    """For somebody else's job, or for a model; a step ends it."""
    story = planned("txt2img")
    story.begin("txt2img").ask("txt2img", 0)
    shown = Shown(story, expects_steps=True)
    assert shown.now().activity == ""
    shown.clock.now_s += 12
    assert shown.now().activity == "waiting for the server for 12.0 s"
    assert shown.step("txt2img", 0, 1, 37, 0.1).activity == "step 1 of 25, first pass"
    shown.clock.now_s += 12
    assert shown.now().waiting_s is None


@pytest.mark.parametrize(("kind", "expects_steps"), [("upscale", True), ("txt2img", False)])
def test_nobody_waits_for_steps_that_are_not_told(kind: str, expects_steps: bool) -> None:
    """Upscales have none; nor may a run of another process be told any."""
    story = planned(kind)
    story.begin(kind).ask(kind, 0)
    shown = Shown(story, expects_steps=expects_steps)
    shown.now()
    shown.clock.now_s += 12
    assert shown.now().waiting_s is None


def test_elapsed_is_told_by_the_events_and_then_by_the_clock() -> None:
    """A run that is joined late shows its right time; after its end it stands still."""
    story = after(planned("txt2img").begin("txt2img"), 60)
    shown = Shown(story)
    assert shown.now().elapsed_s == 60
    shown.clock.now_s += 5
    assert shown.now().elapsed_s == 65
    after(story.move("fail", error()), 70)
    assert shown.now().elapsed_s == 70
    shown.clock.now_s += 100
    assert shown.now().times == "0:01:10"


def test_a_clock_that_is_set_back_takes_no_time_away() -> None:
    """What the call took is known all the same, by the clock that cannot be set."""
    story = after(planned("txt2img").begin("txt2img"), 60)
    call_id = story.ask("txt2img", 0)
    after(story, 60)
    shown = Shown(story)
    shown.now()
    shown.clock.now_s += 30
    assert shown.now().elapsed_s == 90
    after(story.answer(call_id, "txt2img", 0, 31_000.0), -3600)
    assert shown.now().elapsed_s == 91
    after(story.announce("txt2img", 0, story.image("txt2img", 0)), -3599)
    assert shown.now().elapsed_s == 92


def test_elapsed_is_of_the_present_epoch() -> None:
    """Neither the night between two epochs nor a seal that came days later is part of any."""
    story = after(planned("txt2img").begin("txt2img"), 60)
    shown = Shown(story)
    shown.now()
    story.epoch += 1
    after(story.move("fail", error("ProcessDied"), "process died"), 30_000)
    assert shown.now().elapsed_s == 60
    after(story.move("recover"), 30_000)
    after(story.resumed(), 30_001)
    after(story.move("start"), 30_003)
    assert shown.now().elapsed_s == 2
    after(story.move("finish"), 30_010)
    story.epoch += 1
    after(story.seal("completed"), 900_000)
    assert shown.now().elapsed_s == 9


def test_what_remains_is_estimated_from_the_pace_of_the_stage() -> None:
    """Nothing is known at first; later stages are taken to go at the pace of the epoch."""
    story = planned("txt2img", "img2img", images=4).begin("txt2img")
    shown = Shown(story)
    assert shown.now().remaining_s is None
    after(made(story, "txt2img", 0), 37)
    assert shown.now().remaining_s == pytest.approx(3 * 37 + 4 * 20, rel=0.01)
    after(made(story, "txt2img", 1, 2, 3), 148)
    after(story.end("txt2img", "completed").begin("img2img"), 148)
    after(made(story, "img2img", 0), 248)
    assert shown.now().remaining_s == pytest.approx(300, rel=0.01)
    assert shown.now().times == "0:04:08, about 0:05:00 left"
    story.move("finish")
    assert shown.now().remaining_s is None


def test_what_remains_counts_down_while_an_image_is_made() -> None:
    """Down to what is left after that image, which is never taken to be finished."""
    story = planned("img2img", images=3).begin("img2img")
    after(made(story, "img2img", 0), 10)
    story.ask("img2img", 1)
    after(story, 10)
    shown = Shown(story)
    assert shown.now().remaining_s == pytest.approx(20, rel=0.01)
    shown.clock.now_s += 4
    assert shown.now().remaining_s == pytest.approx(16, rel=0.01)
    shown.clock.now_s += 60
    assert shown.now().remaining_s == pytest.approx(10, rel=0.01)


def test_a_resumed_run_is_estimated_by_earlier_epochs_and_then_by_its_own() -> None:
    """Its new server may be another one."""
    story = planned("img2img", images=4).begin("img2img")
    after(made(story, "img2img", 0, 1), 20)
    after(story.end("img2img", "failed").move("fail", error()), 20)
    shown = Shown(story.resume("recover").begin("img2img"))
    assert shown.now().remaining_s == pytest.approx(20, rel=0.01)
    story.ask("img2img", 2)
    resumed_at = story.late_s + story.events[-1].seq / 1000
    after(made(story, "img2img", 2), resumed_at + 1)
    assert shown.now().remaining_s == pytest.approx(1, rel=0.05)


def test_images_that_are_given_up_take_no_time() -> None:
    """Neither in the stage that lost them nor in later ones."""
    story = planned("img2img", "adetailer", images=2).begin("img2img")
    after(made(story, "img2img", 0), 20)
    after(story.miss("img2img", 1, error()), 20)
    assert Shown(story).now().remaining_s == pytest.approx(28, rel=0.01)


def test_images_that_were_reused_tell_no_pace() -> None:
    """They raise the percentage; the time of copying is neither theirs nor another image's."""
    story = planned("img2img", images=4).begin("img2img")
    shown = Shown(after(reused(story, "img2img", 0), 30))
    assert (shown.now().percentage, shown.now().remaining_s) == (25, None)
    assert shown.now().place == "stage 1 of 1 01-img2img  image 1 of 4"
    after(made(story, "img2img", 1), 40)
    assert shown.now().remaining_s == pytest.approx(20, rel=0.01)
    after(reused(story, "img2img", 2), 70)
    assert (shown.now().percentage, shown.now().images_done) == (75, 3)
    assert shown.now().remaining_s == pytest.approx(10, rel=0.01)


def test_an_image_that_is_reused_beside_another_takes_none_of_its_time() -> None:
    """A backend serves two requests; the image that is made keeps the pace of its whole time."""
    story = planned("img2img", images=4).begin("img2img")
    call_id = story.ask("img2img", 0)
    after(reused(story, "img2img", 1), 8)
    shown = Shown(story)
    assert shown.now().image_number == 1
    story.answer(call_id, "img2img", 0)
    after(story.announce("img2img", 0, story.image("img2img", 0)), 10)
    assert shown.now().remaining_s == pytest.approx(20, rel=0.01)


def test_later_variants_are_taken_to_reuse_as_much_as_those_before_them() -> None:
    """A sweep over the last stage: once a second variant is complete, only that stage counts."""
    group = GroupStory(variants(48, 48, 48))
    bar = StatusBar(monotonic=lambda: 0.0)
    bar.take_group_event(group.open())
    left = []
    for place in range(2):
        bar.take_group_event(group.begin(place))
        story = planned("img2img", "adetailer", images=1).begin("img2img")
        after(reused(story, "img2img", 0) if place else made(story, "img2img", 0), 20)
        story.end("img2img", "completed").begin("adetailer")
        after(made(story, "adetailer", 0), 48)
        story.end("adetailer", "completed").move("finish")
        for event in story.events:
            bar.take_event(in_group(event, place))
        bar.take_group_event(group.begin(place + 1))
        left.append(bar.snapshot().group_remaining_s)
    assert left == pytest.approx([2 * 48, 28], rel=0.01)
