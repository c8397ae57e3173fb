"""Tests of a program that runs pipelines: copy it as `test_*.py`, with your program in its place.

    python -m pytest examples/testing_my_program.py

stagewright brings the fixtures along: `stagewright_controller` makes images without a server, in
the test's own folder, and `recorded_events` says what happened.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stagewright.events import (
    EventRecorder,
    LifecycleChanged,
    RunState,
    StageEvent,
    StageImageProgress,
    subscribe,
)
from stagewright.statemachine import ConfigurationError, PipelineController, RunHandle


class Gallery:
    """The program under test: it shows the images of its run as they come, and can be stopped."""

    def __init__(self, controller: PipelineController) -> None:
        self.status = "ready"
        self.shown: list[str] = []
        self._controller = controller
        self._run: RunHandle | None = None
        self._subscription = subscribe(self._on_event, on_config_error=self._on_config_error)

    def press_start(self, prompt: str, *, steps: int = 4) -> None:
        size = {"width": 64, "height": 64}
        base = {"model": "base", "sampler": "Euler a", "steps": steps, "cfg_scale": 7.0, **size}
        larger = {"upscaler": "Lanczos", "factor": 2.0}
        config: dict[str, Any] = {"prompt": prompt, "seed": 5, "images": 2}
        try:
            self._run = self._controller.start({**config, "txt2img": base, "upscale": larger})
        except ConfigurationError:
            self._run = None  # the subscription tells why

    def press_stop(self) -> None:
        if self._run is not None:
            self._controller.cancel(self._run.run_id)

    def wait(self) -> None:
        if self._run is not None:
            self._run.wait(60)
        self._subscription.close()

    def _on_event(self, event: StageEvent) -> None:
        if isinstance(event, LifecycleChanged):
            self.status = event.dest.lower()
        elif isinstance(event, StageImageProgress):
            self.shown.append(event.artifact.path)

    def _on_config_error(self, message: str) -> None:
        self.status = message


def test_images_are_shown_as_they_come(
    stagewright_controller: PipelineController, recorded_events: EventRecorder
) -> None:
    gallery = Gallery(stagewright_controller)
    gallery.press_start("a lighthouse")
    gallery.wait()
    recorded_events.assert_stages("txt2img", "upscale")
    recorded_events.assert_images_per_stage({"txt2img": 2, "upscale": 2})
    recorded_events.assert_lifecycle("IDLE", "RUNNING", "COMPLETED")
    recorded_events.assert_nothing_lost()
    recorded_events.assert_no_faults()
    announced = recorded_events.of_type(StageImageProgress)
    assert gallery.shown == [event.artifact.path for event in announced]
    assert gallery.status == "completed"


@pytest.mark.parametrize("stagewright_step_delay_s", [0.25])
def test_stop_keeps_what_is_finished(
    stagewright_controller: PipelineController, recorded_events: EventRecorder
) -> None:
    gallery = Gallery(stagewright_controller)
    gallery.press_start("a lighthouse")
    recorded_events.wait_for(StageImageProgress)
    gallery.press_stop()
    gallery.wait()
    recorded_events.assert_lifecycle("IDLE", "RUNNING", "CANCELLED")
    assert gallery.shown == ["images/00-txt2img/00000-5.png"]
    assert gallery.status == "cancelled"


def test_a_wrong_entry_is_shown_and_starts_nothing(
    stagewright_controller: PipelineController, recorded_events: EventRecorder
) -> None:
    gallery = Gallery(stagewright_controller)
    gallery.press_start("a lighthouse", steps=0)
    gallery.wait()
    assert gallery.status == "Config Error: txt2img.steps = 0 must be at least 1, at most 100000"
    assert recorded_events.config_errors == (gallery.status,)
    assert recorded_events.events == ()
    assert stagewright_controller.state is RunState.IDLE


def test_what_the_entries_come_to(
    stagewright_controller: PipelineController, recorded_events: EventRecorder
) -> None:
    gallery = Gallery(stagewright_controller)
    gallery.press_start("a lighthouse")
    gallery.wait()
    # `python -m pytest --stagewright-update` writes the file, which lies beside this one.
    recorded_events.assert_timeline(Path("timelines/gallery.txt"))
