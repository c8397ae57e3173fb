"""The images that a damaged log still vouches for, and the requests that they answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ...events.log.sound_records import SoundRecords
from ...events.model import (
    Artifact,
    CallCompleted,
    CallRequested,
    RunResumed,
    StageEvent,
    StageImageProgress,
)
from ..plan.plan import StageExecution, StageExecutionPlan
from ..ports import SourceImage
from ..run.requests import request_digest, request_spans, stage_seed


class RecordedImage(NamedTuple):
    """One image, from the last sound record of it.

    ``request`` is as recorded or, if that record is lost, as the plan has it. ``answer`` is the
    place of its CallCompleted in the sound records, None if only StageImageProgress is left.
    """

    artifact: Artifact
    request: CallRequested
    answer: int | None


class RecordedImages:
    """The images of every stage of the plan; ``backend`` is the last that worked on the run.

    Raises LogCorruptError if the log changes while it is read, and OSError.
    """

    def __init__(self, records: SoundRecords, plan: StageExecutionPlan) -> None:
        self.backend = records.opened.backend
        self.plan = plan
        self._opened = records.opened
        self._stages = {stage.stage_id: stage for stage in plan.stages}
        self._spans = {
            stage.stage_id: list(request_spans(stage, plan.total_images)) for stage in plan.stages
        }
        self._requests: dict[tuple[str, int], CallRequested] = {}
        self._images: dict[tuple[str, int], RecordedImage] = {}
        for place, record in enumerate(records):
            self._take(record.event, place)

    def by_request(self, stage: StageExecution) -> Iterator[list[RecordedImage]]:
        """The images of each request of a stage of which all images count, by index.

        An image does not count if its source has been made again since, and is another one.
        """
        for span in self._spans[stage.stage_id]:
            found = [self._images.get((stage.stage_id, index)) for index in span]
            images = [image for image in found if image and self._is_current(stage, image)]
            if len(images) == len(span):
                yield images

    def _is_current(self, stage: StageExecution, image: RecordedImage) -> bool:
        source = self._images.get((stage.input_source, image.artifact.image_index))
        return source is None or source.artifact.source_sha256 in image.request.inputs

    def _take(self, event: StageEvent, place: int) -> None:
        if isinstance(event, RunResumed):
            self.backend = event.backend
        elif isinstance(event, CallRequested):
            self._requests[event.stage_id, event.image_index] = event
        elif isinstance(event, CallCompleted):
            for artifact in event.artifacts:
                self._note(artifact, event, place)
        elif isinstance(event, StageImageProgress):
            self._note(event.artifact, event, None)

    def _note(
        self, artifact: Artifact, event: CallCompleted | StageImageProgress, answer: int | None
    ) -> None:
        folder, _, stage_id = artifact.path.rpartition("/")[0].partition("/")
        stage, index = self._stages.get(stage_id), artifact.image_index
        # A forged record may name any path; only an image in its stage's folder is taken.
        if folder != "images" or stage is None or index >= self.plan.total_images:
            return
        known = self._images.get((stage_id, index))
        if answer is None and known is not None and known.artifact == artifact:
            return  # The announcement of an answer that is there.
        spans = self._spans[stage_id]
        span = spans[index // len(spans[0])]
        request = self._requests.get((stage_id, span.start))
        if isinstance(event, CallCompleted) and request and request.call_id != event.call_id:
            request = None
        request = request or self._planned_request(stage, span, event)
        if request is not None:
            self._images[stage_id, index] = RecordedImage(artifact, request, answer)

    def _planned_request(
        self, stage: StageExecution, span: range, event: StageEvent
    ) -> CallRequested | None:
        """A request whose record is lost; None if it is not known what it was made from.

        Its source is the one that is recorded so far: a later one would be another image.
        """
        opened, config = self._opened, stage.config
        inputs: tuple[str, ...] = ()
        if stage.input_source == "file":
            record = opened.inputs[span.start // self.plan.images_per_input]
            inputs = (record.source_sha256,)
        elif stage.input_source != "prompt":
            source = self._images.get((stage.input_source, span.start))
            if source is None:
                return None
            inputs = (source.artifact.source_sha256,)
        mask = config.mask if inputs else None
        masks = [_by_digest(one.source_sha256) for one in opened.inputs if one.path == mask]
        sources = (tuple(map(_by_digest, inputs)), masks[0] if masks else None)
        seed = stage_seed(config, opened.seeds[0]) + span.start
        return CallRequested(
            run_id=event.run_id,
            seq=event.seq,
            ts=event.ts,
            call_id="",
            stage_id=stage.stage_id,
            image_index=span.start,
            count=len(span),
            attempt=0,
            request_sha256=request_digest(stage, seed, len(span), sources),
            inputs=inputs,
        )


def _by_digest(source_sha256: str) -> SourceImage:
    """An image of which only the digest matters."""
    return SourceImage(data=b"", source_sha256=source_sha256, media_type="", width=0, height=0)
