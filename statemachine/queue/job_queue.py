"""The queue of jobs below one folder of runs."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from ...events import signals
from ...events.errors import EventLogError
from ...events.log.lock import FileLock
from ...events.log.shared_events import SharedEnvelope, SharedEvent
from ...events.log.shared_log import SharedLog, SharedLogWriter
from ...events.log.storage import Storage
from ...events.log.verified_scan import LogPosition
from ...events.model import ErrorDetail, Outcome
from ...events.queue.fold import QueueFold
from ...events.queue.jobs import (
    Job,
    JobState,
    JobTable,
    JobTableError,
    QueueState,
    ServerWork,
)
from ...events.queue.model import (
    MOST_SERVERS,
    MOST_URL_CHARACTERS,
    JobAdded,
    JobBegun,
    JobEnded,
    JobKind,
    JobMoved,
    JobRemoved,
    JobRetried,
    JobSetAside,
    JobStopped,
    PauseMode,
    QueueFile,
    QueueOpened,
    QueuePaused,
    QueueResumed,
    ServerAdded,
    ServerRemoved,
)
from ...events.version import VERSION
from ..config.validation import refuse_userinfo
from ..errors import JobNotFoundError, JobRefusedError
from ..files.run_folder import new_run_id
from ..groups.folder import group_folder
from ..ports import Clock, RandomBelow, SystemClock
from .finished_images import count_finished_images
from .job_files import JobFiles
from .job_order import Place, find_job, next_job, target_of
from .new_jobs import NewJob

MOST_DEATHS = 3
"""Workers in a row that die without a finished image before a job is set aside."""
Make = Callable[[SharedEnvelope], SharedEvent]


class TakenJob(NamedTuple):
    """A job that this process works on, with the event that added it and its lock."""

    job: Job
    added: JobAdded
    lock: FileLock


class JobQueue:
    """The jobs of a folder of runs, for any number of processes; for one thread at a time.

    ``table`` holds what has been read of the log; without it that is memory. All methods read
    first what other processes have added, and raise LogCorruptError, LogLockedError,
    LogWriteError and OSError. Every change is durable on return, and is announced by the signal
    ``queue_changed``.
    """

    def __init__(
        self,
        runs: Path,
        *,
        table: JobTable | None = None,
        clock: Clock | None = None,
        random_below: RandomBelow = secrets.randbelow,
        storage: Storage | None = None,
    ) -> None:
        self.runs = Path(runs)
        self._table = table or JobTable()
        self._fold = QueueFold(self._table)
        self._clock = clock or SystemClock()
        self._random_below = random_below
        self._storage = storage or Storage()
        self.files = JobFiles(self.runs, self._storage)
        self._has_looked = False
        self._looked: LogPosition | None = None
        """Where the log ended at the last look; None where there was none."""

    def refresh(self) -> QueueState:
        """Read what was added to the log since the last call; the state of the queue."""
        try:
            state = self._refreshed()
        except JobTableError:
            state = self._refreshed()  # it is made anew
        self._announce(state)
        return state

    def _refreshed(self) -> QueueState:
        with self._table.updating():
            try:
                self._read()
            except EventLogError:
                if self._table.state().position is None:
                    raise
                # The log was replaced, by a salvage or by hand: all of it is read again.
                self._table.clear()
                self._has_looked = False
                self._read()
            return self._table.state()

    def jobs(self, *states: JobState, most: int | None = None) -> list[Job]:
        """The jobs in these states; see ``JobTable.jobs``."""
        self.refresh()
        with self._table.updating():
            return [job for state in states for job in self._table.jobs(state, most)]

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state."""
        self.refresh()
        with self._table.updating():
            return self._table.counts()

    def work_left(self) -> list[ServerWork]:
        """The work of all jobs that are not over, for estimates."""
        with self._table.updating():
            return self._table.work_left()

    def find(self, name: str) -> Job:
        """The job of an id, a unique prefix, the last six digits, or a name; see ``find_job``.

        Raises JobNotFoundError.
        """
        self.refresh()
        with self._table.updating():
            return find_job(self._table, name)

    def place_of(self, job: Job) -> int:
        """How many waiting jobs come before a waiting job."""
        with self._table.updating():
            return self._table.waiting_ahead(job)

    def add(
        self, jobs: Sequence[NewJob], *, priority: int = 0, not_before: datetime | None = None
    ) -> list[Job]:
        """Add jobs behind those of their priority, all in one go. Also raises InputImageError."""
        named = [(self._new_id(job.name), job) for job in jobs]
        unrecorded = {job_id for job_id, _ in named}
        try:
            found = [self.files.copy(job_id, job.found) for job_id, job in named]
            with self._writing() as writer:
                for (job_id, job), copies in zip(named, found, strict=True):
                    # After a failed sync the job may be in the log, and needs its files.
                    unrecorded.discard(job_id)
                    writer.append(partial(job.record, job_id, copies, priority, not_before))
                return [self._job(job_id) for job_id, _ in named]
        except BaseException:
            for job_id in unrecorded:
                self.files.remove(job_id)
            raise

    def move(self, job_id: str, place: Place) -> Job:
        """Move a waiting job among those of its priority. Raises JobRefusedError."""
        with self._writing() as writer:
            job = self._job(job_id)
            if job.state is not JobState.WAITING:
                raise JobRefusedError(f"job {job_id} is {job.state}; only a waiting job moves")
            target = target_of(self._table, job, place)
            if target != job_id:
                writer.append(lambda at: JobMoved(**at, job_id=job_id, before=target))
            return self._job(job_id)

    def remove(self, job_ids: Sequence[str]) -> None:
        """Remove jobs on which no worker works; their runs stay. Raises JobRefusedError."""
        with self._writing() as writer:
            held = [one for one in job_ids if self.files.is_held(one)]
            if held:
                raise JobRefusedError(
                    f"a worker works on job {held[0]}; cancel its run first, or pause the queue"
                )
            for job_id in job_ids:
                job = self._job(job_id)
                if job.state is not JobState.REMOVED:
                    writer.append(_removal_of(job_id))
                if job.state is JobState.RUNNING:  # its worker has died, and left the file
                    lock = self.files.take_lock(job_id)
                    assert lock is not None
                    self.files.drop_lock(job_id, lock)
        for job_id in job_ids:
            self.files.remove(job_id)

    def retry(self, job_id: str) -> Job:
        """Let a job wait again that ended or was set aside; its run is resumed.

        Raises JobRefusedError.
        """
        with self._writing() as writer:
            job = self._job(job_id)
            if job.state not in (JobState.ENDED, JobState.SET_ASIDE):
                raise JobRefusedError(
                    f"job {job_id} is {job.state}; only a job that has ended or was set aside "
                    "can be retried"
                )
            if job.outcome is Outcome.COMPLETED:
                raise JobRefusedError(f"job {job_id} is completed; there is nothing to retry")
            writer.append(lambda at: JobRetried(**at, job_id=job_id))
            return self._job(job_id)

    def pause(self, mode: PauseMode) -> None:
        """Let no job begin, and stop those in progress as ``mode`` says."""
        with self._writing() as writer:
            if self._table.state().paused is not mode:
                writer.append(lambda at: QueuePaused(**at, mode=mode))

    def resume(self) -> None:
        """Let jobs begin again."""
        with self._writing() as writer:
            if self._table.state().paused is not None:
                writer.append(lambda at: QueueResumed(**at))

    def add_server(self, url: str) -> None:
        """Let workers that are given no server use this one. Raises ConfigurationError."""
        refuse_userinfo(url)
        with self._writing() as writer:
            servers = self._table.state().servers
            if len(url) > MOST_URL_CHARACTERS or len(servers) >= MOST_SERVERS:
                raise JobRefusedError(
                    f"a queue has {MOST_SERVERS} servers at most, each with an address of at most "
                    f"{MOST_URL_CHARACTERS} characters"
                )
            if url not in servers:
                writer.append(lambda at: ServerAdded(**at, url=url))

    def remove_server(self, url: str) -> None:
        """Forget a server. Raises JobRefusedError."""
        with self._writing() as writer:
            if url not in self._table.state().servers:
                raise JobRefusedError(f"the queue has no server {url}")
            writer.append(lambda at: ServerRemoved(**at, url=url))

    def take(
        self, checkpoint: str | None = None, passed_over: Collection[str] = ()
    ) -> TakenJob | None:
        """Begin the next job, or continue one whose worker died; None where no job is ready.

        ``checkpoint`` is the one that the worker's server has loaded, ``passed_over`` are ids and
        servers of jobs that wait. The job's lock is held, and its run or group recorded, durably.
        """
        with self._writing() as writer:
            if self._table.state().paused is not None:
                return None
            for job in list(self._table.jobs(JobState.RUNNING)):
                taken = self._take_over(job, writer)
                if taken is not None:
                    return taken
            following = next_job(self._table, self._clock.now(), checkpoint, passed_over)
            lock = None if following is None else self.files.take_lock(following.job_id)
            if following is None or lock is None:
                return None
            return self._begin(following, lock, writer, count_finished_images(self.runs, following))

    def end(self, taken: TakenJob, outcome: Outcome, error: ErrorDetail | None = None) -> None:
        """Record how a job has ended, and give it back."""
        job_id = taken.job.job_id
        self._give_back(
            taken, lambda at: JobEnded(**at, job_id=job_id, outcome=outcome, error=error)
        )
        if outcome is Outcome.COMPLETED:
            self.files.remove(job_id)  # its run has copies of its own

    def stop(self, taken: TakenJob, reason: str) -> None:
        """Give a job back that is to be continued later."""
        self._give_back(taken, lambda at: JobStopped(**at, job_id=taken.job.job_id, reason=reason))

    def _give_back(self, taken: TakenJob, make: Make) -> None:
        try:
            with self._writing() as writer:
                writer.append(make)
                self.files.drop_lock(taken.job.job_id, taken.lock)
        except BaseException:
            # The job is continued by the next worker, as after a crash.
            with suppress(OSError):
                taken.lock.release()
            raise

    def _take_over(self, job: Job, writer: SharedLogWriter) -> TakenJob | None:
        """Continue a job whose worker has died; set it aside after too many deaths."""
        lock = self.files.take_lock(job.job_id)
        if lock is None:
            return None
        images = count_finished_images(self.runs, job)
        deaths = job.deaths + 1 if images <= job.images else 0
        if deaths < MOST_DEATHS:
            return self._begin(job, lock, writer, images)
        reason = f"its worker died {deaths} times without a finished image"
        writer.append(lambda at: JobSetAside(**at, job_id=job.job_id, reason=reason))
        self.files.drop_lock(job.job_id, lock)
        return None

    def _begin(self, job: Job, lock: FileLock, writer: SharedLogWriter, images: int) -> TakenJob:
        try:
            added = self._table.added(job.job_id)
            assert added is not None
            run_id, group_id = job.run_id, job.group_id
            if run_id is None and group_id is None:
                run_id, group_id = self._new_run(added)
            writer.append(
                lambda at: JobBegun(
                    **at, job_id=job.job_id, run_id=run_id, group_id=group_id, images=images
                )
            )
            return TakenJob(self._job(job.job_id), added, lock)
        except BaseException:
            lock.release()
            raise

    def _new_run(self, added: JobAdded) -> tuple[str | None, str | None]:
        """The ids of the run and the group of a job that begins; one of them is None."""
        if added.job is JobKind.RESUME:
            resumes = str(added.resumes)
            is_group = group_folder(self.runs, resumes) is not None
            return (None, resumes) if is_group else (resumes, None)
        own_id = self._new_id(added.name)
        return (None, own_id) if added.job is JobKind.SWEEP else (own_id, None)

    def _new_id(self, name: str) -> str:
        return new_run_id(name, self._clock.now(), self._random_below)

    def _job(self, job_id: str) -> Job:
        job = self._table.job(job_id)
        if job is None:
            raise JobNotFoundError(f"the queue has no job {job_id!r}")
        return job

    def _log(self) -> SharedLog:
        return SharedLog(
            QueueFile,
            self.runs,
            begin=_opening,
            observe=self._fold.apply_all,
            start=self._table.state().position,
            storage=self._storage,
        )

    def _read(self) -> None:
        log = self._log()
        log.read()
        self._note_position(log)

    def _note_position(self, log: SharedLog) -> None:
        state = self._table.state()
        if log.position != state.position:
            self._table.put_state(msgspec.structs.replace(state, position=log.position))

    @contextmanager
    def _writing(self) -> Iterator[SharedLogWriter]:
        """Hold the queue's lock, with every event applied."""
        self.refresh()
        with self._table.updating():
            log = self._log()
            with log.writing() as writer:
                yield writer
            self._note_position(log)
            state = self._table.state()
        self._announce(state)

    def _announce(self, state: QueueState) -> None:
        """Publish the events since the last look, whichever process appended them.

        They are read once more: another process may have put them in the table.
        """
        before, self._looked = self._looked, state.position
        is_new, self._has_looked = self._has_looked and before != state.position, True
        if not is_new or not signals.queue_changed.receivers:
            return
        events: list[SharedEvent] = []
        log = SharedLog(QueueFile, self.runs, begin=_opening, observe=events.extend, start=before)
        # What is wrong with the log is reported by the next call.
        with suppress(EventLogError, OSError):
            log.read()
        self._looked = log.position
        for event in events:
            signals.publish(signals.queue_changed, None, queue_event=event)


def _opening(at: SharedEnvelope) -> QueueOpened:
    return QueueOpened(**at, software=f"stagewright {VERSION}")


def _removal_of(job_id: str) -> Make:
    return lambda at: JobRemoved(**at, job_id=job_id)
