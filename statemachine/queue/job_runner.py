"""Works on the jobs of a queue, one after the other, in this process."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from enum import StrEnum

import msgspec

from ...events.errors import LogLockedError, LogWriteError, RunNotFoundError, StagewrightError
from ...events.model import CancelMode, ErrorDetail, Outcome, RunState
from ...events.queue.jobs import Job, JobState
from ...events.queue.model import PauseMode
from ...events.result import PipelineRunResult
from ..errors import BackendError, InvalidTransitionError, PreflightError
from ..files.run_folder import CancelOrder
from ..groups.result import GroupResult
from ..ports import Clock, SystemClock
from ..run.controller import PipelineController
from ..run.dispatcher import POLL_S
from ..run.group_runner import is_server_out_of_reach
from ..run.handle import GroupHandle, Handle, RunHandle
from ..run.journal import error_detail
from .job_queue import JobQueue, TakenJob
from .job_start import JobStarter
from .put_off_jobs import PutOffJobs

_IDLE_S = 1.0
"""How often a worker without a job looks for one."""
_GIVEN_UP_AFTER = 2
"""Attempts in a row to reach the server before a worker that would end anyway gives up."""
_CANCEL_MODES = {PauseMode.NOW: CancelMode.NOW, PauseMode.AFTER_IMAGE: CancelMode.AFTER_IMAGE}
_UNREACHABLE = (PreflightError.__name__, BackendError.__name__)
_logger = logging.getLogger("stagewright.queue")


class WorkEnd(StrEnum):
    """Why a worker ended."""

    EMPTY = "the queue is empty"
    PAUSED = "the queue is paused"
    TIME = "the worker's end time was reached"
    STOPPED = "the worker was stopped"
    SERVER = "the server cannot be reached"


class WorkResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker did: the jobs that it ended, and why it ended itself."""

    jobs: tuple[Job, ...]
    end: WorkEnd

    @property
    def is_complete(self) -> bool:
        """Whether all jobs that it ended are COMPLETED."""
        return all(job.outcome is Outcome.COMPLETED for job in self.jobs)


class WorkHandle(Handle[WorkResult]):
    """A worker that was started."""

    noun = "worker"


StartedRun = RunHandle | GroupHandle
EndedRun = PipelineRunResult | GroupResult


