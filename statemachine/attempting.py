"""One request of a stage, tried until its images are made, kept and recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..events.errors import LogWriteError
from ..events.model import (
    Artifact,
    CallCompleted,
    CallFailed,
    CallRequested,
    StageImageProgress,
)
from ..events.progress import StepProgress
from .errors import BackendAnswerError, BackendError, InputImageError
from .journal import RunJournal, error_detail, recordable
from .plan import StageExecution
from .ports import GenerateAnswer, GenerateRequest, OnStep
from .requesting import RequestMaker
from .spans import RequestSpan, call_id
from .workshop import RunStopped, StageFailedError, Workshop

LONGEST_RETRY_WAIT_S = 300.0
"""The longest wait before a further try, whatever the backoff and the backend ask for."""
MAX_INFO_BYTES = 1024 * 1024
"""What an answer may say of itself; a whole record holds 16 MiB."""


class RequestRunner:
    """Makes the images of one stage, request by request; safe from several threads.

    A request leaves only when it is durable in the log; an image is announced only when it is
    durable and recorded.
    """

    def __init__(self, stage: StageExecution, shop: Workshop) -> None:
        self._stage = stage
        self._shop = shop
        self._journal = shop.journal
        self._requests = RequestMaker(stage, shop)

    def make(self, span: RequestSpan) -> None:
        """Try a request until its images are recorded.

        Raises RunStopped, StageFailedError, LogWriteError.
        """
        shop, fold = self._shop, self._journal.stage(self._stage.stage_id)
        try:
            request = self._requests.request(span)
        except InputImageError as changed:
            # Nothing is sent, but the log says why the image is missing.
            attempt = fold.attempts.get(span.image_index) or 0
            unsent = self._call_id(span.image_index, attempt)
            self._record_failure(unsent, span.image_index, changed, will_retry=False)
            raise StageFailedError(self._stage.stage_id, span.image_index, changed) from changed
        for tried in range(shop.retries + 1):
            if shop.token.stopping:
                raise RunStopped
            attempt = fold.attempts.get(span.image_index) or 0
            request = msgspec.structs.replace(
                request,
                attempt=attempt,
                call_id=self._call_id(span.image_index, attempt),
                unanswered=tuple(fold.unsettled.get(span.image_index, ())),
                interrupted=span.image_index in fold.interrupted | fold.suspected,
            )
            error = self._attempt(request)
            if error is None:
                return
            transient = isinstance(error, BackendError) and error.transient
            will_retry = transient and tried < shop.retries and not shop.token.stopping
            self._record_failure(request.call_id, request.image_index, error, will_retry=will_retry)
            # What fails while the run is being stopped may have failed because of that.
            if shop.token.cancelled or (transient and shop.token.stopping):
                raise RunStopped
            if not will_retry:
                raise StageFailedError(request.stage_id, request.image_index, error)
            shop.token.wait_stopping(retry_wait_s(shop.backoff_s * 2**tried, error))

    def _call_id(self, image_index: int, attempt: int) -> str:
        return call_id(self._journal.run_id, self._stage.stage_id, image_index, attempt)

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
        """The images on disk, all of them; none is put there that does not count."""
        images = self._shop.images
        try:
            if len(answer.images) != request.count:
                raise BackendAnswerError(  # noqa: TRY301 - it is completed below, as others are
                    f"{len(answer.images)} images instead of {request.count}"
                )
            written = images.write(answer.images, request)
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
        except Exception:
            images.discard(written)
            raise
        return images.place(written, kept=self._standing_artifacts(request))

    def _standing_artifacts(self, request: GenerateRequest) -> dict[int, Artifact]:
        """The images of a batch that is repeated for another one's sake, by index."""
        standing, stage = self._shop.standing, self._stage
        indexes = range(request.image_index, request.image_index + request.count)
        return {
            index: standing.artifact(stage.stage_id, index)
            for index in indexes
            if standing.stands(stage, index)
        }

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
                endpoint=recordable(endpoint),
                artifacts=artifacts,
                info=info,
                duration_ms=duration_ms,
            )
        )
        for artifact in artifacts:
            announce(self._stage, artifact, self._shop)

    def _record_failure(
        self, call_id: str, image_index: int, error: Exception, *, will_retry: bool
    ) -> None:
        detail = error_detail(error, stage_id=self._stage.stage_id, image_index=image_index)
        known = error if isinstance(error, BackendError) else BackendError("")
        self._journal.record(
            lambda at: CallFailed(
                **at,
                call_id=call_id,
                endpoint=recordable(str(error.endpoint)) if isinstance(error, BackendError) else "",
                error=detail,
                will_retry=will_retry,
                interrupted=known.interrupted or msgspec.UNSET,
                settled=known.settled or msgspec.UNSET,
            )
        )


def retry_wait_s(backoff_s: float, error: Exception) -> float:
    """How long to wait before a further try: the backoff, or longer if the backend asks for it."""
    asked_s = error.retry_after_s if isinstance(error, BackendError) else None
    return min(max(backoff_s, asked_s or 0.0), LONGEST_RETRY_WAIT_S)


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


def announce(stage: StageExecution, artifact: Artifact, shop: Workshop) -> None:
    """Tell, and record, that an image is finished. Raises LogWriteError."""
    shop.journal.record(
        lambda at: StageImageProgress(
            **at,
            stage_id=stage.stage_id,
            stage_type=stage.stage_type,
            image_index=artifact.image_index,
            total_images=shop.plan.total_images,
            artifact=artifact,
        )
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
