"""One epoch of a run: from start or resume to one terminal state."""

from __future__ import annotations

import logging

from ...events.folds import Fold
from ...events.log.memory_log import EventLog
from ...events.model import CancelMode, Durability, Outcome, RunState
from ..errors import InvalidTransitionError, MissingImagesError, StageConflictError
from ..files.run_folder import CancelOrder, RunFolder
from ..plan.plan import StageExecution, StageExecutionPlan
from ..ports import Clock, ImageBackend, InputReader
from ..resume.recorded_plan import recorded_settings
from ..resume.reopen import ReopenedRun
from .cancel import CancelToken
from .files import ImageFiles
from .image_status import ImageStatus
from .journal import RunJournal, error_detail
from .stage_run import StageFailedError, StageRun

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
        epoch: int = 0,
        standing: ImageStatus | None = None,
    ) -> None:
        self._backend = backend
        self._plan = plan
        self._standing = standing or ImageStatus(plan, fold, log.event_at)
        self._folder = folder
        self._clock = clock
        self._journal = RunJournal(log, fold, epoch=epoch, clock=clock)
        config = self._journal.opened.config
        settings = recorded_settings(config)
        self._server, self._run_table = settings.server, settings.run
        durable = self._run_table.durability is not Durability.PROCESS
        self._images = ImageFiles(folder, inputs, durable=durable)
        self._token = CancelToken()
        self._taken_order: CancelOrder | None = None
        self._has_begun = False

    @property
    def state(self) -> RunState:
        """The run's state; its event is durable. IDLE until this epoch has begun."""
        return self._journal.state if self._has_begun else RunState.IDLE

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
            reopened.begin(self._journal, self._backend.description)
            self._begin()
        except BaseException:
            self._journal.close()
            raise

    def _begin(self) -> None:
        # Before the event is announced: a receiver may cancel the run at once.
        self._has_begun = True
        self._journal.move("start")
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
        if not self._has_begun:
            raise InvalidTransitionError("cancel", self.state)
        self._journal.record_cancel(mode, reason)
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
        except Exception as error:
            if self._journal.state != RunState.RUNNING:
                raise
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        reason, detail = f"{type(error).__name__}: {error}", error_detail(error)
        if isinstance(error, StageFailedError):
            reason = str(error)
            detail = error_detail(
                error.cause, stage_id=error.stage_id, image_index=error.image_index
            )
        self._journal.move("fail", reason, detail)

    def give_up(self, error: BaseException) -> None:
        """End a run that was started and cannot be worked on, as far as that is possible."""
        try:
            if self._journal.state == RunState.RUNNING:
                self._fail(error)
                self._journal.record_seal()
        finally:
            self._journal.close()

    def _run_stages(self) -> None:
        """Run each stage, then finish or cancel the run. Raises what the run is to fail with."""
        plan = self._plan
        if plan.conflicts:
            said = "; ".join(str(conflict) for conflict in plan.conflicts)
            _logger.error("run %s: conflicting configuration: %s", self._journal.run_id, said)
            raise StageConflictError(said)
        for stage in plan.stages:
            self._look_for_cancel()
            if self._token.stopping or self._run_stage(stage) is Outcome.CANCELLED:
                self._journal.move("cancel", self._token.reason)
                return
        missing = self._standing.missing()
        if missing:
            raise MissingImagesError(
                f"{len(missing)} of {plan.total_images} images are missing: "
                + ", ".join(f"{gap.image_index} (at {gap.stage_id})" for gap in missing[:5])
                + (", ..." if len(missing) > 5 else "")
            )
        self._journal.move("finish")

    def _run_stage(self, stage: StageExecution) -> Outcome:
        return StageRun(
            stage=stage,
            plan=self._plan,
            journal=self._journal,
            standing=self._standing,
            backend=self._backend,
            images=self._images,
            token=self._token,
            clock=self._clock,
            server=self._server,
            on_image_error=self._run_table.on_image_error,
            look_for_cancel=self._look_for_cancel,
        ).run()

    def _look_for_cancel(self) -> None:
        stamp = self._folder.cancel_stamp()
        order = self._folder.cancel_order()
        if order is None:
            return
        # Two processes may write the same order, and one that cannot be removed is found again.
        if order != self._taken_order:
            self.cancel(order.mode, order.reason)
            self._taken_order = order
        try:
            # A newer order, written while this one was recorded, waits for the next look.
            self._folder.forget_cancel_order(stamp)
        except OSError as error:
            _logger.warning("run %s: cancel.request stays: %s", self._journal.run_id, error)
