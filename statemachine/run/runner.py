"""One epoch of a run: from start or resume to one terminal state."""

from __future__ import annotations

import logging

from ...events.folds import ABANDONED
from ...events.model import (
    CallFailed,
    CancelMode,
    ErrorDetail,
    Outcome,
    RunState,
    StorageLimited,
)
from ..errors import InvalidTransitionError, MissingImagesError, StageConflictError
from ..files.run_folder import CancelOrder
from ..plan.plan import StageExecution
from ..ports import Clock, ImageBackend, InputReader
from .cancel_token import CancelToken
from .dispatcher import StageFailedError
from .image_files import ImageFiles
from .journal import RunJournal, error_detail
from .requests import unsettled_calls
from .reuse import EarlierImages
from .stage_run import OpenRun, StageRun

_SHOWN = 5
_logger = logging.getLogger("stagewright.runner")


class PipelineRunner:
    """Runs one epoch of one run, which was just made or reopened.

    ``start`` moves the lifecycle to RUNNING; ``work`` does everything after and returns when
    the run has reached a terminal state, sealed. Only ``cancel`` may be called meanwhile.
    """

    def __init__(
        self,
        open_run: OpenRun,
        *,
        backend: ImageBackend,
        inputs: InputReader,
        clock: Clock,
        earlier: EarlierImages | None = None,
    ) -> None:
        self._open_run = open_run
        self._folder = open_run.folder
        self._backend = backend
        self._clock = clock
        self._journal = RunJournal(open_run.log, open_run.fold, epoch=open_run.epoch, clock=clock)
        self._files = ImageFiles(open_run.folder, inputs)
        self._earlier = earlier
        self._token = CancelToken()
        self._recorded_order: CancelOrder | None = None
        self._has_begun = False
        self.is_backend_out_of_reach = False
        """Whether images are missing because the backend could not be reached any more."""

    @property
    def state(self) -> RunState:
        """The run's state; its event is durable. IDLE until this epoch has begun."""
        return self._journal.state if self._has_begun else RunState.IDLE

    def start(self) -> None:
        """Move the run to RUNNING, from any state that its log ends in.

        Raises InvalidTransitionError, LogWriteError; the log is closed then.
        """
        _logger.info("run %s: %s", self._journal.run_id, self._open_run.plan.summary)
        try:
            self._open_run.begin(self._journal, self._backend.description)
            # Before the event is announced: a receiver may cancel the run at once.
            self._has_begun = True
            self._journal.move("start")
            self._journal.flush()
        except BaseException:
            self._journal.close()
            raise

    def cancel(self, mode: CancelMode, reason: str) -> None:
        """Record that the run is to stop, then tell the backend.

        Raises InvalidTransitionError unless the run is RUNNING, LogWriteError.
        """
        if not self._has_begun:
            raise InvalidTransitionError("cancel", self.state)
        # CancelRequested is durable before the token stops the backend, or a resume could not
        # know that an image which the server keeps may be half made.
        self._journal.record_cancel(mode, reason)
        self._token.request(mode, reason)
        self._journal.flush()

    def work(self) -> None:
        """Run every stage of the plan.

        Raises LogWriteError when not even the failure could be recorded; the log then ends
        in RUNNING and a resume records it.
        """
        try:
            try:
                self._run_stages()
            except Exception as error:
                if self._journal.state != RunState.RUNNING:
                    raise
                self._fail(error)
            self._journal.record_seal()
        finally:
            self._journal.close()

    def give_up(self, error: BaseException) -> None:
        """End a run that was started and cannot be worked on. Raises LogWriteError."""
        try:
            self._fail(error)
            self._journal.record_seal()
        finally:
            self._journal.close()

    def _fail(self, error: BaseException) -> None:
        reason, detail = f"{type(error).__name__}: {error}", error_detail(error)
        if isinstance(error, StageFailedError):
            reason = str(error)
            detail = error_detail(
                error.cause, stage_id=error.stage_id, image_index=error.image_index
            )
        self._journal.move("fail", reason, detail)

    def _run_stages(self) -> None:
        """Run each stage, then finish or cancel the run. Raises what the run is to fail with."""
        plan = self._open_run.plan
        self._record_storage_limits()
        self._abandon_calls()
        if plan.conflicts:
            said = "; ".join(str(conflict) for conflict in plan.conflicts)
            _logger.error("run %s: conflicting configuration: %s", self._journal.run_id, said)
            raise StageConflictError(said)
        for stage in plan.stages:
            self._look_for_cancel()
            if self._token.stopping or self._run_stage(stage) is Outcome.CANCELLED:
                self._journal.move("cancel", self._token.reason)
                return
        missing = self._open_run.status.missing()
        if missing:
            named = [f"{gap.image_index + 1} (at {gap.stage_id})" for gap in missing[:_SHOWN]]
            raise MissingImagesError(
                f"{len(missing)} of {plan.total_images} images are missing: "
                + ", ".join([*named, "..."] if len(missing) > _SHOWN else named)
            )
        self._journal.move("finish")

    def _record_storage_limits(self) -> None:
        """Record what the file system of the run cannot guarantee."""
        for what, number in self._folder.storage.limits.items():
            self._journal.record(lambda at: StorageLimited(**at, what=what, errno=number))  # noqa: B023 - called at once

    def _abandon_calls(self) -> None:
        """Record that servers which no longer belong to the run are waited for no more."""
        present = self._backend.description.urls
        for call in [*unsettled_calls(self._journal.fold)]:
            if call.server in present:
                continue
            message = f"{call.server or 'its backend'} no longer belongs to the run"
            error = ErrorDetail(kind=ABANDONED, message=message)
            self._journal.record(
                lambda at: CallFailed(
                    **at,
                    call_id=call.call_id,  # noqa: B023 - called at once
                    endpoint="",
                    error=error,  # noqa: B023 - the same
                    will_retry=False,
                    settled=True,
                )
            )

    def _run_stage(self, stage: StageExecution) -> Outcome:
        stage_run = StageRun(
            stage=stage,
            open_run=self._open_run,
            journal=self._journal,
            backend=self._backend,
            files=self._files,
            token=self._token,
            clock=self._clock,
            look_for_cancel=self._look_for_cancel,
            earlier=self._earlier,
        )
        try:
            return stage_run.run()
        finally:
            self.is_backend_out_of_reach |= stage_run.is_backend_out_of_reach

    def _look_for_cancel(self) -> None:
        """Obey the order of another process to stop, if there is a new one."""
        self._folder.take_cancel_order(self._obey)

    def _obey(self, order: CancelOrder) -> None:
        # Two processes may write the same order, and one that cannot be removed is found again.
        if order != self._recorded_order:
            self.cancel(order.mode, order.reason)
            self._recorded_order = order
