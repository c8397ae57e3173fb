"""What a status bar shows of a run, and in which words."""

from __future__ import annotations

import subprocess
import sys

import pytest
from stagewright.adapters import StatusBar
from stagewright.events import (
    CallFailed,
    CancelMode,
    CancelRequested,
    RunState,
)

from .status_stories import Clock, Shown, made, planned, replan
from .stories import Story, error


def test_stage_image_step_and_percentage_are_shown() -> None:
    """Stage n of m, image i of k, step of steps; the percentage is weighted by steps."""
    story = planned("txt2img", "img2img")
    shown = Shown(made(story.begin("txt2img"), "txt2img", 0))
    assert shown.now().percentage == 100 * 37 / (37 + 20) / 2
    story.end("txt2img", "completed").begin("img2img")
    made(story, "img2img", 0).ask("img2img", 1)
    now = shown.step("img2img", 1, 5, 20, 0.25)
    assert now.headline == "Running: stage 2 of 2 01-img2img  image 2 of 2"
    assert now.activity == "step 5 of 20"
    assert (now.images_done, now.image_count, now.stage_type) == (1, 2, "img2img")
    assert now.percentage == pytest.approx(100 * (37 + 20 + 5) / (57 * 2))


def test_before_the_start_and_after_the_end_the_percentage_is_exact() -> None:
    """0 and 100; in between all images that are made are not yet a run that is complete."""
    story = replan(Story(images=1), {"stages": [{"stage_id": "00-txt2img"}]})
    shown = Shown(story)
    assert shown.now().percentage == 0.0
    made(story.move("start").begin("txt2img"), "txt2img", 0)
    assert shown.now().percent == "99%"
    story.move("finish")
    assert (shown.now().percentage, shown.now().headline) == (100.0, "Completed: 1 image")


def test_a_step_of_a_batch_is_one_of_all_its_images() -> None:
    """``fraction`` is of the whole request, which CallRequested counts."""
    story = planned("txt2img", images=4)
    story.begin("txt2img").ask("txt2img", 0, 3)
    now = Shown(story).step("txt2img", 0, 2, 37, 0.5)
    assert now.place == "stage 1 of 1 00-txt2img  images 1-3 of 4"
    assert now.percentage == 100 * 1.5 / 4


def test_a_batch_that_is_repeated_for_one_image_counts_for_that_alone() -> None:
    """The others of it are finished, and are not made twice as far as anybody is concerned."""
    story = planned("txt2img", images=4).begin("txt2img")
    made(story, "txt2img", 0, 1, 2)
    story.move("fail", error()).epoch += 1
    story.move("recover").resumed(lost={"00-txt2img": ((1, 1),)}).move("start")
    call_id = story.begin("txt2img").ask("txt2img", 0, 3)
    shown = Shown(story)
    assert shown.step("txt2img", 0, 18, 37, 0.5).percentage == 100 * 2.5 / 4
    story.answer(call_id, "txt2img", 0, count=3)
    for index in range(3):
        story.announce("txt2img", index, story.image("txt2img", index))
    assert shown.now().percentage == 75.0


@pytest.mark.parametrize(
    ("kind", "told", "activity", "fraction"),
    [
        ("txt2img", (25, 37, 0.6), "step 25 of 25, first pass", 0.6),
        ("txt2img", (26, 37, 0.7), "step 1 of 12, hires pass", 0.7),
        ("txt2img", (25, 25, 0.5), "step 25 of 25, first pass", 25 / 37),
        ("txt2img", (3, 6, 0.75), "step 3 of 6, hires pass", (25 + 6) / 37),
        ("adetailer", (20, 28, 0.7), "step 20 of 20, pass 1 of 2", 0.7),
        ("adetailer", (24, 28, 0.8), "step 4 of 8, pass 2 of 2", 0.8),
        ("adetailer", (4, 9, 0.3), "step 4 of 9", 0.3),
        ("img2img", (4, 20, 0.2), "step 4 of 20", 0.2),
    ],
)
def test_the_pass_of_a_step_is_told(
    kind: str, told: tuple[int, int, float], activity: str, fraction: float
) -> None:
    """Where all steps are counted together, and where a server counts each pass for itself."""
    story = planned("txt2img", *([] if kind == "txt2img" else [kind]), images=1)
    story.begin(kind).ask(kind, 0)
    shown = Shown(story)
    before = shown.now().percentage
    now = shown.step(kind, 0, *told)
    assert now.activity == activity
    weights = {"txt2img": 37, "img2img": 20, "adetailer": 28}
    whole = sum(weights[one] for one in dict.fromkeys(("txt2img", kind)))
    assert before == 0.0
    assert now.percentage == pytest.approx(100 * weights[kind] * fraction / whole)


def test_a_further_attempt_is_told_and_holds_the_percentage() -> None:
    """Its steps begin anew; the error is shown until it is made good."""
    story = planned("txt2img")
    call_id = story.begin("txt2img").ask("txt2img", 0)
    shown = Shown(story)
    half = shown.step("txt2img", 0, 20, 37, 0.5).percentage
    failure = error(stage_id="00-txt2img", image_index=0)
    story.add(CallFailed, call_id=call_id, endpoint="x", error=failure, will_retry=True)
    assert shown.now().activity == "attempt 1 of image 1 failed, trying again"
    assert shown.now().trouble == "Error: 00-txt2img, image 1 of 2: BackendError: out of memory"
    story.ask("txt2img", 0)
    now = shown.step("txt2img", 0, 2, 37, 0.1)
    assert now.activity == "attempt 2 of image 1, step 2 of 25, first pass"
    assert (now.percentage, now.attempt) == (half, 2)
    made(story, "txt2img", 0)
    assert (shown.now().trouble, shown.now().percentage) == ("", 50.0)


