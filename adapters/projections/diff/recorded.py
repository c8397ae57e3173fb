"""Reads what a comparison needs from the log of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ....events.folds import recorded_stages
from ....events.log.timeline import events_at
from ....events.model import Artifact, CallCompleted, CallReused, RunOpened, StageEvent
from ....events.result import artifact_in
from ..log_walk import Call, LogWalk


class AnsweredImage(NamedTuple):
    """The log's records of one image, at ``place`` of ``batch_size`` images of its answer.

    ``info`` and ``request_sha256`` are None if they are not recorded.
    """

    artifact: Artifact
    request_sha256: str | None
    info: Mapping[str, Any] | None = None
    place: int = 0
    batch_size: int = 1


class RecordedRun:
    """A run that is compared. Raises RunNotFoundError, LogCorruptError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._requests: dict[tuple[str, int], str] = {}
        """By stage and image index, the digest of the request that made the image."""
        self.log = LogWalk(folder)
        self.log.read(self._take)
        if self.log.corruption is not None:
            raise self.log.corruption

    @property
    def opened(self) -> RunOpened:
        """The first event, which every sound log has."""
        assert self.log.fold.opened is not None
        return self.log.fold.opened

    @property
    def elapsed_ms(self) -> float:
        """The time from the first event to the last, including pauses between epochs."""
        return self.log.clock.now_s * 1000

    @property
    def backends(self) -> list[Mapping[str, Any]]:
        """Each backend with its software, once, in the order of use."""
        found: list[Mapping[str, Any]] = []
        for one in self.log.openings:
            backend = {**msgspec.to_builtins(one.backend), "software": one.software}
            if backend not in found:
                found.append(backend)
        return found

    @property
    def failed_attempts(self) -> Mapping[str, int]:
        """How many calls failed, by the kind of error."""
        return dict(Counter(call.error_kind for call in self.log.calls if call.state.has_failed))

    def stages(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The stages of the plan with a label: their type, ``txt2img 2`` for a second one.

        If the plan names no stages, those that started.
        """
        planned: list[Mapping[str, Any]] = recorded_stages(self.opened.plan) or [
            {"stage_id": one.stage_id, "stage_type": str(one.stage_type), "config": {}}
            for one in self.log.fold.stages.values()
        ]
        seen: Counter[str] = Counter()
        for stage in planned:
            kind = str(stage.get("stage_type", stage["stage_id"]))
            seen[kind] += 1
            yield (kind if seen[kind] == 1 else f"{kind} {seen[kind]}"), stage

    def finished(self, stage_id: str) -> Mapping[int, int]:
        """By index of each finished image of a stage, the number of the event that records it."""
        stage = self.log.fold.stages.get(stage_id)
        return stage.finished if stage is not None else {}

    def images(self, stage_id: str, indexes: Sequence[int]) -> Iterator[AnsweredImage]:
        """These finished images of a stage, read from the log one at a time."""
        finished = self.finished(stage_id)
        events = events_at(self.log.timeline, (finished[index] for index in indexes))
        for index, event in zip(indexes, events, strict=True):
            artifact, digest = artifact_in(event, index), self._requests.get((stage_id, index))
            if isinstance(event, CallCompleted | CallReused):
                made = event.artifacts
                yield AnsweredImage(artifact, digest, event.info, made.index(artifact), len(made))
            else:
                yield AnsweredImage(artifact, digest)

    def _take(self, event: StageEvent, call: Call | None) -> None:
        if isinstance(event, CallCompleted) and call is not None:
            for artifact in event.artifacts:
                place = (call.stage_id, artifact.image_index)
                self._requests[place] = call.request_sha256
        elif isinstance(event, CallReused):
            for artifact in event.artifacts:
                place = (event.stage_id, artifact.image_index)
                self._requests[place] = event.request_sha256
