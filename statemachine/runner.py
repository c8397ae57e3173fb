"""Runs a plan: from start to one terminal state, every fact through the journal."""

from __future__ import annotations

import logging

from ..events.errors import LogWriteError
from ..events.folding import Fold
from ..events.log import EventLog
from ..events.model import CancelMode, CancelRequested, RunState
from .cancel import CancelToken
from .config import RunTable, ServerTable
from .errors import InvalidTransitionError, MissingImagesError, StageConflictError
from .image_files import ImageFiles
from .journal import RunJournal, error_detail, recordable
from .lifecycle import RunLifecycle
from .plan import StageExecutionPlan
from .ports import Clock, ImageBackend, InputReader
from .resume.recorded_plan import recorded_table
from .resume.reopen import ReopenedRun
from .run.image_status import ImageStatus
from .run_folder import CancelOrder, RunFolder
from .stage_runner import StageRunner
from .workshop import RunStopped, StageFailedError, Workshop

_logger = logging.getLogger("stagewright.runner")


class PipelineRunner:
    """Runs one epoch of one run, whose log is open and whose ``fold`` is up to date.

    ``start`` moves the lifecycle to RUNNING; ``work`` does everything after and returns when
    the run has reached a terminal state, sealed. Only ``cancel`` may be called meanwhile.
    """

    def __init__(
        self,
        *,
        backend: ImageBackend,
        log: EventLog,
        fold: Fold,
        plan: StageExecutionPlan,
        folder: RunFolder,
        inputs: InputReader,
        clock: Clock,
        durable: bool = True,
        epoch: int = 0,
        standing: ImageStatus | None = None,
    ) -> None:
        self._backend = backend
        self._plan = plan
        self._standing = standing or ImageStatus(plan, fold, log.event_at)
        self._folder = folder
        self._clock = clock
        self._journal = RunJournal(log, fold, epoch=epoch, clock=clock)
        self._lifecycle = RunLifecycle(self._journal.record_transition, initial=fold.state)
        self._images = ImageFiles(folder, inputs, durable=durable)
        self._token = CancelToken()
        self._taken_order: CancelOrder | None = None
        self._has_begun = False

    @property
    def state(self) -> RunState:
        """The run's state; its event is durable. IDLE until this epoch has begun."""
        return self._lifecycle.state if self._has_begun else RunState.IDLE

    def start(self) -> None:
        """IDLE -> RUNNING. Raises InvalidTransitionError, LogWriteError."""
        _logger.info("run %s: %s", self._journal.run_id, self._plan.summary)
        try:
            self._journal.announce_opening()
            self._begin()
        except BaseException:
            self._journal.close()
            raise

    def resume(self, reopened: ReopenedRun) -> None:
        """Go on with a run, from whatever state its log ends in to RUNNING.

        Raises LogWriteError.
        """
        _logger.info("run %s: resumed: %s", self._journal.run_id, self._plan.summary)
        try:
            reopened.begin(self._journal, self._lifecycle, self._backend.description)
            self._begin()
        except BaseException:
            self._journal.close()
            raise

    def _begin(self) -> None:
        # Before the event is told: whoever hears of it may cancel at once.
        self._has_begun = True
        self._lifecycle.start()
        self._journal.flush()

    def finish_off(self, reopened: ReopenedRun) -> None:
        """End a run whose images are all there: its log gets the seal that it lacks, if any.

        Raises LogWriteError.
        """
        try:
            reopened.seal(self._journal)
        finally:
            self._journal.close()

    def cancel(self, mode: CancelMode, reason: str) -> None:
        """Record that the run is to stop, then tell the backend.

        Raises InvalidTransitionError unless the run is RUNNING, LogWriteError.
        """
        with self._lifecycle.held() as state:
            if not self._has_begun or state != RunState.RUNNING:
                raise InvalidTransitionError("cancel", self.state)
            self._journal.record(
                lambda at: CancelRequested(**at, reason=recordable(reason), mode=mode),
                flush=False,
            )
        self._token.request(mode, reason)
        self._journal.flush()

    def work(self) -> None:
        """Run every stage of the plan.

        Raises LogWriteError when not even the failure could be recorded; the log then ends
        in RUNNING and a resume records it.
        """
        try:
            self._run_to_the_end()
            self._journal.record_seal()
        finally:
            self._journal.close()

    def _run_to_the_end(self) -> None:
        try:
            self._run_stages()
        except RunStopped:
            self._cancel_or_fail()
        except StageFailedError as failed:
            detail = error_detail(
                failed.cause, stage_id=failed.stage_id, image_index=failed.image_index
            )
            self._lifecycle.fail(str(failed), detail)
        except Exception as error:
            if self._lifecycle.state != RunState.RUNNING:
                raise
            self._lifecycle.fail(f"{type(error).__name__}: {error}", error_detail(error))

    def _cancel_or_fail(self) -> None:
        try:
            self._lifecycle.cancel(self._token.reason)
        except LogWriteError as error:
            self._lifecycle.fail(f"LogWriteError: {error}", error_detail(error))

    def give_up(self, error: BaseException) -> None:
        """End a run that was started and cannot be worked on, as far as that is possible."""
        try:
            if self._lifecycle.state == RunState.RUNNING:
                self._lifecycle.fail(f"{type(error).__name__}: {error}", error_detail(error))
                self._journal.record_seal()
        finally:
            self._journal.close()

    def _run_stages(self) -> None:
        plan = self._plan
        if plan.conflicts:
            said = "; ".join(str(conflict) for conflict in plan.conflicts)
            _logger.error("run %s: conflicting configuration: %s", self._journal.run_id, said)
            raise StageConflictError(said)
        shop = self._workshop()
        for stage in plan.stages:
            self._look_for_cancel()
            if self._token.stopping:
                raise RunStopped
            StageRunner(stage, shop).run()
        missing = self._standing.missing()
        if missing:
            raise MissingImagesError(
                f"{len(missing)} of {plan.total_images} images are missing: "
                + ", ".join(f"{gap.image_index} (at {gap.stage_id})" for gap in missing[:5])
                + (", ..." if len(missing) > 5 else "")
            )
        self._lifecycle.finish()

    def _workshop(self) -> Workshop:
        config = self._journal.opened.config
        server = recorded_table(config, "server", ServerTable)
        return Workshop(
            plan=self._plan,
            journal=self._journal,
            standing=self._standing,
            backend=self._backend,
            images=self._images,
            token=self._token,
            clock=self._clock,
            slots=max(1, self._backend.slots),
            on_image_error=recorded_table(config, "run", RunTable).on_image_error,
            retries=server.retries,
            backoff_s=server.backoff_s,
            look_for_cancel=self._look_for_cancel,
        )

    def _look_for_cancel(self) -> None:
        stamp = self._folder.cancel_stamp()
        order = self._folder.cancel_order()
        if order is None:
            return
        # Two processes may write the same order, and one that cannot be removed is found again.
        if order != self._taken_order:
            self.cancel(order.mode, order.reason)
            self._taken_order = order
        # A newer order, written while this one was recorded, waits for the next look.
        if self._folder.cancel_stamp() != stamp:
            return
        try:
            self._folder.forget_cancel_order()
        except OSError as error:
            _logger.warning("run %s: cancel.request stays: %s", self._journal.run_id, error)
