"""What a log comes to: one pure function from events to a run's result."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stagewright.events import (
    CallCompleted,
    CallFailed,
    FinishedImage,
    MissingImage,
    Outcome,
    PipelineRunResult,
    RunState,
    StageEvent,
    UnknownEvent,
    fold,
)

from .stories import Story, error, stage_id
from .support import memory_log, run_opened

GONE = error(stage_id="00-txt2img", image_index=1)


def furthest(result: PipelineRunResult) -> list[tuple[int, str]]:
    """Index and stage of each image."""
    return [(image.image_index, image.stage_id) for image in result.images]


def digests(images: Sequence[FinishedImage]) -> list[int]:
    """The sequence number of the record that each artifact stands in."""
    return [int(image.sha256, 16) for image in images]


def gaps(result: PipelineRunResult) -> list[tuple[str, int]]:
    return [(gap.stage_id, gap.image_index) for gap in result.missing]


def test_no_events_are_an_idle_run_without_anything() -> None:
    """The fold of nothing is a result like any other."""
    result = fold([])
    assert (result.run_id, result.state, result.outcome) == ("", RunState.IDLE, None)
    assert (result.stages, result.missing, result.seeds, len(result.events)) == ((), (), (), 0)


def test_a_run_that_was_only_opened_is_idle_and_misses_everything() -> None:
    """Plan and seeds are there; every image waits for the first stage."""
    result = fold(Story("txt2img", "upscale").events)
    assert (result.run_id, result.state, result.outcome) == ("story", RunState.IDLE, None)
    assert result.seeds == (100, 101)
    assert [stage["stage_id"] for stage in result.plan["stages"]] == ["00-txt2img", "02-upscale"]
    assert gaps(result) == [("00-txt2img", 0), ("00-txt2img", 1)]
    assert (result.stages, list(result.images), result.error) == ((), [], None)


def test_a_completed_run_gives_the_images_of_its_last_stage() -> None:
    """Each stage keeps its own images; the result's are those of the furthest."""
    story = Story("txt2img", "upscale").move("start").stage("txt2img").stage("upscale")
    result = fold(story.move("finish").seal("completed").events)
    assert (result.state, result.outcome) == (RunState.COMPLETED, Outcome.COMPLETED)
    assert furthest(result) == [(0, "02-upscale"), (1, "02-upscale")]
    assert [stage.stage_id for stage in result.stages] == ["00-txt2img", "02-upscale"]
    assert [image.path for image in result.stages[0].images] == [
        "images/00-txt2img/00000-100.png", "images/00-txt2img/00001-101.png",
    ]  # fmt: skip
    assert {stage.duration_ms for stage in result.stages} == {5.0}
    assert result.missing == ()


def test_a_failed_run_says_why_and_where() -> None:
    """The error of the transition is the result's; the image's own error stands in missing."""
    story = Story().move("start").begin("txt2img").make("txt2img", 0).miss("txt2img", 1, GONE)
    result = fold(story.end("txt2img", "failed").move("fail", GONE, "why").events)
    assert (result.state, result.outcome, result.error) == (RunState.ERROR, Outcome.FAILED, GONE)
    assert result.missing == (MissingImage(stage_id="00-txt2img", image_index=1, error=GONE),)
    assert result.stages[0].outcome == Outcome.FAILED


def test_a_failure_without_an_error_takes_its_reason() -> None:
    """``fail`` with reason "process died" is an error with that message."""
    result = fold(Story().move("start").move("fail", reason="process died").events)
    assert result.error is not None
    assert result.error.message == "process died"
    assert result.outcome == Outcome.FAILED


