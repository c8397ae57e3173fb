"""Recorded events: views that read well, assertions that say what was recorded instead."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from stagewright.events import (
    EventRecorder,
    LifecycleChanged,
    RecordedEvents,
    RunSealed,
    RunState,
    StageImageProgress,
    StageType,
    subscribe,
)
from stagewright.statemachine import ConfigurationError, PipelineController

from .listening import EVENTS, Faulty, tell
from .resuming import cut, ran, resumed, small
from .stories import Story
from .support import document

FOUR = ("txt2img", "img2img", "upscale", "adetailer")


def shape(assertion: pytest.ExceptionInfo[AssertionError]) -> list[str]:
    """The lines of a message."""
    return str(assertion.value).splitlines()


def test_a_run_is_told_by_its_stages_images_and_states(
    recorded_events: EventRecorder, stagewright_controller: PipelineController
) -> None:
    """The views of a live run say what was made of it, and the assertions agree."""
    stagewright_controller.start(document(*FOUR, images=2)).wait(60)
    assert recorded_events.stages() == list(FOUR)
    assert recorded_events.images_per_stage() == dict.fromkeys(FOUR, 2)
    assert recorded_events.lifecycle() == ["IDLE", "RUNNING", "COMPLETED"]
    recorded_events.assert_stages(*StageType)
    recorded_events.assert_images_per_stage(dict.fromkeys(StageType, 2))
    recorded_events.assert_lifecycle(RunState.IDLE, RunState.RUNNING, RunState.COMPLETED)
    recorded_events.assert_nothing_lost()
    recorded_events.assert_no_faults()


def test_a_run_that_was_taken_up_again_is_one_run(tmp_path: Path) -> None:
    """Over a resume stages and images count once, and the lifecycle shows how it went."""
    folder = ran(tmp_path, small("txt2img", "upscale"))
    cut(folder, 8)
    recorded = RecordedEvents(resumed(folder).events)
    recorded.assert_stages("txt2img", "upscale")
    recorded.assert_images_per_stage({"txt2img": 2, "upscale": 2})
    recorded.assert_lifecycle("IDLE", "RUNNING", "ERROR", "IDLE", "RUNNING", "COMPLETED")
    recorded.assert_nothing_lost()


def test_an_epoch_recorded_alone_begins_where_it_begins(
    recorded_events: EventRecorder, tmp_path: Path
) -> None:
    """A recorder that hears only a resume says so, unless it is asked to begin there."""
    folder = ran(tmp_path, small())
    cut(folder, 6)
    earlier = len(recorded_events.events)
    resumed(folder)
    late = RecordedEvents(recorded_events.events[earlier:])
    late.assert_nothing_lost(first_seq=None)
    with pytest.raises(AssertionError, match=r"expected #0, got #6 LifecycleChanged"):
        late.assert_nothing_lost()


def test_a_lost_and_a_doubled_event_are_named() -> None:
    """Each break in a run's numbers is a line; other runs in between do not count."""
    story = Story().move("start").stage("txt2img").move("finish").seal("completed").events
    other = Story(run_id="other").move("start").events
    broken = [*story[:3], *other, *story[4:6], story[5], *story[6:]]
    with pytest.raises(AssertionError) as assertion:
        RecordedEvents(broken).assert_nothing_lost()
    assert shape(assertion) == [
        "events were lost or doubled:",
        "  run story: expected #3, got #4 CallCompleted",
        "  run story: expected #6, got #5 CallRequested",
    ]


def test_nothing_recorded_is_no_proof_that_nothing_was_lost() -> None:
    """An empty recording fails rather than agreeing with everything."""
    with pytest.raises(AssertionError, match="no event was recorded"):
        RecordedEvents().assert_nothing_lost()


def test_messages_show_what_was_recorded_instead() -> None:
    """Expected and recorded stand below each other."""
    recorded = RecordedEvents(Story().move("start").stage("txt2img").move("cancel").events)
    with pytest.raises(AssertionError) as stages:
        recorded.assert_stages("txt2img", "upscale")
    assert shape(stages) == ["stages", "  expected: txt2img -> upscale", "  recorded: txt2img"]
    with pytest.raises(AssertionError) as images:
        recorded.assert_images_per_stage({"txt2img": 2})
    assert shape(images) == [
        "images per stage", "  expected: txt2img 2", "  recorded: txt2img 0"
    ]  # fmt: skip
    with pytest.raises(AssertionError) as lifecycle:
        recorded.assert_lifecycle("IDLE", "RUNNING", "COMPLETED")
    assert shape(lifecycle) == [
        "lifecycle",
        "  expected: IDLE -> RUNNING -> COMPLETED",
        "  recorded: IDLE -> RUNNING -> CANCELLED",
    ]
    with pytest.raises(AssertionError, match="recorded: none"):
        RecordedEvents().assert_stages("txt2img")


def test_a_state_that_there_is_not_is_a_mistake_of_the_test() -> None:
    """A misspelt state is a ValueError, not a run that went wrong."""
    with pytest.raises(ValueError, match="DONE"):
        RecordedEvents(Story().move("start").events).assert_lifecycle("IDLE", "DONE")


def test_several_runs_are_asked_for_one_by_one() -> None:
    """Views of one run refuse two, naming them; ``of_run`` takes one."""
    first, second = Story(run_id="first").move("start"), Story(run_id="second")
    both = RecordedEvents([*first.events, *second.stage("txt2img").events])
    assert both.run_ids() == ["first", "second"]
    with pytest.raises(ValueError, match=r"2 runs were recorded: first, second; of_run"):
        both.assert_stages("txt2img")
    both.of_run("second").assert_stages("txt2img")
    both.of_run("first").assert_lifecycle("IDLE", "RUNNING")


def test_waiting_takes_a_condition_and_tells_what_came_instead() -> None:
    """``where`` chooses among the events of a type; TimeoutError counts what there is."""
    with EventRecorder() as recorder:
        teller = threading.Timer(0.02, tell)
        teller.start()
        done = recorder.wait_for(
            LifecycleChanged, where=lambda event: event.dest is RunState.COMPLETED, timeout_s=20
        )
        teller.join()
        assert done == EVENTS[-2]
        with pytest.raises(TimeoutError, match=r"no RunSealed number 2 .* 2 LifecycleChanged"):
            recorder.wait_for(RunSealed, count=2, timeout_s=0.01)
        second = recorder.wait_for(StageImageProgress, where=lambda event: event.image_index == 1)
        assert second.artifact.seed == 101


def test_steps_and_config_errors_are_recorded_too(
    recorded_events: EventRecorder, stagewright_controller: PipelineController
) -> None:
    """What is no fact of a log is kept beside the events."""
    config = document()
    stagewright_controller.start(config).wait(60)
    assert [one.step for one in recorded_events.steps] == [1, 2, 3]
    config["txt2img"]["steps"] = 0
    with pytest.raises(ConfigurationError):
        stagewright_controller.start(config)
    (told,) = recorded_events.config_errors
    assert told.startswith("Config Error: txt2img.steps = 0")


def test_faults_of_subscribers_are_counted_from_the_opening_on() -> None:
    """A receiver that raises is named with the number of times; earlier faults are not ours."""
    faulty = Faulty()
    with subscribe(faulty.take, on="publisher"):
        tell(EVENTS[:2])
        with EventRecorder() as recorder:
            tell(EVENTS[:3])
            assert recorder.faults() == {"Faulty.take": 3}
            with pytest.raises(AssertionError) as assertion:
                recorder.assert_no_faults()
    assert shape(assertion) == ["subscribers raised or blocked:", "  Faulty.take: 3"]
