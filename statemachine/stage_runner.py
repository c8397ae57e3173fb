"""One stage of a run: every image asked for, kept, recorded, and only then announced."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import msgspec

from ..events.errors import LogWriteError
from ..events.model import (
    Artifact,
    CallCompleted,
    CallFailed,
    CallRequested,
    Outcome,
    StageEnd,
    StageImageProgress,
    StageStart,
)
from .cancel import CancelToken
from .config import OnImageError
from .errors import BackendAnswerError, BackendError
from .image_files import ImageFiles
from .journal import Envelope, RunJournal, error_detail, recordable
from .plan import StageExecution, StageExecutionPlan
from .ports import (
    Clock,
    GenerateAnswer,
    GenerateRequest,
    ImageBackend,
    OnStep,
    StepProgress,
)
from .requesting import RequestMaker
from .spans import (
    RequestSpan,
    call_id,
    request_spans,
    stage_metadata,
)

POLL_S = 0.2
"""How often an order to cancel from another process is looked for (contract, section 6)."""
LONGEST_RETRY_WAIT_S = 300.0
"""The wait before a further try doubles with each one, up to this."""
MAX_INFO_BYTES = 1024 * 1024
"""What an answer may say of itself; a whole record holds 16 MiB."""


class Workshop(msgspec.Struct, frozen=True):
    """What the stages of one run share."""

    plan: StageExecutionPlan
    journal: RunJournal
    backend: ImageBackend
    images: ImageFiles
    token: CancelToken
    clock: Clock
    pool: ThreadPoolExecutor
    slots: int
    on_image_error: OnImageError
    retries: int
    backoff_s: float
    look_for_cancel: Callable[[], None]


class RunStopped(Exception):  # noqa: N818 - not an error: the run was asked to stop
    """A stage ended early because the run is being cancelled."""


class StageFailedError(Exception):
    """A stage ended early because an image failed for good; ``cause`` says why."""

    def __init__(self, stage_id: str, image_index: int, cause: BaseException) -> None:
        super().__init__(f"{stage_id}, image {image_index}: {type(cause).__name__}: {cause}")
        self.stage_id = stage_id
        self.image_index = image_index
        self.cause = cause


class StageRunner:
    """Works through one stage, keeping ``backend.slots`` requests in flight.

    Each image is recorded as it is finished; a request leaves only when the one before it in
    its slot is durable. Images that an earlier stage lost are passed over.
    """

    def __init__(self, stage: StageExecution, shop: Workshop) -> None:
        self._stage = stage
        self._shop = shop
        self._journal = shop.journal
        self._requests = RequestMaker(stage, shop.plan, shop.journal, shop.images)

    def run(self) -> None:
        """Make what is not finished yet.

        Raises RunStopped, StageFailedError, LogWriteError, each after the stage's StageEnd
        wherever the log can still be written.
        """
        stage, total = self._stage, self._shop.plan.total_images
        began = self._shop.clock.monotonic_ms()
        self._journal.record(
            lambda at: StageStart(
                **at,
                stage_id=stage.stage_id,
                stage_type=stage.stage_type,
                order_index=stage.order_index,
                total_images=total,
                metadata=stage_metadata(stage),
            )
        )
        try:
            self._shop.images.prepare(stage.stage_id)
            self._make_all()
        except RunStopped:
            self._end(began, Outcome.CANCELLED)
            raise
        except StageFailedError as failed:
            # After a failed write the log's one further try belongs to the lifecycle.
            if not isinstance(failed.cause, LogWriteError):
                self._end(began, Outcome.FAILED)
            raise
        finished = self._journal.stage(stage.stage_id).finished.count
        if finished == total:
            self._end(began, Outcome.COMPLETED)
        else:
            self._end(began, Outcome.PARTIAL if finished else Outcome.FAILED)

    def _end(self, began: float, outcome: Outcome) -> None:
        stage = self._stage
        duration = self._shop.clock.monotonic_ms() - began
        self._journal.record(
            lambda at: StageEnd(
                **at,
                stage_id=stage.stage_id,
                stage_type=stage.stage_type,
                image_count=self._journal.stage(stage.stage_id).finished.count,
                duration_ms=duration,
                outcome=outcome,
            )
        )

    def _make_all(self) -> None:
        """Let each slot make one request after the other, and look for a cancel meanwhile."""
        shop = self._shop
        spans = _Spans(self._open_spans())
        slots = {shop.pool.submit(self._work_off, spans) for _ in range(shop.slots)}
        open_slots = slots
        try:
            while open_slots:
                _, open_slots = wait(open_slots, timeout=POLL_S)
                shop.look_for_cancel()
        finally:
            spans.close()
        failed: StageFailedError | None = None
        for slot in slots:
            failed = _graver(failed, slot.result())
        if failed is not None:
            raise failed
        if shop.token.stopping:
            raise RunStopped

    def _work_off(self, spans: _Spans) -> StageFailedError | None:
        """Make requests until none is left; the failure that ends the stage, if it came to one.

        Runs on one of the pool's threads.
        """
        while not self._shop.token.stopping and (span := spans.take()) is not None:
            failed = self._outcome_of(span)
            if failed is not None:
                spans.close()
                return failed
        return None

    def _open_spans(self) -> Iterator[RequestSpan]:
        """The requests whose images are not all finished and whose sources are there."""
        finished = self._journal.stage(self._stage.stage_id).finished
        sources = self._journal.fold.stages.get(self._stage.input_source)
        for span in request_spans(self._stage, self._shop.plan.total_images):
            if all(finished.get(index) is not None for index in span.indexes()):
                continue
            if sources is None or sources.finished.get(span.image_index) is not None:
                yield span

    def _outcome_of(self, span: RequestSpan) -> StageFailedError | None:
        """Make the images of one request; the failure that ends the stage, if it came to one."""
        try:
            self._try_until_made(span)
        except RunStopped:
            return None
        except StageFailedError as failed:
            stop = self._shop.on_image_error == OnImageError.STOP
            return failed if stop else None
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the stage by name
            failure = StageFailedError(self._stage.stage_id, span.image_index, error)
            failure.__cause__ = error
            stop = self._shop.on_image_error == OnImageError.STOP
            return failure if stop or isinstance(error, LogWriteError) else None
        return None

    def _try_until_made(self, span: RequestSpan) -> None:
        shop, fold = self._shop, self._journal.stage(self._stage.stage_id)
        request = self._requests.request(span)
        for tried in range(shop.retries + 1):
            if shop.token.stopping:
                raise RunStopped
            attempt = fold.attempts.get(span.image_index) or 0
            request = msgspec.structs.replace(
                request,
                attempt=attempt,
                call_id=call_id(request.run_id, request.stage_id, request.image_index, attempt),
                unanswered=fold.unsettled.get(span.image_index, ()),
                interrupted=span.image_index in fold.interrupted,
            )
            error = self._attempt(request)
            if error is None:
                return
            transient = isinstance(error, BackendError) and error.transient
            will_retry = transient and tried < shop.retries and not shop.token.stopping
            self._record_failure(request, error, will_retry=will_retry)
            # What fails while the run is being stopped may have failed because of that.
            if shop.token.cancelled or (transient and shop.token.stopping):
                raise RunStopped
            if not will_retry:
                raise StageFailedError(request.stage_id, request.image_index, error)
            shop.token.wait_stopping(min(shop.backoff_s * 2**tried, LONGEST_RETRY_WAIT_S))

    def _attempt(self, request: GenerateRequest) -> Exception | None:
        """One attempt, recorded if it gave the images; else the error.

        Raises LogWriteError, which no further attempt can mend.
        """
        shop = self._shop
        self._journal.record(
            lambda at: CallRequested(
                **at,
                call_id=request.call_id,
                stage_id=request.stage_id,
                image_index=request.image_index,
                count=request.count,
                attempt=request.attempt,
                request_sha256=request.request_sha256,
                inputs=tuple(image.source_sha256 for image in request.inputs),
            )
        )
        began = shop.clock.monotonic_ms()
        try:
            answer = shop.backend.generate_images(
                request, cancel=shop.token, on_step=_progress_teller(self._journal, request)
            )
            info = _checked_info(answer)
            artifacts = self._keep(answer, request)
        except LogWriteError:
            raise
        except Exception as error:  # noqa: BLE001 - a backend may raise anything; it is recorded
            return error
        duration = shop.clock.monotonic_ms() - began
        self._record_success(request, answer.endpoint, info, artifacts, duration)
        return None

    def _keep(self, answer: GenerateAnswer, request: GenerateRequest) -> tuple[Artifact, ...]:
        """The images on disk, all of them; none is left there that does not count."""
        images = self._shop.images
        try:
            if len(answer.images) != request.count:
                raise BackendAnswerError(  # noqa: TRY301 - it is completed below, as others are
                    f"{len(answer.images)} images instead of {request.count}"
                )
            artifacts = images.save(answer.images, request)
        except BackendAnswerError as error:
            where = f"{self._shop.backend.description.url or ''}{answer.endpoint}"
            raise BackendAnswerError(
                f"{where}: the answer cannot be kept: {error}",
                endpoint=answer.endpoint,
                settled=True,  # It has answered, whatever it said.
            ) from error
        try:
            if answer.confirm is not None:
                answer.confirm()
        except BackendError:
            finished = self._journal.stage(self._stage.stage_id).finished
            images.remove([one for one in artifacts if finished.get(one.image_index) is None])
            raise
        return artifacts

    def _record_success(
        self,
        request: GenerateRequest,
        endpoint: str,
        info: Mapping[str, Any],
        artifacts: tuple[Artifact, ...],
        duration_ms: float,
    ) -> None:
        self._journal.record(
            lambda at: CallCompleted(
                **at,
                call_id=request.call_id,
                endpoint=endpoint,
                artifacts=artifacts,
                info=info,
                duration_ms=duration_ms,
            )
        )
        for artifact in artifacts:
            self._journal.record(partial(_image_progress, request, artifact))

    def _record_failure(
        self, request: GenerateRequest, error: Exception, *, will_retry: bool
    ) -> None:
        detail = error_detail(error, stage_id=request.stage_id, image_index=request.image_index)
        known = error if isinstance(error, BackendError) else BackendError("")
        self._journal.record(
            lambda at: CallFailed(
                **at,
                call_id=request.call_id,
                endpoint=recordable(str(error.endpoint)) if isinstance(error, BackendError) else "",
                error=detail,
                will_retry=will_retry,
                interrupted=known.interrupted or msgspec.UNSET,
                settled=known.settled or msgspec.UNSET,
            )
        )


class _Spans:
    """Hands out a stage's requests, in order, to whichever slot is free."""

    def __init__(self, spans: Iterator[RequestSpan]) -> None:
        self._spans: Iterator[RequestSpan] | None = spans
        self._lock = threading.Lock()

    def take(self) -> RequestSpan | None:
        """The next one; None when there is none, or no more is to be begun."""
        with self._lock:
            return None if self._spans is None else next(self._spans, None)

    def close(self) -> None:
        """Hand out no more."""
        with self._lock:
            self._spans = None


