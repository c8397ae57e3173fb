"""Whatever a run goes through: the percentage never goes back, and what is shown is a fold."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event as note
from hypothesis import given, settings
from hypothesis import strategies as st
from stagewright.adapters import RunStatus, StatusBar
from stagewright.events import (
    CallCompleted,
    CallFailed,
    CallRequested,
    CallReused,
    CancelMode,
    RunOpened,
    RunResumed,
    RunState,
    StageEvent,
    StepProgress,
    iterate,
    subscribe,
)
from stagewright.statemachine import BackendError, CancelToken, GenerateAnswer, GenerateRequest
from stagewright.statemachine.ports import OnStep

from .resuming import controller, image_file, painted, small
from .status_lives import KINDS, Told, lives
from .support import ScriptedBackend

WEIGHTS = {"txt2img": 25 + 12, "img2img": 20, "upscale": 10, "adetailer": 20 + 8}
"""What one image counts for in each stage of ``status_lives``."""


def still() -> float:
    """A clock that stands still: only events make time pass."""
    return 0.0


def tell(bar: StatusBar, told: Told) -> None:
    if isinstance(told, StageEvent):
        bar.take_event(told)
    else:
        bar.take_step(told)


def all_at_once(events: Sequence[StageEvent]) -> RunStatus:
    bar = StatusBar(monotonic=still)
    for event in events:
        bar.take_event(event)
    return bar.snapshot()


class Watched:
    """A bar that is looked at after everything that it is told; it holds its own laws."""

    def __init__(self) -> None:
        self.bar = StatusBar(monotonic=still)
        self.before = RunStatus()
        self.faults: list[str] = []
        self.has_worked = False

    def take(self, told: Told) -> None:
        tell(self.bar, told)
        now = self.bar.snapshot()
        self.has_worked = self.has_worked or isinstance(told, CallRequested)
        lost = isinstance(told, RunResumed) and bool(told.lost)
        # From a finished run on, the way back to what is lost begins with its reset.
        reset = self.before.state is RunState.COMPLETED and now.state is RunState.IDLE
        self.check(told, now, may_go_back=lost or reset)
        self.before = now

    def check(self, told: Told, now: RunStatus, *, may_go_back: bool) -> None:
        percentage, before = now.percentage or 0.0, self.before.percentage or 0.0
        if percentage < before and not may_go_back:
            self.faults.append(f"{before} -> {percentage} at {told}")
        if (percentage == 100.0) != (now.state is RunState.COMPLETED):
            self.faults.append(f"{percentage} in {now.state} at {told}")
        if not 0.0 <= percentage <= 100.0:
            self.faults.append(f"{percentage} at {told}")
        if now.elapsed_s < self.before.elapsed_s and not isinstance(told, RunResumed):
            self.faults.append(f"{self.before.elapsed_s} s -> {now.elapsed_s} s at {told}")
        if now.remaining_s is not None and not now.remaining_s >= 0:
            self.faults.append(f"{now.remaining_s} s remain at {told}")
        if now.remaining_s is not None and not self.has_worked:
            self.faults.append(f"images that were reused tell a pace at {told}")
        if now.images_done > now.image_count or now.image_number > now.image_count:
            self.faults.append(f"{now.place} at {told}")


@given(lives())
def test_the_percentage_never_goes_back_and_is_100_only_when_completed(life: list[Told]) -> None:
    """Over every legal combination of stages, batches, slots, failures, cancels and resumes.

    The one exception: a resume that found finished images lost. Live steps only refine: whoever was
    not told them sees the same, but for what they have shown to be done already.
    """
    watched = Watched()
    for told in life:
        watched.take(told)
    assert watched.faults == []
    with_steps = watched.before
    without = all_at_once([told for told in life if isinstance(told, StageEvent)])
    assert (with_steps.percentage or 0) >= (without.percentage or 0)
    live = {"step", "steps", "pass_number", "pass_count", "percentage", "remaining_s", "waiting_s"}
    for name in set(RunStatus.__struct_fields__) - live:
        assert getattr(with_steps, name) == getattr(without, name), name
    note(str(with_steps.state))


@given(lives())
def test_without_live_steps_the_percentage_is_the_share_of_finished_work(life: list[Told]) -> None:
    """Of all images in all stages, weighted by steps; what was shown is held.

    A bar that is looked at only once shows the same.
    """
    bar, oracle = StatusBar(monotonic=still), Oracle()
    events = [told for told in life if isinstance(told, StageEvent)]
    for event in events:
        bar.take_event(event)
        share = oracle.take(event)
        if bar.snapshot().state is not RunState.COMPLETED:
            assert bar.snapshot().percentage == pytest.approx(min(99.9, 100 * share))
    assert bar.snapshot() == all_at_once(events)


class Oracle:
    """Works out the share in another way: from sets of finished images."""

    def __init__(self) -> None:
        self.finished: set[tuple[str, int]] = set()
        self.calls: dict[str, CallRequested] = {}
        self.stages: list[str] = []
        self.images = 0
        self.held = 0.0

    def take(self, event: StageEvent) -> float:
        match event:
            case RunOpened():
                self.stages = [stage["stage_id"] for stage in event.plan["stages"]]
                self.images = len(event.seeds)
            case CallRequested():
                self.calls[event.call_id] = event
            case CallFailed() if (call := self.calls[event.call_id]).count == 1:
                self.finished.discard((call.stage_id, call.image_index))
            case CallCompleted():
                stage_id = self.calls[event.call_id].stage_id
                self.finished |= {(stage_id, image.image_index) for image in event.artifacts}
            case CallReused():
                self.finished |= {(event.stage_id, image.image_index) for image in event.artifacts}
            case RunResumed() if event.lost:
                for stage_id, rows in event.lost.items():
                    for first, last in rows:
                        self.finished -= {(stage_id, index) for index in range(first, last + 1)}
                self.held = 0.0
        weights = {stage_id: WEIGHTS[stage_id[3:]] for stage_id in self.stages}
        done = sum(weights[stage_id] for stage_id, _ in self.finished)
        self.held = max(self.held, done / (sum(weights.values()) * self.images))
        return self.held


class Stepping(ScriptedBackend):
    """Tells some steps of each request, as far as its script lets it come."""

    def generate_images(
        self, request: GenerateRequest, *, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        for step in range(1, 4):
            on_step(step, 4)
        return super().generate_images(request, cancel=cancel, on_step=on_step)


TROUBLES = st.dictionaries(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 3), st.integers(0, 3)),
    st.sampled_from(["retry", "fail", "now", "after_image"]),
    max_size=4,
)
"""By stage, first image and attempt: what happens there."""


@given(
    kinds=st.sets(st.sampled_from(["img2img", "upscale", "adetailer"])),
    images=st.integers(1, 4),
    batch=st.integers(1, 3),
    slots=st.integers(1, 2),
    on_image_error=st.sampled_from(["stop", "continue"]),
    troubles=TROUBLES,
    lost=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=3),
)
@settings(max_examples=12)
def test_real_runs_keep_the_law_too(
    kinds: set[str],
    images: int,
    batch: int,
    slots: int,
    on_image_error: str,
    troubles: dict[tuple[str, int, int], str],
    lost: list[tuple[int, int]],
) -> None:
    """Started, failed, tried again, cancelled, robbed of files and resumed until it is complete."""
    config = small(
        *["txt2img", *(kind for kind in KINDS if kind in kinds)],
        images=images,
        batch=batch,
        server={"retries": 1, "backoff_s": 0.001},
        run={"on_image_error": on_image_error, "durability": "process"},
    )
    with tempfile.TemporaryDirectory() as runs:
        watched = Watched()
        work = controller(Path(runs), Stepping(slots=slots, images=painted))

        def script(request: GenerateRequest, _cancel: CancelToken) -> None:
            place = (str(request.stage_type), request.image_index, request.attempt)
            trouble = troubles.get(place)
            if trouble in ("retry", "fail"):
                raise BackendError("out of memory", transient=trouble == "retry")
            if trouble is not None:
                work.cancel(request.run_id, mode=CancelMode(trouble))

        work.backend._script = script  # type: ignore[attr-defined]  # it needs the controller
        with subscribe(watched.take, on="publisher", on_step=watched.take):
            handle = work.start(config)
            handle.wait(30)
            rob(handle.folder, lost)
            # The first resume is made in any case: files of a complete run may be gone.
            for tried in range(8):
                if tried and watched.before.state is RunState.COMPLETED:
                    break
                work.resume(handle.run_id, force=True).wait(30)
        assert watched.faults == []
        events = list(iterate(handle.folder))
        status = all_at_once(events)
        assert status.state is RunState.COMPLETED
        assert watched.before == status
        note(f"{status.warnings}")


def rob(folder: Path, lost: list[tuple[int, int]]) -> None:
    """Take image files away, wherever they are there."""
    stages = sorted((folder / "images").iterdir()) if (folder / "images").is_dir() else []
    for place, index in lost:
        if place < len(stages):
            try:
                image_file(folder, stages[place].name, index).unlink()
            except (StopIteration, FileNotFoundError):
                continue


def test_an_untold_step_counts_for_nothing() -> None:
    """Steps of a request that is not under way, or of no run, change nothing."""
    bar = StatusBar(monotonic=still)
    step: dict[str, Any] = {"stage_id": "00-txt2img", "step": 1, "steps": 2, "fraction": 0.5}
    bar.take_step(StepProgress(image_index=0, **step))
    assert bar.snapshot() == RunStatus()
