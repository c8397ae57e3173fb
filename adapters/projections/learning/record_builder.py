"""Builds a learning record from the events of a run; a pure function."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from ....events.errors import StagewrightError
from ....events.folds import StageFold, recorded_stages
from ....events.log.timeline import events_at
from ....events.model import (
    Artifact,
    BackendDescription,
    CallCompleted,
    CallRequested,
    ErrorDetail,
    StageEvent,
)
from ....events.result import MissingImage, artifact_in
from .asked import LARGEST, asked_settings
from .records import (
    SCHEMA_VERSION,
    ImageRecord,
    LearningRecord,
    MissingRecord,
    RecordedError,
    StageRecord,
)
from .run_summary import RunSummary
from .used_values import UsedValues

MAX_MESSAGE = 2048
"""The longest error message in a record, in characters."""


class UnusableLogError(StagewrightError, ValueError):
    """A sound log with numbers or times that a record cannot hold."""


def make_record(
    summary: RunSummary, events: Sequence[StageEvent], folder: str, log_head: str
) -> LearningRecord:
    """The record of a run that has ended, from its events up to that end.

    ``summary`` is their summary. Raises UnusableLogError.
    """
    try:
        return _RecordMaker(summary, events).record(folder, log_head)
    except (ValueError, OverflowError, RecursionError) as error:
        run_id = summary.fold.run_id
        raise UnusableLogError(
            f"no learning record can be made of run {run_id}: {error}"
        ) from error


class _RecordMaker:
    """Builds the record of a run from the ``events`` up to its end and their ``summary``."""

    def __init__(self, summary: RunSummary, events: Sequence[StageEvent]) -> None:
        self._opened = summary.opened
        self._fold = summary.fold
        self._work = summary.work
        self._end = summary.end
        self._events = events
        self._planned = {one["stage_id"]: one for one in recorded_stages(summary.fold.plan)}
        self._order = list(dict.fromkeys([*self._planned, *summary.fold.stages]))

    def record(self, folder: str, log_head: str) -> LearningRecord:
        opened, fold, end = self._opened, self._fold, self._end
        assert end is not None
        assert fold.outcome is not None
        config = opened.config
        stages = tuple(self._stage(*one) for one in enumerate(self._order))
        return LearningRecord(
            schema_version=SCHEMA_VERSION,
            run_id=fold.run_id,
            folder=folder,
            log_records=end.seq + 1,
            log_head=log_head,
            software=opened.software,
            name=_text(config.get("name")),
            group_id=opened.group_id,
            variant_index=None if opened.variant_index is None else _whole(opened.variant_index),
            varied=_varied(config),
            learning_mode=any(one.get("learning_mode") is True for one in self._planned.values()),
            prompt=_text(config.get("prompt")),
            negative_prompt=_text(config.get("negative_prompt")),
            opened_at=_time(opened.ts),
            ended_at=_time(end.ts),
            state=fold.state,
            outcome=fold.outcome,
            resumes=fold.resumes,
            duration_ms=sum((stage.duration_ms for stage in stages), 0.0),
            error=_error(fold.error),
            seeds=tuple(map(_whole, fold.seeds)),
            backend=_backend(fold.backend or opened.backend),
            inputs=opened.inputs,
            stages=stages,
            images=tuple(self._images()),
            missing=tuple(map(_missing, fold.missing())),
        )

    def _stage(self, place: int, stage_id: str) -> StageRecord:
        begun = self._fold.stages.get(stage_id)
        planned = self._planned.get(stage_id, {})
        work = self._work.stages[stage_id]
        used = self._used(begun)
        return StageRecord(
            stage_id=stage_id,
            stage_type=begun.stage_type if begun else _text(planned.get("stage_type")) or "",
            order_index=place,
            outcome=begun.outcome if begun else None,
            image_count=len(begun.finished) if begun else 0,
            unchanged_images=len(begun.unchanged) if begun else 0,
            duration_ms=work.duration_ms,
            attempts=work.attempts,
            failed_attempts=work.failed_attempts,
            asked=asked_settings(planned.get("config", {})),
            used=used.as_json(),
            used_varies=used.varying(),
        )

    def _used(self, stage: StageFold | None) -> UsedValues:
        """The settings reported by the calls that count, without superseded ones."""
        used = UsedValues()
        counting = set(stage.finished.values()) if stage else ()
        for event in events_at(self._events, sorted(counting)):
            if isinstance(event, CallCompleted):
                used.take(event.info)
        return used

    def _images(self) -> Iterator[ImageRecord]:
        """The images in the order of their indexes, each of the last stage that finished it."""
        furthest: dict[int, tuple[str, int]] = {}
        for stage_id in self._order:
            stage = self._fold.stages.get(stage_id)
            for index, seq in stage.finished.items() if stage else ():
                furthest[index] = (stage_id, seq)
        indexes = sorted(furthest)
        events = events_at(self._events, (furthest[index][1] for index in indexes))
        asked = self._inputs_of(furthest, indexes)
        for index, event in zip(indexes, events, strict=True):
            stage_id, _ = furthest[index]
            yield _image(artifact_in(event, index), stage_id, asked.get(index))

    def _inputs_of(
        self, furthest: Mapping[int, tuple[str, int]], indexes: Iterable[int]
    ) -> dict[int, str]:
        """For each index the ``source_sha256`` of the image's input."""
        requests = {
            index: seq
            for index in indexes
            if (seq := self._work.stages[furthest[index][0]].inputs_requested.get(index))
            is not None
        }
        events = events_at(self._events, requests.values())
        return {
            index: event.inputs[0]
            for index, event in zip(requests, events, strict=True)
            if isinstance(event, CallRequested)
        }


