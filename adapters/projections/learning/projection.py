"""Makes the learning record of a run from its log and the ratings of its images.

An *end* is a transition into COMPLETED, ERROR or CANCELLED that was written by the process that
executed the run; a failure recorded later for a process that died is not an end. A record is
made of the events up to the last end. Later events (a seal, an unfinished resume) do not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from ....events.folds import ABANDONED, Fold, is_end, recorded_stages
from ....events.log.format import DIGITS, MAX_LINE_BYTES, PREFIX
from ....events.log.kind import RUN_LOG
from ....events.log.reader import log_path
from ....events.log.storage import open_regular
from ....events.log.timeline import FileTimeline
from ....events.log.verified_scan import RecordScan
from ....events.model import (
    Artifact,
    BackendDescription,
    CallCompleted,
    CallFailed,
    CallRequested,
    CallReused,
    ErrorDetail,
    RunOpened,
    RunSealed,
    StageEvent,
)
from ....events.origins import input_name, input_of, prompt_of, varied_of
from ....events.ratings.log import Ratings
from ....events.result import MissingImage, artifact_in
from ....events.stage_fold import StageFold
from ..log_walk import OpenRequests
from .asked import asked_settings
from .records import (
    SCHEMA_VERSION,
    ImageRecord,
    LearningRecord,
    MissingRecord,
    RecordedError,
    StageRecord,
)
from .used_values import used_values

MAX_MESSAGE = 2048
"""The longest error message in a record, in characters."""
_HEADER = slice(len(PREFIX), len(PREFIX) + DIGITS)


def read_learning_record(run: Path, ratings: Ratings) -> LearningRecord | None:
    """The record of the run in a folder.

    None if the run has not ended, or has ``[run] learning = false``. Raises RunNotFoundError,
    LogCorruptError, OSError, and ValueError, OverflowError or RecursionError for times and
    nested values of a foreign log that a record cannot hold.
    """
    path = log_path(run)
    summary = _Summary()
    with open_regular(path) as stream:
        scan = RecordScan(RUN_LOG, stream, path=path)
        for batch in scan.batches():
            summary.take(batch)
        if summary.end is None or summary.is_opted_out():
            return None
        count = summary.end.seq + 1
        stop = scan.offsets[count] if count < len(scan.offsets) else scan.end
        stream.seek(scan.offsets[count - 1])
        log_head = stream.readline(MAX_LINE_BYTES)[_HEADER].decode()
    events = FileTimeline(path, scan.offsets[:count], stop)
    if summary.is_past_end:
        summary = _Summary()
        summary.take(events)
    return _RecordBuilder(summary, events, ratings).record(run.name, log_head)


class _Summary:
    """The fold of all events except seals, and the requests counted for each stage.

    ``end`` is the last end; ``is_past_end`` says that other events follow it.
    ``inputs`` holds the ``source_sha256`` of the input image by stage and image index, for the
    images that were made from one, in this run or in an earlier one. ``servers`` holds the address
    of the server that made an image last, in the same way.
    """

    def __init__(self) -> None:
        self.fold = Fold()
        self.end: StageEvent | None = None
        self.is_past_end = False
        self.attempts: Counter[str] = Counter()
        self.failed_attempts: Counter[str] = Counter()
        self.inputs: dict[tuple[str, int], str] = {}
        self.servers: dict[tuple[str, int], str | None] = {}
        self._requests = OpenRequests()

    def take(self, events: Iterable[StageEvent]) -> None:
        """Add more events, in order."""
        for event in events:
            if isinstance(event, RunSealed):
                continue  # it repeats the end of its epoch
            self.fold.apply(event)
            self._count_call(event)
            self.is_past_end = True
            if is_end(event):
                self.end, self.is_past_end = event, False

    def is_opted_out(self) -> bool:
        """Whether the configuration has ``[run] learning = false``."""
        assert self.fold.opened is not None
        table = self.fold.opened.config.get("run")
        return isinstance(table, Mapping) and table.get("learning") is False

    def _count_call(self, event: StageEvent) -> None:
        request = self._requests.request_of(event)
        match event:
            case CallRequested():
                self.attempts[event.stage_id] += 1
            case CallReused():
                self._note_images(event.artifacts, event.stage_id, event.inputs, None)
            case CallCompleted() if request is not None:
                backend = self.fold.backend
                server = request.server or (backend.url if backend else None)
                self._note_images(event.artifacts, request.stage_id, request.inputs, server)
            case CallFailed() if request is not None and event.error.kind != ABANDONED:
                self.failed_attempts[request.stage_id] += 1

    def _note_images(
        self,
        artifacts: Iterable[Artifact],
        stage_id: str,
        inputs: Sequence[str],
        server: str | None,
    ) -> None:
        for artifact in artifacts:
            place = stage_id, artifact.image_index
            self.servers[place] = server
            if inputs:
                self.inputs[place] = inputs[0]


class _RecordBuilder:
    """Builds the record of a run from the ``events`` up to its end and their ``summary``."""

    def __init__(self, summary: _Summary, events: FileTimeline, ratings: Ratings) -> None:
        self._ratings = ratings
        self._summary = summary
        self._fold = summary.fold
        self._events = events
        self._planned = {one["stage_id"]: one for one in recorded_stages(summary.fold.plan)}
        self._order = list(dict.fromkeys([*self._planned, *summary.fold.stages]))

    def record(self, folder: str, log_head: str) -> LearningRecord:
        fold, opened, end = self._fold, self._fold.opened, self._summary.end
        assert opened is not None
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
            variant_index=opened.variant_index,
            varied=_varied(opened),
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
            seeds=fold.seeds,
            backend=_backend(fold.backend or opened.backend),
            inputs=opened.inputs,
            stages=stages,
            images=tuple(self._images()),
            missing=tuple(map(_missing, fold.missing())),
        )

    def _stage(self, place: int, stage_id: str) -> StageRecord:
        begun = self._fold.stages.get(stage_id)
        planned = self._planned.get(stage_id, {})
        used, used_varies = used_values(self._infos(begun))
        return StageRecord(
            stage_id=stage_id,
            stage_type=begun.stage_type if begun else _text(planned.get("stage_type")) or "",
            order_index=place,
            outcome=begun.outcome if begun else None,
            image_count=len(begun.finished) if begun else 0,
            unchanged_images=len(begun.unchanged) if begun else 0,
            reused_images=len(begun.reused) if begun else 0,
            duration_ms=begun.duration_ms + begun.open_ms if begun else 0.0,
            attempts=self._summary.attempts[stage_id],
            failed_attempts=self._summary.failed_attempts[stage_id],
            asked=asked_settings(planned.get("config", {})),
            used=used,
            used_varies=used_varies,
        )

    def _infos(self, stage: StageFold | None) -> Iterator[Mapping[str, Any]]:
        """What the server reported for the images that count, without superseded ones."""
        counting = set(stage.finished.values()) if stage else ()
        for event in self._events.select(sorted(counting)):
            if isinstance(event, CallCompleted | CallReused):
                yield event.info

    def _images(self) -> Iterator[ImageRecord]:
        """The images in the order of their indexes, each of the last stage that finished it."""
        opened = self._fold.opened
        furthest: dict[int, tuple[str, int]] = {}
        for stage_id in self._order:
            stage = self._fold.stages.get(stage_id)
            for index, seq in stage.finished.items() if stage else ():
                furthest[index] = (stage_id, seq)
        indexes = sorted(furthest)
        events = self._events.select(furthest[index][1] for index in indexes)
        for index, event in zip(indexes, events, strict=True):
            stage_id, _ = furthest[index]
            origin = input_of(opened, index) if opened else None
            own = prompt_of(opened, index) if opened else None
            artifact = artifact_in(event, index)
            rating = self._ratings.of(artifact.source_sha256)
            yield ImageRecord(
                **msgspec.structs.asdict(artifact),
                stage_id=stage_id,
                input_sha256=self._summary.inputs.get((stage_id, index)),
                server=_address(self._summary.servers.get((stage_id, index))),
                input_name=(input_name(origin) or None) if origin else None,
                prompt=own.prompt if own else None,
                negative_prompt=own.negative_prompt if own else None,
                score=rating.score,
                verdict=rating.verdict,
                tags=rating.tags,
                note=rating.note or None,
            )


def _missing(gap: MissingImage) -> MissingRecord:
    return MissingRecord(
        image_index=gap.image_index,
        stage_id=gap.stage_id,
        error_kind=gap.error.kind if gap.error else None,
    )


def _varied(opened: RunOpened) -> str:
    """The varied settings, as the text of a JSON object; a run may state them as metadata."""
    metadata = opened.config.get("metadata")
    stated = metadata.get("varied") if isinstance(metadata, Mapping) else None
    table = varied_of(opened) or (stated if isinstance(stated, Mapping) else {})
    return msgspec.json.encode(table, order="sorted").decode()


def _error(error: ErrorDetail | None) -> RecordedError:
    if error is None:
        return RecordedError(kind=None, message=None, stage_id=None, image_index=None)
    return RecordedError(
        kind=error.kind,
        message=_public(error.message),
        stage_id=error.stage_id,
        image_index=error.image_index,
    )


def _backend(backend: BackendDescription) -> BackendDescription:
    # Each image has its server, and a record the same keys whether there are several or not.
    return msgspec.structs.replace(backend, url=_address(backend.url), servers=msgspec.UNSET)


@lru_cache  # a run has many images and few servers
def _address(url: str | None) -> str | None:
    return None if url is None else _public(url)


def _public(text: str) -> str:
    """The text without credentials and home folders, because records may be shared."""
    # Loaded on demand: few records need it, and the run waits for its record.
    from ...credentials.rules import without_secrets  # noqa: PLC0415 - see above

    return without_secrets(text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]} ...")


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _time(moment: datetime) -> str:
    """RFC 3339 in UTC with six digits, always. Raises OverflowError."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