def test_a_run_that_went_on_past_a_failed_image_is_partial() -> None:
    """State ERROR, outcome partial; each gap at the first stage that lacks it, with its error."""
    late = error(message="no face", stage_id="02-upscale", image_index=2)
    story = Story("txt2img", "upscale", images=3).move("start").begin("txt2img")
    story.make("txt2img", 0).miss("txt2img", 1, GONE).make("txt2img", 2).end("txt2img", "partial")
    story.begin("upscale").make("upscale", 0).miss("upscale", 2, late).end("upscale", "partial")
    story.move("fail", error("MissingImagesError", "2 of 3 are missing")).seal("partial")
    result = fold(story.events)
    assert (result.state, result.outcome) == (RunState.ERROR, Outcome.PARTIAL)
    assert result.missing == (
        MissingImage(stage_id="00-txt2img", image_index=1, error=GONE),
        MissingImage(stage_id="02-upscale", image_index=2, error=late),
    )
    assert furthest(result) == [(0, "02-upscale"), (2, "00-txt2img")]


def test_a_cancelled_run_keeps_what_was_finished() -> None:
    """State and outcome say cancelled; there is no error; the rest is missing without one."""
    story = Story().move("start").begin("txt2img").make("txt2img", 0)
    story.ask("txt2img", 1)
    story.ask_to_cancel().end("txt2img", "cancelled").move("cancel").seal("cancelled")
    result = fold(story.events)
    assert (result.state, result.outcome) == (RunState.CANCELLED, Outcome.CANCELLED)
    assert result.error is None
    assert furthest(result) == [(0, "00-txt2img")]
    assert result.missing == (MissingImage(stage_id="00-txt2img", image_index=1),)


def resumed_story() -> Story:
    """Fails at image 1, is resumed, finishes."""
    story = Story().move("start").begin("txt2img").make("txt2img", 0).miss("txt2img", 1, GONE)
    story.end("txt2img", "failed", 4.0).move("fail", GONE).seal("failed").resume("recover")
    story.begin("txt2img").make("txt2img", 1).end("txt2img", "completed", 2.5)
    return story.move("finish").seal("completed")


def test_a_resumed_run_adds_up() -> None:
    """Epochs are one run: images of both, durations summed, the error and the gap gone."""
    result = fold(resumed_story().events)
    assert (result.state, result.outcome) == (RunState.COMPLETED, Outcome.COMPLETED)
    assert (result.resumes, result.error, result.missing) == (1, None, ())
    assert len(result.stages) == 1
    assert (result.stages[0].duration_ms, result.stages[0].image_count) == (6.5, 2)
    assert furthest(result) == [(0, "00-txt2img"), (1, "00-txt2img")]


def test_a_stage_in_which_a_process_died_took_what_its_answers_took() -> None:
    """Nobody told how long it was; the requests that were answered are known."""
    story = Story().move("start").begin("txt2img").make("txt2img", 0)
    alone = [event.duration_ms for event in story.events if isinstance(event, CallCompleted)]
    assert fold(story.events).stages[0].duration_ms == sum(alone) > 0
    story.move("fail").resume("recover").begin("txt2img").make("txt2img", 1)
    story.end("txt2img", "completed", 2.5).move("finish").seal("completed")
    assert fold(story.events).stages[0].duration_ms == sum(alone) + 2.5


def test_a_run_that_is_being_resumed_is_neither_failed_nor_ended() -> None:
    """From the resume on the old error, outcome and stage outcome no longer hold."""
    events = resumed_story().events
    started = next(place for place, event in enumerate(events) if event.epoch == 1) + 4
    result = fold(events[:started])
    assert (result.state, result.outcome, result.error) == (RunState.RUNNING, None, None)
    assert (result.resumes, result.stages[0].outcome) == (1, None)
    assert result.stages[0].duration_ms == 4.0
    assert [gap.error for gap in result.missing] == [GONE]


def test_the_last_answer_for_an_image_holds() -> None:
    """A later CallCompleted supersedes an earlier one, and is counted once."""
    story = Story().move("start").begin("txt2img").make("txt2img", 0).make("txt2img", 1)
    story.make("txt2img", 0)
    result = fold(story.events)
    assert digests(result.images) == [len(story.events) - 1, 6]
    assert result.stages[0].image_count == 2


def test_an_announcement_does_not_replace_the_answer() -> None:
    """StageImageProgress after its CallCompleted changes nothing in the images."""
    story = Story().move("start").begin("txt2img").make("txt2img", 0)
    before = digests(fold(story.events).images)
    story.announce("txt2img", 0, story.image("txt2img", 0))
    assert digests(fold(story.events).images) == before


