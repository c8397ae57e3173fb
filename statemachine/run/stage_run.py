"""One stage of an epoch: each missing image is requested, kept, recorded and announced."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial

from msgspec import UNSET

from ...events.errors import LogWriteError
from ...events.model import Artifact, CallFailed, CallRequested, Outcome, StepProgress
from ...events.origins import input_of, input_stem
from ..errors import BackendAnswerError, BackendError
from ..files.run_folder import slug_of
from ..plan.plan import PER_IMAGE, StageExecution
from ..ports import (
    Clock,
    ExclusiveBackend,
    GenerateAnswer,
    GenerateRequest,
    ImageBackend,
)
from ..resume.reopen import ReopenedRun
from .cancel_token import CancelToken
from .creation import NewRun
from .dispatcher import RequestDispatcher, StageFailedError
from .image_files import ImageFiles, ImageOrigin
from .journal import RunJournal, error_detail, recordable
from .requests import (
    Sources,
    WantedRequest,
    build_request,
    call_id,
    input_records,
    recordable_info,
    request_seed,
    script_image_records,
    wanted_request,
)
from .reuse import EarlierImages
from .stage_records import StageRecords

OpenRun = NewRun | ReopenedRun
"""A run whose log is open for writing."""


@dataclass(kw_only=True, eq=False)
class StageRun:
    """Runs one stage once; a ``RequestDispatcher`` distributes its requests.

    Images that ``earlier`` runs made of equal requests are copied. A thread sends its next request
    only when the images of the one before are durable and recorded. Images whose source an earlier
    stage has not made are left out.
    """

    stage: StageExecution
    open_run: OpenRun
    journal: RunJournal
    backend: ImageBackend
    files: ImageFiles
    token: CancelToken
    clock: Clock
    look_for_cancel: Callable[[], None]
    earlier: EarlierImages | None = None
    _dispatcher: RequestDispatcher | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._plan, self._status = self.open_run.plan, self.open_run.status
        self._records = StageRecords(self.journal, self.stage, self._plan.total_images)

    def run(self) -> Outcome:
        """Make the images that are missing, and announce those that have not been.

        Returns how the stage ended, CANCELLED if the run is to stop. A stage in which nothing
        is left to do records nothing. Raises StageFailedError, after StageEnd wherever the log
        can still be written, and LogWriteError where StageStart or StageEnd cannot be recorded.
        """
        if self._is_over():
            return self._outcome()
        began = self.clock.monotonic_ms()
        self._records.start()
        try:
            self._announce_unannounced()
            self.files.prepare(self.stage.stage_id)
            self._make_all()
        except Exception as error:
            # A second failure must not hide the first. If the log has failed, the journal
            # refuses this record: the one further try belongs to the transition ``fail``.
            with suppress(LogWriteError):
                self._record_end(began, Outcome.FAILED)
            if isinstance(error, StageFailedError):
                raise
            raise StageFailedError(self.stage.stage_id, None, error) from error
        outcome = Outcome.CANCELLED if self.token.stopping else self._outcome()
        self._record_end(began, outcome)
        return outcome

    def _is_over(self) -> bool:
        """Whether an earlier epoch has ended the stage, and nothing of it is to be done."""
        folded = self.journal.fold.stages.get(self.stage.stage_id)
        return (
            folded is not None
            and folded.outcome == self._outcome()
            and next(self._status.open_spans(self.stage), None) is None
            and not folded.unannounced
        )

    def _outcome(self) -> Outcome:
        """How the stage ends when no request of it is left."""
        valid = self._status.count_valid(self.stage)
        if valid == self._plan.total_images:
            return Outcome.COMPLETED
        return Outcome.PARTIAL if valid else Outcome.FAILED

    def _announce_unannounced(self) -> None:
        """Announce images whose process died between recording and announcing them."""
        stage_id = self.stage.stage_id
        for index in sorted(self.journal.fold.stages[stage_id].unannounced):
            if self._status.is_valid(self.stage, index):
                self._records.progress(self._status.artifact(stage_id, index))

    def _make_all(self) -> None:
        """Work on all open requests, and look for a cancel meanwhile."""
        self._dispatcher = RequestDispatcher(self, self._status.open_spans(self.stage))
        self._dispatcher.run()

    @property
    def is_backend_out_of_reach(self) -> bool:
        """Whether the last attempt of any request found no backend."""
        return self._dispatcher is not None and self._dispatcher.is_out_of_reach

    def next_attempt(self, span: range) -> int:
        """The number of the next attempt at a request, over all epochs."""
        return self.journal.fold.stages[self.stage.stage_id].attempts.get(span.start) or 0

    def attempt(self, span: range, attempt: int, backend: ImageBackend) -> None:
        """Make one attempt at a request, and record its images; nothing if the run is stopping.

        Raises InputImageError before anything is sent, what the backend raises, EventLogError.
        """
        wanted, sources = self._wanted(span), self._sources(span.start)
        url = backend.description.url
        with self._turn(backend) as is_ours:
            if not is_ours:
                return
            request = build_request(
                self.stage, span, attempt, self.journal.fold, wanted, sources, server=url
            )
            self._record_request(request, url)
            began = self.clock.monotonic_ms()
            answer = backend.generate_images(
                request, cancel=self.token, on_step=partial(self._announce_step, request)
            )
        info = recordable_info(answer)
        artifacts = self._keep(answer, request, url)
        self._records.images(
            request.call_id,
            artifacts,
            endpoint=answer.endpoint,
            info=info,
            duration_ms=self.clock.monotonic_ms() - began,
        )

    def _turn(self, backend: ImageBackend) -> AbstractContextManager[bool]:
        if isinstance(backend, ExclusiveBackend):
            return backend.turn(self.token)
        return nullcontext(enter_result=True)

    def reuse(self, span: range) -> bool:
        """Copy the images of an equal request that another run made; whether there were any.

        Raises LogWriteError.
        """
        stage_id = self.stage.stage_id
        if self.earlier is None:
            return False
        if self.journal.fold.stages[stage_id].unsettled.get(span.start):
            return False  # the backend may still work on it, which only a request settles
        wanted = self._wanted(span)
        for found in self.earlier.find(wanted.request_sha256, wanted.config):
            if found.refusal or len(found.artifacts) != len(span):
                continue
            places = [(index, self._origin(index)) for index in span]
            try:
                written = self.files.copy(stage_id, found.folder, found.artifacts, places)
            except OSError:
                continue  # its files are gone, or are not what was recorded
            placed = self.files.place(written, kept=self._finished(span))
            self._records.reused_images(
                placed,
                request_sha256=wanted.request_sha256,
                info=found.info,
                origin=found.origin,
                inputs=wanted.inputs,
                not_checked=found.not_checked,
            )
            return True
        return False

    def _wanted(self, span: range) -> WantedRequest:
        source_id, source = self.stage.input_source, None
        if source_id not in ("prompt", "file"):
            source = self._status.artifact(source_id, span.start).source_sha256
        return wanted_request(self.stage, span, self._plan, self.journal.opened, source)

    def _sources(self, image_index: int) -> Sources:
        """Raises InputImageError for a file that is not what was recorded."""
        opened, source_id = self.journal.opened, self.stage.input_source
        records = script_image_records(self.stage, opened)
        of_scripts = {one.path: self.files.load_input(one) for one in records}
        if source_id == "prompt":
            return Sources(script_images=of_scripts)
        record, mask = input_records(self.stage, image_index, self._plan, opened)
        if record is not None:
            image = self.files.load_input(record)
        else:
            image = self.files.load(self._status.artifact(source_id, image_index))
        return Sources((image,), self.files.load_input(mask) if mask else None, of_scripts)

    def _origin(self, image_index: int) -> ImageOrigin:
        """A stage that takes no seed keeps the seed that made its source."""
        record, source_id = input_of(self.journal.opened, image_index), self.stage.input_source
        seed = request_seed(self.stage.config, image_index, self.journal.opened)
        takes_seed = self._plan.prompts == PER_IMAGE and self.stage.config.inherits("seed")
        if self.stage.config.seed is None and not takes_seed:
            if source_id == "file":
                seed = record.seed if record and record.seed is not None else seed
            elif source_id != "prompt":
                seed = self._status.artifact(source_id, image_index).seed
        return ImageOrigin(seed, slug_of(input_stem(record)) if record else "")

    def _keep(
        self, answer: GenerateAnswer, request: GenerateRequest, url: str | None
    ) -> tuple[Artifact, ...]:
        """Put the images on disk, all of them or none. Raises BackendError, LogWriteError."""
        try:
            span = range(request.image_index, request.image_index + request.count)
            origins = [self._origin(index) for index in span]
            written = self.files.write(answer.images, request, origins)
        except BackendAnswerError as error:
            where = f"{url or ''}{answer.endpoint}"
            raise BackendAnswerError(
                f"{where}: the answer cannot be kept: {error}",
                endpoint=answer.endpoint,
                settled=True,  # It has answered, so it no longer works on the request.
            ) from error
        try:
            if answer.confirm is not None:
                answer.confirm()
        except Exception:
            self.files.discard(written)
            raise
        return self.files.place(written, kept=self._finished(span))

    def _finished(self, span: range) -> dict[int, Artifact]:
        """The valid images of a batch, which is repeated as a whole for the sake of others."""
        return {
            index: self._status.artifact(self.stage.stage_id, index)
            for index in span
            if self._status.is_valid(self.stage, index)
        }

    def _announce_step(
        self,
        request: GenerateRequest,
        step: int,
        steps: int,
        *,
        fraction: float | None = None,
        eta_s: float | None = None,
    ) -> None:
        """The backend's ``on_step``."""
        self.journal.announce_progress(
            StepProgress(
                stage_id=request.stage_id,
                image_index=request.image_index,
                step=step,
                steps=steps,
                fraction=step / max(1, steps) if fraction is None else fraction,
                eta_s=eta_s,
            )
        )

    def _record_request(self, request: GenerateRequest, url: str | None) -> None:
        """Durable before it is sent: a resume must know what a server may still work on."""
        self.journal.record(
            lambda at: CallRequested(
                **at,
                call_id=request.call_id,
                stage_id=request.stage_id,
                image_index=request.image_index,
                count=request.count,
                attempt=request.attempt,
                request_sha256=request.request_sha256,
                inputs=tuple(image.source_sha256 for image in request.inputs),
                server=UNSET if url is None else url,
            )
        )

    def record_failure(
        self, image_index: int, attempt: int, error: Exception, *, will_retry: bool
    ) -> None:
        """Record that an attempt failed."""
        stage_id = self.stage.stage_id
        known = error if isinstance(error, BackendError) else BackendError("")
        self.journal.record(
            lambda at: CallFailed(
                **at,
                call_id=call_id(at["run_id"], stage_id, image_index, attempt),
                endpoint=recordable(str(known.endpoint)),
                error=error_detail(error, stage_id=stage_id, image_index=image_index),
                will_retry=will_retry,
                interrupted=known.interrupted or UNSET,
                settled=known.settled or UNSET,
            )
        )

    def _record_end(self, began: float, outcome: Outcome) -> None:
        duration_ms = self.clock.monotonic_ms() - began
        self._records.end(self._status.count_valid(self.stage), duration_ms, outcome)
