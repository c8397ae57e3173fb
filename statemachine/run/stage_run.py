"""One stage of an epoch: each missing image is requested, kept, recorded and announced."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from msgspec import UNSET

from ...events.errors import EventLogError, LogWriteError
from ...events.model import Artifact, CallFailed, CallRequested, Outcome, StepProgress
from ...events.origins import input_of, input_stem
from ..config.schema import OnImageError
from ..errors import BackendAnswerError, BackendError
from ..files.run_folder import slug_of
from ..groups.runner import DEFAULT_WAIT_S, LONGEST_LOOK_S
from ..plan.plan import PER_IMAGE, StageExecution
from ..ports import Clock, GenerateAnswer, GenerateRequest, ImageBackend
from ..resume.reopen import ReopenedRun
from .cancel import CancelToken
from .creation import NewRun
from .image_files import ImageFiles, ImageOrigin
from .journal import RunJournal, error_detail, recordable
from .requests import (
    Sources,
    build_request,
    call_id,
    input_records,
    recordable_info,
    request_seed,
    request_to_find,
    retry_wait_s,
    script_image_records,
)
from .reuse import EarlierImages
from .stage_records import StageRecords

POLL_S = 0.2
"""How often an order to cancel from another process is looked for (contract, section 6)."""


OpenRun = NewRun | ReopenedRun
"""A run whose log is open for writing."""


class StageFailedError(Exception):
    """A stage ended early; ``cause`` says why. ``image_index`` is None if it was no image."""

    def __init__(self, stage_id: str, image_index: int | None, cause: Exception) -> None:
        where = stage_id if image_index is None else f"{stage_id}, image {image_index + 1}"
        super().__init__(f"{where}: {type(cause).__name__}: {cause}")
        self.stage_id = stage_id
        self.image_index = image_index
        self.cause = cause


@dataclass(kw_only=True, eq=False)
class StageRun:
    """Runs one stage once, with a thread for each request that the backend serves at once.

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
    # Guards the three below; no other lock is taken while it is held.
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _spans: Iterator[range] = field(default_factory=lambda: iter(()), init=False)
    _failures: list[BaseException] = field(default_factory=list, init=False)
    _out_of_reach_since: float | None = field(default=None, init=False)

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
        self._spans = self._status.open_spans(self.stage)
        threads: list[threading.Thread] = []
        try:
            for _ in range(max(1, self.backend.slots)):
                # No pool: a pool takes no work once the main thread has ended, a run goes on then.
                thread = threading.Thread(target=self._work, name="stagewright-slot", daemon=False)
                thread.start()
                threads.append(thread)
            for thread in threads:
                while thread.is_alive():
                    thread.join(POLL_S)
                    self.look_for_cancel()
            self.look_for_cancel()
        finally:
            with self._lock:
                self._spans = iter(())
            for thread in threads:
                thread.join()
        if self._failures:
            raise min(self._failures, key=_severity)

    def _work(self) -> None:
        """Make one request after the other, until none is left or one ends the stage."""
        try:
            while not self.token.stopping and (span := self._next_span()) is not None:
                try:
                    self._make(span)
                except Exception as error:
                    raise StageFailedError(self.stage.stage_id, span.start, error) from error
        except BaseException as error:  # noqa: BLE001 - raised on the run's own thread
            with self._lock:
                self._spans = iter(())
                self._failures.append(error)

    def _next_span(self) -> range | None:
        with self._lock:
            return next(self._spans, None)

    def _make(self, span: range) -> None:
        """Try a request until its images or its last failure are recorded, or the run stops.

        Every failure of an image is recorded here. Raises what ends the stage: that failure,
        if ``on_image_error`` is STOP, and every error of the log.
        """
        stage_id, server = self.stage.stage_id, self.open_run.settings.server
        if self._reuse(span):
            return
        tried = waits = 0
        while not self.token.stopping:
            attempt = self.journal.fold.stages[stage_id].attempts.get(span.start) or 0
            try:
                self._attempt(span, attempt)
                self._note_reached()
            except EventLogError:
                raise
            except Exception as error:
                transient = isinstance(error, BackendError) and error.transient
                is_waiting = self._waits_for(error)
                will_retry = is_waiting or (transient and tried < server.retries)
                will_retry = will_retry and not self.token.stopping
                self._record_failure(span.start, attempt, error, will_retry=will_retry)
                # What fails while the run is being stopped may have failed because of that.
                if self.token.cancelled or (transient and self.token.stopping):
                    return
                if not will_retry:
                    if self.open_run.settings.run.on_image_error is OnImageError.STOP:
                        raise
                    return
                if is_waiting:
                    pause_s = min(server.backoff_s * 2**waits, LONGEST_LOOK_S)
                    waits += 1
                else:
                    pause_s = retry_wait_s(server.backoff_s * 2**tried, error)
                    waits, tried = 0, tried + 1
                self.token.wait_stopping(pause_s)
            else:
                return

    def _waits_for(self, error: Exception) -> bool:
        """Whether the error is an unreachable backend for which the run still waits."""
        if not (isinstance(error, BackendError) and error.is_out_of_reach):
            self._note_reached()
            return False
        wait_s = self.open_run.settings.server.wait_s
        now = self.clock.monotonic_ms()
        with self._lock:
            if self._out_of_reach_since is None:
                self._out_of_reach_since = now
            waited_ms = now - self._out_of_reach_since
        limit_ms = 1000 * (DEFAULT_WAIT_S if wait_s is None else wait_s)
        return error.is_restarting or waited_ms < limit_ms

    @property
    def is_backend_out_of_reach(self) -> bool:
        """Whether the last attempt of any request found no backend."""
        return self._out_of_reach_since is not None

    def _note_reached(self) -> None:
        """The backend has been reached; the next time that it is not, the wait begins anew."""
        with self._lock:
            self._out_of_reach_since = None

    def _attempt(self, span: range, attempt: int) -> None:
        """Make the images of one request, and record them.

        Raises InputImageError before anything is sent, what the backend raises, EventLogError.
        """
        sources = self._sources(span.start)
        request = build_request(self.stage, span, attempt, self.journal.fold, sources)
        self._record_request(request)
        began = self.clock.monotonic_ms()
        answer = self.backend.generate_images(
            request, cancel=self.token, on_step=partial(self._announce_step, request)
        )
        info = recordable_info(answer)
        artifacts = self._keep(answer, request)
        self._records.images(
            request.call_id,
            artifacts,
            endpoint=answer.endpoint,
            info=info,
            duration_ms=self.clock.monotonic_ms() - began,
        )

    def _reuse(self, span: range) -> bool:
        """Copy the images of an equal request that another run made; whether there were any.

        Raises LogWriteError.
        """
        stage_id, source = self.stage.stage_id, None
        if self.earlier is None:
            return False
        if self.journal.fold.stages[stage_id].unsettled.get(span.start):
            return False  # the backend may still work on it, which only a request settles
        opened, source_id = self.journal.opened, self.stage.input_source
        if source_id not in ("prompt", "file"):
            source = self._status.artifact(source_id, span.start).source_sha256
        wanted = request_to_find(self.stage, span, self._plan, opened, source)
        for found in self.earlier.find(wanted.request_sha256, wanted.config):
            if len(found.artifacts) != len(span):
                continue
            places = [(index, self._origin(index)) for index in span]
            try:
                written = self.files.copy(stage_id, found.folder, found.artifacts, places)
            except OSError:
                continue  # its files are gone, or are not what was recorded
            placed = self.files.place(written, kept=self._finished(span))
            self._records.reused_images(placed, wanted, found)
            return True
        return False

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

    def _keep(self, answer: GenerateAnswer, request: GenerateRequest) -> tuple[Artifact, ...]:
        """Put the images on disk, all of them or none. Raises BackendError, LogWriteError."""
        try:
            span = range(request.image_index, request.image_index + request.count)
            origins = [self._origin(index) for index in span]
            written = self.files.write(answer.images, request, origins)
        except BackendAnswerError as error:
            where = f"{self.backend.description.url or ''}{answer.endpoint}"
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

    def _record_request(self, request: GenerateRequest) -> None:
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
            )
        )

    def _record_failure(
        self, image_index: int, attempt: int, error: Exception, *, will_retry: bool
    ) -> None:
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


def _severity(failure: BaseException) -> int:
    """Of several failures the smallest is reported: an unwritable disk before failed images."""
    if isinstance(failure, StageFailedError):
        return 1 if isinstance(failure.cause, LogWriteError) else 2
    return 0  # no Exception: it ends the run's thread
