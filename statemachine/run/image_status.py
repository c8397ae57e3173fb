"""Which images of a run are valid: recorded, their files sound, made from what is there now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set

from ...events.folds import Fold
from ...events.model import Artifact, StageEvent
from ...events.result import MissingImage, artifact_in
from ..plan.plan import StageExecution, StageExecutionPlan
from .requests import request_spans


class ImageStatus:
    """Says of each image of a run whether it stands (is valid) or is to be made.

    The fold knows which images are finished, up to now; ``event_at`` reads a record of the log.
    What became of files no log can know: an inspection adds what it found. An image is named by
    the sequence number of the record that finished it, so that one made again is another.
    ``lost`` are the sequence numbers and indexes of images whose files are not as recorded;
    ``made_from`` is, by sequence number, the ``source_sha256`` of what an image was made from,
    where its source may be another by now.
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
        self._stages = {stage.stage_id: stage for stage in plan.stages}

    def artifact(self, stage_id: str, image_index: int) -> Artifact:
        """The image that a stage has finished, read back from the log."""
        seq = self._finished(stage_id, image_index)
        assert seq is not None
        return artifact_in(self._event_at(seq), image_index)

    def stands(self, stage: StageExecution, image_index: int) -> bool:
        """Whether an image need not be made: finished, sound, and of the source that is there."""
        seq = self._finished(stage.stage_id, image_index)
        if seq is None or (seq, image_index) in self._lost:
            return False
        made_from = self._made_from.get(seq)
        if made_from is None or self._finished(stage.input_source, image_index) is None:
            return True
        return made_from == self.artifact(stage.input_source, image_index).source_sha256

    def count(self, stage: StageExecution) -> int:
        """How many images of a stage stand."""
        return sum(self.stands(stage, index) for index in range(self._plan.total_images))

    def open_spans(self, stage: StageExecution) -> Iterator[range]:
        """The requests of a stage that are to be made: not all stands, and the source is there."""
        source = self._stages.get(stage.input_source)
        for span in request_spans(stage, self._plan.total_images):
            if all(self.stands(stage, index) for index in span):
                continue
            if source is None or self.stands(source, span.start):
                yield span

    def missing(self) -> tuple[MissingImage, ...]:
        """The first stage at which each image that is not there does not stand, by index."""
        gaps = []
        for index in range(self._plan.total_images):
            for stage in self._plan.stages:
                if not self.stands(stage, index):
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
