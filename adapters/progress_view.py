"""How far a run is, for anything that shows it: folded from events and live steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ..events.model import (
    CallFailed,
    LifecycleChanged,
    RunOpened,
    RunResumed,
    RunState,
    StageEvent,
    StageImageProgress,
    StageStart,
)
from ..statemachine.plan import StageExecution, StageExecutionPlan
from ..statemachine.ports import StepProgress
from ..statemachine.stage_configs import AdetailerConfig, Txt2ImgConfig, UpscaleConfig

UPSCALE_STEPS = 10
"""What an image's upscale counts for beside sampling steps; it has none of its own."""


class ProgressSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A moment of a run.

    ``stage_number`` of ``stage_count`` and ``images_done`` of ``total_images`` (in this
    stage) count from 1 and 0; ``fraction`` runs from 0 to 1 over the whole plan, weighted by
    steps; ``eta_s`` is None while there is nothing to estimate from.
    """

    state: RunState
    stage_id: str
    stage_number: int
    stage_count: int
    images_done: int
    total_images: int
    step: int
    steps: int
    fraction: float
    elapsed_s: float
    eta_s: float | None
    last_error: str


class ProgressView:
    """Takes a run's events and steps from any thread; ``snapshot`` never goes back.

    Of a run that is taken up again it is given the events so far first; its times are those
    of the present epoch.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._state = RunState.IDLE
        self._weights: list[tuple[str, int]] = []
        self._total = 0
        self._done: dict[str, set[int]] = {}
        self._fraction_before = 0.0
        self._stage_id = ""
        self._step = (0, 0)
        self._part: dict[int, float] = {}
        self._shown = 0.0
        self._last_error = ""

    def take_event(self, event: StageEvent) -> None:
        """Take one event of the run."""
        with self._lock:
            match event:
                case RunOpened():
                    self._open(event.plan)
                case LifecycleChanged():
                    self._state = event.dest
                    self._last_error = event.reason if event.error else self._last_error
                case StageStart():
                    self._stage_id = event.stage_id
                    self._part.clear()
                    self._step = (0, 0)
                case StageImageProgress():
                    self._done.setdefault(event.stage_id, set()).add(event.image_index)
                    self._part.pop(event.image_index, None)
                    self._step = (0, 0)
                case CallFailed():
                    self._last_error = f"{event.error.kind}: {event.error.message}"
                case RunResumed():
                    self._forget(event.lost or {})
                    self._shown = self._fraction()
                    self._began = time.monotonic()
                    self._fraction_before = self._fraction()
                    self._last_error = ""

    def take_step(self, progress: StepProgress) -> None:
        """Take how far one image is."""
        with self._lock:
            if progress.stage_id == self._stage_id:
                self._part[progress.image_index] = min(1.0, max(0.0, progress.fraction))
                self._step = (progress.step, progress.steps)

    def finished_images(self) -> Mapping[str, int]:
        """How many images each stage has finished."""
        with self._lock:
            return {stage_id: len(done) for stage_id, done in self._done.items()}

    def snapshot(self) -> ProgressSnapshot:
        """How far the run is now."""
        with self._lock:
            order = [stage_id for stage_id, _ in self._weights]
            number = order.index(self._stage_id) + 1 if self._stage_id in order else 0
            self._shown = max(self._shown, self._fraction())
            elapsed = time.monotonic() - self._began
            made = self._shown - self._fraction_before
            return ProgressSnapshot(
                state=self._state,
                stage_id=self._stage_id,
                stage_number=number,
                stage_count=len(order),
                images_done=len(self._done.get(self._stage_id, ())),
                total_images=self._total,
                step=self._step[0],
                steps=self._step[1],
                fraction=self._shown,
                elapsed_s=elapsed,
                eta_s=elapsed * (1 - self._shown) / made if made > 0.0 else None,
                last_error=self._last_error,
            )

    def _forget(self, lost: Mapping[str, Sequence[tuple[int, int]]]) -> None:
        """Images whose files are gone are to be made again."""
        for stage_id, rows in lost.items():
            done = self._done.get(stage_id, set())
            for first, last in rows:
                done -= {index for index in done if first <= index <= last}

    def _open(self, document: Mapping[str, Any]) -> None:
        try:
            plan = StageExecutionPlan.from_document(document)
        except (ValueError, OverflowError, RecursionError):
            return  # a foreign or newer log: nobody knows how long its stages take
        self._weights = [(stage.stage_id, image_weight(stage)) for stage in plan.stages]
        self._total = plan.total_images

    def _fraction(self) -> float:
        if self._state == RunState.COMPLETED:
            return 1.0
        whole = sum(weight for _, weight in self._weights) * self._total
        done = sum(weight * len(self._done.get(stage_id, ())) for stage_id, weight in self._weights)
        current = dict(self._weights).get(self._stage_id, 0)
        done_now = done + current * sum(self._part.values())
        return min(1.0, done_now / whole) if whole else 0.0


def image_weight(stage: StageExecution) -> int:
    """The sampling steps that one image of a stage takes, or what stands for them."""
    config = stage.config
    if isinstance(config, UpscaleConfig):
        return UPSCALE_STEPS
    steps = config.steps or 1
    if isinstance(config, AdetailerConfig):
        return sum(one.steps or steps for one in config.passes)
    if isinstance(config, Txt2ImgConfig) and config.hires is not None:
        return steps + (config.hires.steps or steps)
    return steps
