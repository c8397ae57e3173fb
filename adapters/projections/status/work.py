"""Measures the finished part of a plan, weighted by sampling steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....events.model import CallRequested
from ....statemachine.plan.builder import MAX_IMAGES
from .weights import Pass, PlannedStage, planned_stages


class StageWork:
    """One stage: its ``number`` in the plan (0 if it is not planned), and its images."""

    __slots__ = ("finished", "image_count", "number", "planned", "unchanged", "weight_from_here")

    def __init__(
        self, planned: PlannedStage, number: int, image_count: int, weight_from_here: int
    ) -> None:
        self.planned = planned
        self.number = number
        self.image_count = image_count
        self.weight_from_here = weight_from_here
        """The weight of one image in this stage and all later ones."""
        self.finished: set[int] = set()
        self.unchanged: set[int] = set()

    @property
    def stage_id(self) -> str:
        """Its id in the plan."""
        return self.planned.stage_id

    @property
    def weight(self) -> int:
        """The weight of one image in this stage."""
        return self.planned.weight

    @property
    def open_images(self) -> int:
        """The number of unfinished images."""
        return self.image_count - len(self.finished)

    def has_finished(self, index: int) -> bool:
        """Whether this image is finished."""
        return index in self.finished

    def note_unchanged(self, index: int, *, unchanged: bool) -> None:
        """Note whether an image came back unchanged."""
        if unchanged:
            self.unchanged.add(index)
        else:
            self.unchanged.discard(index)


class CallUnderWay:
    """A request that was sent, for ``count`` images of ``stage`` from index ``first`` on."""

    __slots__ = ("count", "first", "has_ended", "pass_step", "sent_s", "stage")

    def __init__(self, event: CallRequested, stage: StageWork, sent_s: float) -> None:
        self.stage = stage
        self.first = event.image_index
        self.count = max(0, min(event.count, stage.image_count - event.image_index))
        self.sent_s = sent_s
        self.pass_step: Pass | None = None
        """The last live step."""
        self.has_ended = False

    def part(self) -> float:
        """The finished weight of the request, apart from finished images."""
        if self.pass_step is None:
            return 0.0
        return self.stage.weight * self._open_images() * self.pass_step.fraction

    def weight_under_way(self) -> float:
        """The remaining weight of the request."""
        fraction = self.pass_step.fraction if self.pass_step else 0.0
        return self.stage.weight * self.count * (1.0 - fraction)

    @property
    def has_open_images(self) -> bool:
        """Whether any of its images is unfinished."""
        return self._open_images() > 0

    def _open_images(self) -> int:
        images = range(self.first, self.first + self.count)
        return sum(not self.stage.has_finished(index) for index in images)


class PlanWork:
    """The stages of a plan, and the finished part of it.

    ``images`` pass through each stage. ``whole`` is the weight of all images in all stages, 0
    without a plan; ``done`` is the weight of the finished ones.
    """

    def __init__(self, plan: Mapping[str, Any], images: int) -> None:
        planned = planned_stages(plan)
        self.images = images
        self.stages: dict[str, StageWork] = {}
        rest = sum(stage.weight for stage in planned)
        self.whole = rest * images
        self.done = 0
        self.stage_count = len(planned)
        for number, stage in enumerate(planned, start=1):
            self.stages[stage.stage_id] = StageWork(stage, number, images, rest)
            rest -= stage.weight

    def stage(self, stage_id: str, stage_type: str = "", total_images: int = 0) -> StageWork:
        """A stage by its id; a stage that is not planned has weight 0."""
        found = self.stages.get(stage_id)
        if found is None:
            images = self.images or min(total_images, MAX_IMAGES)
            unplanned = PlannedStage(stage_id, stage_type, 0, ())
            found = self.stages[stage_id] = StageWork(unplanned, 0, images, 0)
        return found

    def finish(self, stage: StageWork, index: int) -> None:
        """Note a finished image; indexes outside the plan are ignored."""
        if index < stage.image_count and not stage.has_finished(index):
            self.done += stage.weight
            stage.finished.add(index)

    def unfinish(self, stage: StageWork, index: int) -> None:
        """Note that an image is no longer finished."""
        if stage.has_finished(index):
            self.done -= stage.weight
            stage.finished.discard(index)
            stage.unchanged.discard(index)

    def lose(self, lost: Mapping[str, tuple[tuple[int, int], ...]]) -> int:
        """Note lost images, which have to be made again; returns their number."""
        before = self._finished_images()
        for stage_id, rows in lost.items():
            stage = self.stages.get(stage_id)
            begin = 0
            # Ranges in a foreign log may overlap and be very long; count each index once.
            for first, last in sorted(rows) if stage else ():
                assert stage is not None
                end = min(last + 1, stage.image_count)
                for index in range(max(first, begin), end):
                    self.unfinish(stage, index)
                begin = max(begin, end)
        return before - self._finished_images()

    def unchanged_images(self) -> int:
        """The number of finished images that came back unchanged."""
        return sum(len(stage.unchanged) for stage in self.stages.values())

    def _finished_images(self) -> int:
        return sum(len(stage.finished) for stage in self.stages.values())
