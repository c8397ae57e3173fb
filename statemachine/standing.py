"""Which images of a run count: recorded, their files sound, made from what is there now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby

import msgspec

from ..events.folding import Fold
from ..events.log import EventLog
from ..events.model import Artifact
from ..events.result import MissingImage, artifact_in
from .plan import StageExecution, StageExecutionPlan
from .run.requests import request_spans


class Damage(msgspec.Struct, frozen=True, kw_only=True):
    """What a resume found amiss; it holds for images recorded before ``since``, a sequence number.

    ``lost`` are, by stage, the indexes whose files are missing or altered, ``altered`` the
    paths of those that are still there. ``made_from`` is the ``source_sha256`` that images
    were made from, by stage and index, where that source has been made again or will be.
    """

    since: int = 0
    lost: Mapping[str, frozenset[int]] = {}
    altered: tuple[str, ...] = ()
    made_from: Mapping[str, Mapping[int, str]] = {}

    def rows(self) -> dict[str, tuple[tuple[int, int], ...]]:
        """``lost`` as RunResumed holds it: the first and the last of indexes in a row."""
        return {stage_id: tuple(_rows(sorted(self.lost[stage_id]))) for stage_id in self.lost}


def _rows(indexes: list[int]) -> Iterator[tuple[int, int]]:
    # In a row of indexes each is as far from its place in the list as the next.
    for _, row in groupby(enumerate(indexes), lambda one: one[1] - one[0]):
        members = [index for _, index in row]
        yield members[0], members[-1]


class Standing:
    """Says of each image of a run whether it stands or is to be made."""

    def __init__(
        self, plan: StageExecutionPlan, fold: Fold, log: EventLog, damage: Damage | None = None
    ) -> None:
        self._plan = plan
        self._fold = fold
        self._log = log
        self._damage = damage or Damage()
        self._stages = {stage.stage_id: stage for stage in plan.stages}

    def artifact(self, stage_id: str, image_index: int) -> Artifact:
        """The image that a stage has finished, read back from the log."""
        seq = self._finished(stage_id, image_index)
        assert seq is not None
        return artifact_in(self._log.event_at(seq), image_index)

    def stands(self, stage: StageExecution, image_index: int) -> bool:
        """Whether an image need not be made: finished, sound, and of the source that is there."""
        seq = self._finished(stage.stage_id, image_index)
        if seq is None or seq >= self._damage.since:
            return seq is not None
        if image_index in self._damage.lost.get(stage.stage_id, ()):
            return False
        made_from = self._damage.made_from.get(stage.stage_id, {}).get(image_index)
        if made_from is None or self._finished(stage.input_source, image_index) is None:
            return True
        return made_from == self.artifact(stage.input_source, image_index).source_sha256

    def count(self, stage: StageExecution) -> int:
        """How many images of a stage stand."""
        folded = self._fold.stages.get(stage.stage_id)
        if folded is None:
            return 0
        suspects = {
            *self._damage.lost.get(stage.stage_id, ()),
            *self._damage.made_from.get(stage.stage_id, {}),
        }
        fallen = sum(
            folded.finished.get(index) is not None and not self.stands(stage, index)
            for index in suspects
        )
        return folded.finished.count - fallen

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
        folded = self._fold.stages.get(stage_id)
        return folded.finished.get(image_index) if folded else None