def _graver(
    first: StageFailedError | None, second: StageFailedError | None
) -> StageFailedError | None:
    """The one that ends the stage: a log that cannot be written before all else."""
    if first is None or (second is not None and isinstance(second.cause, LogWriteError)):
        return second
    return first


def _checked_info(answer: GenerateAnswer) -> Mapping[str, Any]:
    """What the backend says it used, as JSON values. Raises BackendAnswerError."""
    try:
        data = msgspec.json.encode(answer.info)
        info = msgspec.json.decode(data, type=dict[str, Any])
        msgspec.convert(answer.endpoint, str)
    except (ValueError, TypeError, RecursionError) as error:
        raise BackendAnswerError(f"the backend's answer cannot be recorded: {error}") from error
    if len(data) > MAX_INFO_BYTES:
        raise BackendAnswerError(
            f"the backend's info takes {len(data)} bytes, not {MAX_INFO_BYTES}"
        )
    return info


def _image_progress(
    request: GenerateRequest, artifact: Artifact, at: Envelope
) -> StageImageProgress:
    return StageImageProgress(
        **at,
        stage_id=request.stage_id,
        stage_type=request.stage_type,
        image_index=artifact.image_index,
        total_images=request.total_images,
        artifact=artifact,
    )


def _progress_teller(journal: RunJournal, request: GenerateRequest) -> OnStep:
    def on_step(
        step: int, steps: int, *, fraction: float | None = None, eta_s: float | None = None
    ) -> None:
        journal.announce_progress(
            StepProgress(
                stage_id=request.stage_id,
                image_index=request.image_index,
                step=step,
                steps=steps,
                fraction=step / max(1, steps) if fraction is None else fraction,
                eta_s=eta_s,
            )
        )

    return on_step
