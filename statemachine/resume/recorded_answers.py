"""The answers that a damaged log still records, each with its request and its images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from msgspec import UNSET, UnsetType

from ...events.log.intact_records import SoundRecords
from ...events.model import (
    Artifact,
    CallCompleted,
    CallRequested,
    CallReused,
    ImagesRemoved,
    RunResumed,
    StageEvent,
    StageImageProgress,
)
from ..plan.plan import StageExecution, StageExecutionPlan
from ..run.requests import request_breaks, request_spans, span_of, wanted_request


class AnsweredRequest(NamedTuple):
    """What is known of a request that was answered: as recorded or, if that is lost, as planned."""

    request_sha256: str
    inputs: tuple[str, ...]
    server: str | UnsetType = UNSET


class RecordedAnswer(NamedTuple):
    """The images of one request by index, from the last sound records of them.

    ``place`` is that of CallCompleted or CallReused in the sound records, None if only
    StageImageProgress is left.
    """

    request: AnsweredRequest
    artifacts: dict[int, Artifact]
    place: int | None


class RecordedAnswers:
    """The answers to the requests of every stage; ``backend`` is the last that worked on the run.

    Raises LogCorruptError if the log changes while it is read, and OSError.
    """

    def __init__(self, records: SoundRecords, plan: StageExecutionPlan) -> None:
        self.backend = records.opened.backend
        self.removed: set[str] = set()
        """The paths of images whose files were removed on purpose."""
        self.plan = plan
        self._opened = records.opened
        self._breaks = request_breaks(records.opened)
        self._stages = {stage.stage_id: stage for stage in plan.stages}
        self._requests: dict[tuple[str, int], CallRequested] = {}
        self._answers: dict[tuple[str, int], RecordedAnswer] = {}
        for place, record in enumerate(records):
            event = record.event
            if isinstance(event, RunResumed):
                self.backend = event.backend
            elif isinstance(event, ImagesRemoved):
                self.removed.update(artifact.path for artifact in event.artifacts)
            elif isinstance(event, CallRequested):
                self._requests[event.stage_id, event.image_index] = event
            elif isinstance(event, CallCompleted | CallReused):
                self._take(event, event.artifacts, place)
            elif isinstance(event, StageImageProgress):
                self._take(event, [event.artifact], None)

    def of_stage(self, stage: StageExecution) -> Iterator[RecordedAnswer]:
        """The whole answers of a stage whose images were made from the last recorded sources."""
        for span in request_spans(stage, self.plan, self._breaks):
            answer = self._answers.get((stage.stage_id, span.start))
            if answer is not None and len(answer.artifacts) == len(span):
                sources = [self._source(stage, index) for index in span]
                if all(one is None or one in answer.request.inputs for one in sources):
                    yield answer

    def _source(self, stage: StageExecution, index: int) -> str | None:
        """The digest of the recorded image that a stage makes an image from, if there is one."""
        source = self._stages.get(stage.input_source)
        if source is None:
            return None
        first = span_of(source, index, self.plan, self._breaks).start
        answer = self._answers.get((source.stage_id, first))
        artifact = answer.artifacts.get(index) if answer else None
        return artifact.source_sha256 if artifact else None

    def _take(self, event: StageEvent, artifacts: Sequence[Artifact], place: int | None) -> None:
        for artifact in artifacts:
            folder, _, stage_id = artifact.path.rpartition("/")[0].partition("/")
            stage, index = self._stages.get(stage_id), artifact.image_index
            # A forged record may name any path; only an image in its stage's folder is taken.
            if folder != "images" or stage is None or index >= self.plan.total_images:
                continue
            span = span_of(stage, index, self.plan, self._breaks)
            known = self._answers.get((stage_id, span.start))
            if known and known.artifacts.get(index) == artifact and place is None:
                continue  # It announces an image of an answer that is recorded.
            if known is None or index in known.artifacts or place not in (None, known.place):
                request = self._request(stage, span, event)
                if request is None:
                    continue
                known = RecordedAnswer(request, {}, place)
                self._answers[stage_id, span.start] = known
            known.artifacts[index] = artifact

    def _request(
        self, stage: StageExecution, span: range, event: StageEvent
    ) -> AnsweredRequest | None:
        """The request that ``event`` answers; None if it is not known what it was made from."""
        if isinstance(event, CallReused):
            return AnsweredRequest(event.request_sha256, event.inputs)
        recorded = self._requests.get((stage.stage_id, span.start))
        if recorded and getattr(event, "call_id", recorded.call_id) == recorded.call_id:
            return AnsweredRequest(recorded.request_sha256, recorded.inputs, recorded.server)
        source = None
        if stage.input_source in self._stages:
            # The source that is recorded so far: a later one would be another image.
            source = self._source(stage, span.start)
            if source is None:
                return None
        wanted = wanted_request(stage, span, self.plan, self._opened, source)
        return AnsweredRequest(wanted.request_sha256, wanted.inputs)
