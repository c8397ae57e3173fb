"""Which images of a run are valid, and which are to be made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set

from ...events.folds import Fold
from ...events.model import Artifact, StageEvent
from ...events.result import MissingImage, artifact_in
from ..plan.plan import StageExecution, StageExecutionPlan
from .requests import request_breaks, request_spans


class ImageStatus:
    """Tells for each image of a run whether it is valid.

    An image is valid if it is recorded as finished, its file is as recorded, and it was made
    from the source image that is valid now. An image that is not valid has to be made.

    ``fold`` knows which images are finished, also while the run continues; ``event_at`` reads a
    record of the log. An inspection adds what the log cannot know. It names an image by the
    sequence number of the record that finished it, so nothing is held against one made later:
    ``lost`` are (sequence number, index) of images whose files are not as recorded;
    ``made_from`` is, by sequence number, the ``source_sha256`` of the image that an image was
    made from, for images whose source may have been made again.
    """

    def __init__(
        self,
        plan: StageExecutionPlan,
        fold: Fold,
        event_at: Callable[[int], StageEvent],
        *,
        lost: Set[tuple[int | None, int]] = frozenset(),
        made_from: Mapping[int, str] = {},
    ) -> None:
        self._plan = plan
        self._fold = fold
        self._event_at = event_at
        self._lost = lost
        self._made_from = made_from
        self._breaks = request_breaks(fold.opened)
        self._stages = {stage.stage_id: stage for stage in plan.stages}

    def artifact(self, stage_id: str, image_index: int) -> Artifact:
        """The image that a stage has finished, read back from the log."""
        seq = self._finished(stage_id, image_index)
        assert seq is not None
        return artifact_in(self._event_at(seq), image_index)

    def is_valid(self, stage: StageExecution, image_index: int) -> bool:
        """Whether an image is finished, its file as recorded, and its source the valid one."""
        seq = self._finished(stage.stage_id, image_index)
        if seq is None or (seq, image_index) in self._lost:
            return False
        made_from = self._made_from.get(seq)
        if made_from is None or self._finished(stage.input_source, image_index) is None:
            return True
        return made_from == self.artifact(stage.input_source, image_index).source_sha256

    def count_valid(self, stage: StageExecution) -> int:
        """How many images of a stage are valid."""
        return sum(self.is_valid(stage, index) for index in range(self._plan.total_images))

    def open_spans(self, stage: StageExecution) -> Iterator[range]:
        """The requests of a stage with an image that is not valid, but whose source is."""
        source = self._stages.get(stage.input_source)
        for span in request_spans(stage, self._plan, self._breaks):
            if all(self.is_valid(stage, index) for index in span):
                continue
            if source is None or self.is_valid(source, span.start):
                yield span

    def missing(self) -> tuple[MissingImage, ...]:
        """The first stage without a valid image, for each image that has one, by index."""
        gaps = []
        for index in range(self._plan.total_images):
            for stage in self._plan.stages:
                if not self.is_valid(stage, index):
                    folded = self._fold.stages.get(stage.stage_id)
                    error = folded.failures.get(index) if folded else None
                    gap = MissingImage(stage_id=stage.stage_id, image_index=index, error=error)
                    gaps.append(gap)
                    break
        return tuple(gaps)

    def _finished(self, stage_id: str, image_index: int) -> int | None:
        """The sequence number of the record that says that an image is finished."""
        folded = self._fold.stages.get(stage_id)
        return folded.finished.get(image_index) if folded else None