def _image(artifact: Artifact, stage_id: str, input_sha256: str | None) -> ImageRecord:
    return ImageRecord(
        image_index=artifact.image_index,
        stage_id=stage_id,
        path=artifact.path,
        sha256=artifact.sha256,
        source_sha256=artifact.source_sha256,
        input_sha256=input_sha256,
        seed=_whole(artifact.seed),
        width=_whole(artifact.width),
        height=_whole(artifact.height),
        bytes=_whole(artifact.bytes),
        media_type=artifact.media_type,
    )


def _missing(gap: MissingImage) -> MissingRecord:
    return MissingRecord(
        image_index=gap.image_index,
        stage_id=gap.stage_id,
        error_kind=gap.error.kind if gap.error else None,
    )


def _varied(config: Mapping[str, Any]) -> str:
    """The varied settings, as the text of a JSON object."""
    metadata = config.get("metadata")
    varied = metadata.get("varied") if isinstance(metadata, Mapping) else None
    table = varied if isinstance(varied, Mapping) else {}
    return msgspec.json.encode(table, order="sorted").decode()


def _error(error: ErrorDetail | None) -> RecordedError:
    if error is None:
        return RecordedError(kind=None, message=None, stage_id=None, image_index=None)
    return RecordedError(
        kind=error.kind,
        message=_public(error.message),
        stage_id=error.stage_id,
        image_index=None if error.image_index is None else _whole(error.image_index),
    )


def _backend(backend: BackendDescription) -> BackendDescription:
    url = backend.url
    return msgspec.structs.replace(backend, url=None if url is None else _public(url))


def _public(text: str) -> str:
    """The text without credentials and home folders, because records may be shared."""
    # Loaded on demand: few records need it, and the run waits for its record.
    from ...credentials.patterns import (  # noqa: PLC0415 - see above
        without_credentials,
        without_usual_homes,
    )

    cut = text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]} ..."
    return without_usual_homes(without_credentials(cut)[0])[0]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _whole(number: int) -> int:
    """Raises ValueError for a number that tables cannot hold."""
    if not -LARGEST <= number <= LARGEST:
        raise ValueError(f"{number:.3e} is beyond 64 bits")
    return number


def _time(moment: datetime) -> str:
    """RFC 3339 in UTC with six digits, always. Raises OverflowError."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