def test_an_announcement_alone_finishes_an_image() -> None:
    """In a log whose calls this version does not know, what was announced counts."""
    story = Story().move("start").begin("txt2img")
    story.announce("txt2img", 1, story.image("txt2img", 1))
    result = fold(story.events)
    assert furthest(result) == [(1, "00-txt2img")]
    assert result.images[0].seed == 101


def test_a_batch_is_recorded_whole_and_superseded_whole() -> None:
    """One answer holds consecutive images; a repeated request replaces every one of them."""
    story = Story(images=3).move("start").begin("txt2img").make("txt2img", 0, count=2)
    first = len(story.events) - 1
    story.make("txt2img", 2)
    images = fold(story.events).images
    assert digests(images) == [first, first, first + 2]
    assert [(image.image_index, image.seed) for image in images] == [(0, 100), (1, 101), (2, 102)]
    story.make("txt2img", 0, count=2)
    assert digests(fold(story.events).images) == [first + 4, first + 4, first + 2]
    assert fold(story.events).stages[0].image_count == 3


def test_a_failed_batch_is_an_error_of_each_of_its_images() -> None:
    """Every image of the request is missing with the error, and none beyond the run's own."""
    story = Story(images=3).move("start").begin("txt2img")
    result = fold(story.miss("txt2img", 1, GONE, count=10**9).events)
    assert [(gap.image_index, gap.error) for gap in result.missing] == [
        (0, None),
        (1, GONE),
        (2, GONE),
    ]


def test_reused_images_are_finished_and_counted_until_they_are_made() -> None:
    """``reused_images`` of a stage forgets those that were made anew; nothing is an attempt."""
    story = Story("upscale", images=3).move("start").begin("upscale").reuse("upscale", 0, count=3)
    (stage,) = fold(story.events).stages
    assert (stage.image_count, stage.metadata) == (3, {"reused_images": 3})
    assert fold(story.events).missing == ()
    story.make("upscale", 1)
    (stage,) = fold(story.events).stages
    assert (stage.image_count, stage.metadata) == (3, {"reused_images": 2})
    assert stage.duration_ms == 1.0


def test_images_that_the_server_left_unchanged_are_counted() -> None:
    """``unchanged_images`` of a stage counts images, and forgets those made anew."""
    story = Story("upscale").move("start").begin("upscale", factor=2.0)
    story.make("upscale", 0, changed=False).make("upscale", 1, changed=False)
    assert fold(story.events).stages[0].metadata == {"factor": 2.0, "unchanged_images": 2}
    story.make("upscale", 0, changed=True).make("upscale", 1)
    assert fold(story.events).stages[0].metadata == {"factor": 2.0}


def test_the_seal_states_the_outcome() -> None:
    """A sealed outcome holds, also where the lifecycle alone would say another."""
    story = Story().move("start").move("finish").seal("partial")
    assert fold(story.events).outcome == Outcome.PARTIAL


def test_images_are_read_by_place_and_slice() -> None:
    """``images`` is a sequence: by index, from the end, by slice, equal to its list."""
    images = fold(memory_log(4).timeline()).images
    assert [images[place].image_index for place in range(4)] == [0, 1, 2, 3]
    assert images[-1] == list(images)[3]
    assert list(images[1:3]) == list(images)[1:3]
    assert images == list(images)
    assert images != list(images)[1:]
    with pytest.raises(IndexError):
        images[4]


def test_events_that_fit_nothing_are_passed_over() -> None:
    """Answers to calls nobody made, stages that never began, unknown types: no failure."""
    story = Story().move("start")
    made = story.image("txt2img", 0)
    story.add(
        CallCompleted, call_id="no", endpoint="x", artifacts=(made,), info={}, duration_ms=1.0
    )
    story.add(CallFailed, call_id="no", endpoint="x", error=GONE, will_retry=False)
    story.announce("txt2img", 0, made).end("txt2img", "completed").make("upscale", 0)
    story.add(UnknownEvent, type="StageRated", raw=b"{}")
    result = fold(story.events)
    assert (result.state, list(result.images), result.stages) == (RunState.RUNNING, [], ())


