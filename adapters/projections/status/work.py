"""Measures the finished part of a plan, weighted by sampling steps."""

from __future__ import annotations

from ....events.folds import Fold
from ....events.model import CallRequested
from .weights import Pass, PlannedStage, planned_stages


class CallUnderWay:
    """A request that was sent, for ``count`` planned images from index ``first`` on.

    ``pass_step`` is its last live step, and ``marked_s`` the time of that, or else of the request.
    ``server`` is the address that it was sent to, "" where the log does not say it.
    """

    def __init__(self, event: CallRequested, images: int, sent_s: float) -> None:
        self.stage_id = event.stage_id
        self.first = event.image_index
        self.count = max(0, min(event.count, images - event.image_index))
        self.attempt = event.attempt + 1
        self.server = event.server or ""
        self.sent_s = self.marked_s = sent_s
        self.pass_step: Pass | None = None
        self.has_ended = False

    @property
    def fraction(self) -> float:
        """The finished part of the request, as far as live steps tell."""
        return self.pass_step.fraction if self.pass_step else 0.0


class PlanWork:
    """The stages of a plan with their weights, and the part that is finished by the fold.

    ``images`` pass through each stage. ``whole`` is the weight of all images in all stages, 0
    without a plan.
    """

    def __init__(self, fold: Fold) -> None:
        self._fold = fold
        self._planned = {stage.stage_id: stage for stage in planned_stages(fold.plan)}
        self._ids = list(self._planned)
        self.images = len(fold.seeds)
        self.whole = sum(stage.weight for stage in self._planned.values()) * self.images

    @property
    def stage_count(self) -> int:
        """The number of planned stages."""
        return len(self._ids)

    def number_of(self, stage_id: str) -> int:
        """The place of a stage in the plan, from 1; 0 if it is not planned."""
        return self._ids.index(stage_id) + 1 if stage_id in self._planned else 0

    def planned(self, stage_id: str) -> PlannedStage:
        """A stage as it is planned; a stage that is not planned has weight 0."""
        return self._planned.get(stage_id) or PlannedStage(stage_id, "", 0, ())

    def weight_from(self, stage_id: str) -> int:
        """The weight of one image in this stage and all later ones."""
        later = self._ids[self.number_of(stage_id) - 1 :] if stage_id in self._planned else ()
        return sum(self._planned[one].weight for one in later)

    def finished_in(self, stage_id: str) -> int:
        """The number of finished images of a stage."""
        stage = self._fold.stages.get(stage_id)
        return min(len(stage.finished), self.images) if stage else 0

    def finished_images(self) -> int:
        """The number of finished images, over all stages."""
        return sum(map(self.finished_in, self._fold.stages))

    def unchanged_images(self) -> int:
        """The number of finished images that came back unchanged."""
        return sum(len(stage.unchanged) for stage in self._fold.stages.values())

    @property
    def done(self) -> int:
        """The weight of the finished images."""
        return sum(self.finished_in(one.stage_id) * one.weight for one in self._planned.values())

    def part_of(self, call: CallUnderWay) -> float:
        """The finished weight of a request, apart from finished images."""
        if not call.fraction:
            return 0.0
        stage = self._fold.stages.get(call.stage_id)
        finished = stage.finished if stage else {}
        left = sum(index not in finished for index in range(call.first, call.first + call.count))
        return self.planned(call.stage_id).weight * left * call.fraction

    def weight_under_way(self, call: CallUnderWay) -> float:
        """The remaining weight of a request."""
        return self.planned(call.stage_id).weight * call.count * (1.0 - call.fraction)
