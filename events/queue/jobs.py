"""Jobs as they are now, and the table that holds them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

import msgspec

from ..errors import StagewrightError
from ..log.verified_scan import LogPosition
from ..model import Outcome
from .model import JobAdded, JobKind, PauseMode, StageWork


class JobTableError(StagewrightError):
    """The table of jobs cannot be used, which is no fault of the log; the next try makes it anew.

    Nothing that was reported as recorded is lost.
    """


class JobState(StrEnum):
    """Where a job is."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"
    SET_ASIDE = "set-aside"
    REMOVED = "removed"


class Job(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One job of a queue, folded from its events.

    Waiting jobs begin by ``priority`` (higher first), then by ``position`` (lower first). A job
    that has begun has a ``run_id`` or a ``group_id``; it is RUNNING also when its worker has died.
    ``deaths`` counts the workers in a row that died without a finished image, and ``images`` were
    finished when the last one began. ``added_seq`` and ``begun_seq`` number the events that added
    it and last began it. ``first_checkpoint`` and ``last_checkpoint`` are what it loads. ``worker``
    is the process that began it.
    """

    job_id: str
    name: str
    job: JobKind
    state: JobState
    outcome: Outcome | None = None
    run_id: str | None = None
    group_id: str | None = None
    priority: int = 0
    position: float = 0.0
    not_before: datetime | None = None
    reason: str = ""
    deaths: int = 0
    images: int = 0
    total_images: int = 0
    added: datetime
    begun: datetime | None = None
    ended: datetime | None = None
    added_seq: int
    begun_seq: int = -1
    ended_seq: int = -1
    first_checkpoint: str | None = None
    last_checkpoint: str | None = None
    worker: str = ""
    server: str | None = None
    work: tuple[StageWork, ...] = ()

    def is_due(self, now: datetime) -> bool:
        """Whether it may begin now, as far as its time goes."""
        return self.not_before is None or self.not_before <= now

    @property
    def is_left(self) -> bool:
        """Whether there is something left to do."""
        return self.state in (JobState.WAITING, JobState.RUNNING)


class ServerWork(NamedTuple):
    """Work that is left for a server; None stands for that of jobs that name none."""

    server: str | None
    work: StageWork


class QueueState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is known of a queue beside its jobs, once the event ``seq`` has been folded.

    ``position`` is where the log is read on.
    """

    seq: int = -1
    position: LogPosition | None = None
    paused: PauseMode | None = None
    servers: tuple[str, ...] = ()


class JobTable:
    """Holds the jobs of one queue, in the orders in which they are looked for.

    This one is in memory, for small programs: its look-ups take linear time. A subclass keeps the
    jobs elsewhere, and overrides every method. All calls are made within ``updating``, whose end
    keeps what was put, all or nothing. They raise JobTableError.
    """

    def __init__(self) -> None:
        self.clear()

    def updating(self) -> AbstractContextManager[object]:
        """The time in which the table is used; no other process changes it meanwhile."""
        return nullcontext()

    def clear(self) -> None:
        """Forget everything: the log is read again."""
        self._state = QueueState()
        self._jobs: dict[str, Job] = {}
        self._added: dict[str, JobAdded] = {}

    def state(self) -> QueueState:
        """The state of the queue."""
        return self._state

    def put_state(self, state: QueueState) -> None:
        """Replace the state of the queue."""
        self._state = state

    def job(self, job_id: str) -> Job | None:
        """The job of an id, or None."""
        return self._jobs.get(job_id)

    def put(self, job: Job) -> None:
        """Add a job, or replace it."""
        self._jobs[job.job_id] = job

    def added(self, job_id: str) -> JobAdded | None:
        """The event that added a job."""
        return self._added.get(job_id)

    def put_added(self, event: JobAdded) -> None:
        """Keep the event that added a job."""
        self._added[event.job_id] = event

    def jobs(self, state: JobState, most: int | None = None) -> Iterator[Job]:
        """The jobs in a state: waiting ones as they begin, others from the one that ended last."""
        found = [job for job in self._jobs.values() if job.state is state]
        if state is JobState.WAITING:
            found.sort(key=lambda job: (-job.priority, job.position))
        else:
            found.sort(key=lambda job: job.ended_seq, reverse=True)
        return iter(found[:most])

    def ids_like(self, name: str) -> list[str]:
        """The ids of jobs that begin with ``name``, or end with it, or whose name it is."""
        return [
            job.job_id
            for job in self._jobs.values()
            if job.job_id.startswith(name) or job.job_id[-6:] == name or job.name == name
        ]

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state."""
        return {state: sum(job.state is state for job in self._jobs.values()) for state in JobState}

    def work_left(self) -> list[ServerWork]:
        """The work of all jobs that are not over, that of one kind added up."""
        weights: dict[ServerWork, float] = {}
        for job in self._jobs.values():
            for work in job.work if job.is_left else ():
                kind = ServerWork(job.server, msgspec.structs.replace(work, weight=0.0))
                weights[kind] = weights.get(kind, 0.0) + work.weight
        return [
            ServerWork(server, msgspec.structs.replace(work, weight=weight))
            for (server, work), weight in weights.items()
        ]

    def first_due(
        self,
        now: datetime,
        *,
        priority: int | None = None,
        checkpoint: str | None = None,
        passed_over: Collection[str] = (),
    ) -> Job | None:
        """The first waiting job that may begin; of a priority, loading a checkpoint first.

        Jobs whose id or server is ``passed_over`` are left out; "" is the server of those without.
        """
        for job in self.jobs(JobState.WAITING):
            if job.job_id in passed_over or (job.server or "") in passed_over:
                continue
            is_wanted = priority is None or (
                job.priority == priority and job.first_checkpoint == checkpoint
            )
            if is_wanted and job.is_due(now):
                return job
        return None

    def overtakers(self, job: Job, most: int) -> int:
        """How many jobs behind a waiting one have begun since it was added; ``most`` at most."""
        begun = (
            other.priority == job.priority
            and other.position > job.position
            and other.begun_seq > job.added_seq
            for other in self._jobs.values()
        )
        return min(most, sum(begun))

    def first_of(self, priority: int) -> Job | None:
        """The first waiting job of a priority."""
        return next(iter(self._row(priority)), None)

    def neighbour(self, job: Job, *, is_next: bool) -> Job | None:
        """The waiting job of the same priority behind a waiting job, or before it."""
        row = self._row(job.priority)
        if is_next:
            return next((one for one in row if one.position > job.position), None)
        return next((one for one in reversed(row) if one.position < job.position), None)

    def waiting_ahead(self, job: Job) -> int:
        """How many waiting jobs come before a waiting job."""
        place = -job.priority, job.position
        return sum((-o.priority, o.position) < place for o in self.jobs(JobState.WAITING))

    def _row(self, priority: int) -> list[Job]:
        return [job for job in self.jobs(JobState.WAITING) if job.priority == priority]