@pytest.mark.parametrize(
    "plan", [{}, {"stages": None}, {"stages": 5}, {"stages": "ab"}, {"stages": [1, {}, None]}]
)
def test_a_plan_of_another_shape_is_no_failure(plan: dict[str, Any]) -> None:
    """A foreign log's plan is data: what is missing is then told by the stages that began."""
    opened = msgspec.structs.replace(run_opened("story"), plan=plan)
    story = Story().move("start").begin("txt2img").make("txt2img", 0)
    result = fold([opened, *story.events[1:]])
    assert gaps(result) == [("00-txt2img", 1)]


def test_indexes_and_stages_beyond_the_plan_are_no_failure() -> None:
    """A foreign log may hold 300 stages and an image index of 2^53 - 1."""
    story = Story().move("start")
    for place in range(300):
        story.begin("txt2img")
        story.events[-1] = msgspec.structs.replace(story.events[-1], stage_id=f"s{place}")
    last = 2**53 - 1
    story.announce("txt2img", last, story.image("txt2img", last))
    story.events[-1] = msgspec.structs.replace(story.events[-1], stage_id="s299")
    result = fold(story.events)
    assert furthest(result) == [(last, "s299")]
    assert len(result.stages) == 300


def deeds() -> st.SearchStrategy[list[tuple[str, str, int]]]:
    """Any order of things done to any stage and image, sensible or not."""
    kinds = st.sampled_from(["txt2img", "upscale"])
    names = st.sampled_from(
        ["begin", "make", "miss", "announce", "end", "resume", "cancel", "fail"]
    )
    return st.lists(st.tuples(names, kinds, st.integers(0, 3)), max_size=30)


def told(done: Sequence[tuple[str, str, int]]) -> list[StageEvent]:
    story = Story("txt2img", "upscale").move("start")
    for name, kind, index in done:
        match name:
            case "begin":
                story.begin(kind)
            case "make":
                story.make(kind, index)
            case "miss":
                story.miss(kind, index, GONE)
            case "announce":
                story.announce(kind, index, story.image(kind, index))
            case "end":
                story.end(kind, "partial")
            case "resume":
                story.resume("recover")
            case _:
                story.move(name)
    return story.events


@settings(max_examples=150, deadline=None)
@given(deeds())
def test_whatever_happened_the_fold_keeps_its_laws(done: Sequence[tuple[str, str, int]]) -> None:
    """Pure, total, and every planned image is either missing or finished by the last stage."""
    events = told(done)
    result = fold(events)
    assert fold(iter(events)) == fold(tuple(events))
    assert list(result.events) == events
    assert result.state == [RunState(e.dest) for e in events if hasattr(e, "dest")][-1]
    by_stage = {stage.stage_id: {i.image_index for i in stage.images} for stage in result.stages}
    assert {image.image_index for image in result.images} == set().union(*by_stage.values(), set())
    finished = {
        index
        for index in range(2)
        if all(index in by_stage.get(stage_id(kind), ()) for kind in ["txt2img", "upscale"])
    }
    assert finished | {gap.image_index for gap in result.missing} == {0, 1}
    assert not finished & {gap.image_index for gap in result.missing}
    assert [image.image_index for image in result.images] == sorted(
        image.image_index for image in result.images
    )
    assert json.loads(b"".join(result.json_parts()))["run_id"] == "story"


def test_a_log_with_very_many_attempts_of_one_image_is_folded() -> None:
    """30,000 of them take half a second; with work for each pair of them it would take minutes."""
    story = Story(images=1).begin("txt2img")
    for call_id in [story.ask("txt2img", 0) for _ in range(30_000)]:
        story.add(CallFailed, call_id=call_id, endpoint="x", error=error(), will_retry=True)
    began = time.process_time()
    assert len(fold(story.events).missing) == 1
    assert time.process_time() - began < 8
