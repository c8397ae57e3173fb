"""The records of a stage that a run and a salvage have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...events.codec import json_values
from ...events.model import (
    Artifact,
    CallCompleted,
    CallReused,
    Outcome,
    ReuseOrigin,
    StageEnd,
    StageImageProgress,
    StageStart,
)
from ..plan.plan import StageExecution
from .journal import RunJournal, recordable


class StageRecords:
    """Writes to the journal of a run what becomes of a stage. All methods raise LogWriteError."""

    def __init__(self, journal: RunJournal, stage: StageExecution, total_images: int) -> None:
        self._journal = journal
        self._stage = stage
        self._total_images = total_images

    def start(self) -> None:
        """The stage begins."""
        self._journal.record(
            lambda at: StageStart(
                **at,
                stage_id=self._stage.stage_id,
                stage_type=self._stage.stage_type,
                order_index=self._stage.order_index,
                total_images=self._total_images,
                metadata=_metadata(self._stage),
            )
        )

    def images(
        self,
        call_id: str,
        artifacts: Sequence[Artifact],
        *,
        endpoint: str,
        info: Mapping[str, Any],
        duration_ms: float,
    ) -> None:
        """A call has given these images, whose files are durable; then each is announced."""
        self._journal.record(
            lambda at: CallCompleted(
                **at,
                call_id=call_id,
                endpoint=recordable(endpoint),
                artifacts=tuple(artifacts),
                info=info,
                duration_ms=duration_ms,
            )
        )
        for artifact in artifacts:
            self.progress(artifact)

    def reused_images(
        self,
        artifacts: Sequence[Artifact],
        *,
        request_sha256: str,
        info: Mapping[str, Any],
        origin: ReuseOrigin,
        inputs: tuple[str, ...],
        not_checked: tuple[str, ...],
    ) -> None:
        """Images that another run made, whose copies are durable; then each is announced."""
        self._journal.record(
            lambda at: CallReused(
                **at,
                stage_id=self._stage.stage_id,
                image_index=artifacts[0].image_index,
                request_sha256=request_sha256,
                artifacts=tuple(artifacts),
                info=info,
                origin=origin,
                inputs=inputs,
                not_checked=not_checked,
            )
        )
        for artifact in artifacts:
            self.progress(artifact)

    def progress(self, artifact: Artifact) -> None:
        """An image that is recorded as finished is announced."""
        self._journal.record(
            lambda at: StageImageProgress(
                **at,
                stage_id=self._stage.stage_id,
                stage_type=self._stage.stage_type,
                image_index=artifact.image_index,
                total_images=self._total_images,
                artifact=artifact,
            )
        )

    def end(self, image_count: int, duration_ms: float, outcome: Outcome) -> None:
        """The stage ends, with so many finished images."""
        self._journal.record(
            lambda at: StageEnd(
                **at,
                stage_id=self._stage.stage_id,
                stage_type=self._stage.stage_type,
                image_count=image_count,
                duration_ms=duration_ms,
                outcome=outcome,
            )
        )


def _metadata(stage: StageExecution) -> Mapping[str, Any]:
    """What StageStart records of a stage beside its place in the plan, by name."""
    found = stage.config.metadata().items()
    stated = {name: json_values(value) for name, value in found if value is not None}
    return {"input_source": stage.input_source, **stated}