class SingleNodeJobRunner:
    """Takes jobs of a queue and runs them with one controller.

    It continues until ``until``, or until it is stopped; with ``exit_when_empty`` also until no job
    waits, or the queue is paused. ``servers`` are for jobs whose configuration names none.
    ``on_job`` is called with each job that begins or ends here, ``on_run`` with its run or group,
    ``on_end`` with the result of one that ended, ``on_refused`` with a job that has failed because
    its run could not begin, and ``on_empty`` when a job has ended and none is
    left. Only ``cancel`` may be called meanwhile, from any thread.
    """

    def __init__(
        self,
        queue: JobQueue,
        controller: PipelineController,
        *,
        until: datetime | None = None,
        exit_when_empty: bool = False,
        servers: Sequence[str] = (),
        on_job: Callable[[Job], object] = lambda _job: None,
        on_run: Callable[[StartedRun], object] = lambda _handle: None,
        on_end: Callable[[EndedRun], object] = lambda _result: None,
        on_refused: Callable[[Job], object] = lambda _job: None,
        on_empty: Callable[[], object] = lambda: None,
        clock: Clock | None = None,
    ) -> None:
        self._queue = queue
        self._controller = controller
        self._starter = JobStarter(controller, queue.files, servers=servers)
        self._until = until
        self._exits_when_empty = exit_when_empty
        self._on_job = on_job
        self._on_run = on_run
        self._on_end = on_end
        self._on_refused = on_refused
        self._on_empty = on_empty
        self._clock = clock or SystemClock()
        self._checkpoint: str | None = None
        self._ended: list[Job] = []
        self._was_told_empty = True
        self._put_off_jobs = PutOffJobs()
        self._stop: CancelOrder | None = None
        self._current: StartedRun | None = None
        self._ordered: CancelOrder | None = None
        """What the current run was asked to do."""

    def start(self) -> WorkHandle:
        """Work in a thread of its own."""
        handle = WorkHandle("queue", self._queue.runs)
        threading.Thread(
            target=self._work_for, args=(handle,), name="stagewright-queue", daemon=False
        ).start()
        return handle

    def cancel(
        self, _worker: str = "queue", *, mode: CancelMode = CancelMode.NOW, reason: str = "stopped"
    ) -> None:
        """Stop the job in progress, which waits to be continued, and take no other."""
        self._stop = CancelOrder(mode=mode, reason=reason)
        self._stop_current(self._stop)

    def work(self) -> WorkResult:
        """Work until the end. Raises LogCorruptError, LogWriteError, LogLockedError, OSError."""
        end = None
        while end is None:
            end = self._end_now()
            if end is not None:
                break
            taken = self._queue.take(self._checkpoint, self._put_off_jobs.passed_over())
            if taken is not None:
                self._was_told_empty = False
                end = self._work_on(taken)
            else:
                end = self._look_around()
        return WorkResult(jobs=tuple(self._ended), end=end)

    def _work_for(self, handle: WorkHandle) -> None:
        try:
            handle.end(self.work(), None)
        except BaseException as error:  # noqa: BLE001 - the handle's ``wait`` raises it
            handle.end(None, error)

    def _end_now(self) -> WorkEnd | None:
        if self._stop is not None:
            return WorkEnd.STOPPED
        if self._until is not None and self._clock.now() >= self._until:
            return WorkEnd.TIME
        return None

    def _look_around(self) -> WorkEnd | None:
        """What to do where no job is ready: end, or wait a little."""
        is_paused = self._queue.refresh().paused is not None
        counts = self._queue.counts()
        is_empty = not counts[JobState.WAITING]
        if is_empty and not counts[JobState.RUNNING] and not self._was_told_empty:
            self._was_told_empty = True
            if self._has_ended_last():
                self._on_empty()
        if self._exits_when_empty and (is_empty or is_paused):
            return WorkEnd.PAUSED if is_paused else WorkEnd.EMPTY
        if self._exits_when_empty and self._put_off_jobs.are_given_up(_GIVEN_UP_AFTER):
            return WorkEnd.SERVER
        self._pause(_IDLE_S)
        return None

    def _has_ended_last(self) -> bool:
        """Whether the job that ended last ended here: of several workers, one tells of the end."""
        last = self._queue.jobs(JobState.ENDED, most=1)
        return bool(last and self._ended) and last[0].job_id == self._ended[-1].job_id

    def _work_on(self, taken: TakenJob) -> WorkEnd | None:
        """Run a job until it ends or is stopped; why the worker ends now, if it does."""
        self._on_job(taken.job)
        try:
            handle = self._starter.start(taken)
        except StagewrightError as error:
            if is_server_out_of_reach(error) or isinstance(error, LogLockedError):
                self._put_off(taken, str(error), alone=isinstance(error, LogLockedError))
                return None
            if isinstance(error, LogWriteError):
                self._queue.stop(taken, str(error))
                raise
            self._end(taken, Outcome.FAILED, error_detail(error))
            self._on_refused(self._ended[-1])
            return None
        self._on_run(handle)
        try:
            with self._as_current(handle):
                while not handle.wait_ended(POLL_S):
                    self._look_for_stop()
        finally:
            # A queue that cannot be read ends the worker, but not before its run.
            handle.wait_ended()
        return self._note_end(taken, handle)

    def _note_end(self, taken: TakenJob, handle: StartedRun) -> WorkEnd | None:
        try:
            result: EndedRun = handle.wait()
        except StagewrightError as error:
            self._queue.stop(taken, str(error))
            raise
        ordered, self._ordered = self._ordered, None
        if ordered is not None and result.state == RunState.CANCELLED:
            self._queue.stop(taken, ordered.reason)
            self._tell(taken.job.job_id)
            return None
        if _is_out_of_reach(handle, result):
            why = result.error.message if result.error else ""
            self._put_off(taken, f"the server cannot be reached: {why}")
            return None
        self._put_off_jobs.note_reached(taken.job)
        if result.state == RunState.COMPLETED and taken.job.last_checkpoint is not None:
            self._checkpoint = taken.job.last_checkpoint
        self._end(taken, _outcome(result), result.error)
        self._on_end(result)
        return None

    def _put_off(self, taken: TakenJob, why: str, *, alone: bool = False) -> None:
        """Let a job wait that cannot continue now; others are worked on meanwhile."""
        self._queue.stop(taken, why)
        self._tell(taken.job.job_id)
        self._put_off_jobs.put_off(taken.job, alone=alone)
        _logger.info("job %s waits: %s", taken.job.name, why)

    def _end(self, taken: TakenJob, outcome: Outcome, error: ErrorDetail | None) -> None:
        self._queue.end(taken, outcome, error)
        self._ended.append(self._tell(taken.job.job_id))

    def _tell(self, job_id: str) -> Job:
        job = self._queue.find(job_id)
        self._on_job(job)
        return job

    def _pause(self, pause_s: float) -> None:
        end = time.monotonic() + pause_s
        while self._end_now() is None and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, POLL_S))

    @contextmanager
    def _as_current(self, handle: StartedRun) -> Iterator[None]:
        self._current = handle
        try:
            if self._stop is not None:  # it came while the run was being started
                self._stop_current(self._stop)
            yield
        finally:
            self._current = None

    def _look_for_stop(self) -> None:
        """Stop the run in progress where the queue is paused, or ``until`` was reached."""
        mode = _CANCEL_MODES.get(self._queue.refresh().paused or PauseMode.AFTER_RUN)
        if mode is not None:
            self._stop_current(CancelOrder(mode=mode, reason=WorkEnd.PAUSED))
        elif self._end_now() is WorkEnd.TIME:
            self._stop_current(CancelOrder(mode=CancelMode.AFTER_IMAGE, reason=WorkEnd.TIME))

    def _stop_current(self, order: CancelOrder) -> None:
        current = self._current
        if current is None or self._ordered == order:
            return
        self._ordered = order
        # The run may have just ended by itself.
        with suppress(RunNotFoundError, InvalidTransitionError):
            self._controller.cancel(current.id, mode=order.mode, reason=order.reason)


def _is_out_of_reach(handle: StartedRun, result: EndedRun) -> bool:
    if result.state == RunState.COMPLETED:
        return False
    if handle.is_backend_out_of_reach or isinstance(handle, RunHandle):
        return handle.is_backend_out_of_reach
    # A group has an error of its own where a further variant could not begin.
    return result.error is not None and result.error.kind in _UNREACHABLE


def _outcome(result: EndedRun) -> Outcome:
    if isinstance(result, PipelineRunResult):
        return result.outcome or Outcome.FAILED
    if result.state == RunState.COMPLETED:
        return Outcome.COMPLETED
    if result.state == RunState.CANCELLED:
        return Outcome.CANCELLED
    return Outcome.PARTIAL if result.counts.get(RunState.COMPLETED) else Outcome.FAILED