def test_an_image_that_is_given_up_stays_an_error() -> None:
    """The run goes on without it and ends below 100; a later epoch begins without the error."""
    story = planned("txt2img")
    story.begin("txt2img").miss("txt2img", 0, error(stage_id="00-txt2img", image_index=0))
    made(story, "txt2img", 1)
    shown = Shown(story)
    assert "out of memory" in shown.now().last_error
    assert shown.now().warnings == ("1 image failed after all retries",)
    story.end("txt2img", "partial").move("fail", error("MissingImagesError", "1 of 2 is missing"))
    now = shown.now()
    assert (now.state, now.percentage) == (RunState.ERROR, 50.0)
    assert now.trouble == "Error: MissingImagesError: 1 of 2 is missing"
    story.resume("recover")
    assert (shown.now().trouble, shown.now().percentage) == ("", 50.0)


def test_an_image_for_which_no_request_could_be_made_is_given_up() -> None:
    """Its source was altered: only the error says which image of which stage it is."""
    story = planned("txt2img", "upscale", images=2)
    made(story.begin("txt2img"), "txt2img", 0, 1)
    story.begin("upscale")
    gone = error("InputImageError", "altered", stage_id="02-upscale", image_index=1)
    story.add(CallFailed, call_id="unsent", endpoint="", error=gone, will_retry=False)
    now = Shown(story).now()
    assert now.warnings == ("1 image failed after all retries",)
    assert "02-upscale, image 2 of 2: InputImageError" in now.last_error


@pytest.mark.parametrize(
    ("mode", "activity"),
    [(CancelMode.NOW, "stopping"), (CancelMode.AFTER_IMAGE, "stopping after the current image")],
)
def test_a_cancel_is_shown_from_its_order_on(mode: CancelMode, activity: str) -> None:
    """What is stopped is no error; the reason stays."""
    story = planned("txt2img")
    call_id = story.begin("txt2img").ask("txt2img", 0)
    shown = Shown(story.add(CancelRequested, reason="Ctrl-C", mode=mode))
    assert shown.now().state_word == "Stopping"
    assert shown.now().activity == activity
    story.add(
        CallFailed, call_id=call_id, endpoint="x", error=error("GenerationInterrupted"),
        will_retry=False,
    ).end("txt2img", "cancelled").move("cancel", reason="Ctrl-C")  # fmt: skip
    now = shown.now()
    assert now.headline == "Cancelled: stage 1 of 1 00-txt2img  image 1 of 2"
    assert (now.activity, now.trouble) == ("reason: Ctrl-C", "")


def test_a_resume_that_found_images_lost_begins_at_what_is_there() -> None:
    """Honestly: it is the one way back that there is."""
    story = planned("txt2img", "img2img").begin("txt2img")
    made(story, "txt2img", 0, 1).end("txt2img", "completed").begin("img2img")
    made(story, "img2img", 0, 1).end("img2img", "completed").move("finish")
    shown = Shown(story)
    assert shown.now().percentage == 100.0
    story.epoch += 1
    story.move("reset", reason="files missing or altered")
    assert shown.now().percentage == 99.9
    story.resumed(lost={"00-txt2img": ((1, 1),), "01-img2img": ((0, 1), (1, 9))}).move("start")
    assert shown.now().percentage == 100 * 37 / (57 * 2)
    assert shown.now().warnings == ("files of 3 finished images were lost or altered",)


def test_an_image_that_comes_back_unchanged_is_warned_of() -> None:
    """Beside the plan's own warnings; an error is graver."""
    story = planned("img2img", warnings=["width is floored", 7, "\x1b[31mred"])
    story.begin("img2img").make("img2img", 0, changed=False)
    shown = Shown(story)
    words = "width is floored; \\x1b[31mred; 1 image came back unchanged"
    assert shown.now().trouble == f"Warning: {words}"
    story.make("img2img", 0, changed=True)
    assert shown.now().warnings == ("width is floored", "\\x1b[31mred")


def test_a_config_error_is_shown_with_its_reason_until_a_run_begins() -> None:
    """Also over the run that was there before."""
    shown = Shown(planned("txt2img").move("finish"))
    shown.now()
    shown.bar.take_config_error("Config Error: txt2img.steps = 0\nmust be from 1")
    now = shown.now()
    assert (now.headline, now.state) == ("Config Error", RunState.COMPLETED)
    assert now.trouble == "Config Error: txt2img.steps = 0 must be from 1"
    for event in planned("txt2img").events:
        shown.bar.take_event(event)
    assert shown.bar.snapshot().headline == "Running"


def test_the_events_of_another_run_begin_anew() -> None:
    """Nothing of the run before is left."""
    bar = StatusBar(monotonic=Clock())
    first = made(planned("txt2img").begin("txt2img"), "txt2img", 0, 1).move("finish")
    second = Story(run_id="another").move("start")
    for event in [*first.events, *second.events]:
        bar.take_event(event)
    now = bar.snapshot()
    assert (now.run_id, now.percentage, now.images_done) == ("another", 0.0, 0)


def test_the_model_needs_no_toolkit() -> None:
    """Nor the command line's libraries: whoever writes a GUI brings his own."""
    script = (
        "import sys; from stagewright.adapters import StatusBar; "
        "print(sorted({'tkinter', 'click', 'rich', 'PIL', 'requests'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
