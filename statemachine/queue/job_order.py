"""Which job a name stands for, which begins next, and where a job is moved."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from enum import StrEnum

from ...events.queue.jobs import Job, JobState, JobTable
from ..errors import JobNotFoundError

MOST_OVERTAKEN = 20
"""Jobs that may begin before a waiting one of the same priority that was added earlier."""

_SHOWN = 4


class Place(StrEnum):
    """Where to move a waiting job, among those of its priority."""

    TOP = "top"
    UP = "up"
    DOWN = "down"
    BOTTOM = "bottom"


def find_job(table: JobTable, name: str) -> Job:
    """The job that ``JobQueue.find`` is asked for; of several, the one that is not over.

    Raises JobNotFoundError.
    """
    job = table.job(name)
    if job is not None:
        return job
    ids = table.ids_like(name) if name else []
    alike = [job for job in map(table.job, ids) if job is not None]
    if not alike:
        raise JobNotFoundError(f"the queue has no job {name!r}")
    # The name of a configuration returns every night: what is over does not make it ambiguous.
    left = [job for job in alike if job.is_left]
    found = left or [job for job in alike if job.state is not JobState.REMOVED] or alike
    if len(found) > 1:
        more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        shown = ", ".join(job.job_id for job in found[:_SHOWN])
        raise JobNotFoundError(f"{name!r} fits {len(found)} jobs of the queue: {shown}{more}")
    return found[0]


def next_job(
    table: JobTable, now: datetime, checkpoint: str | None, passed_over: Collection[str] = ()
) -> Job | None:
    """The waiting job that begins next, of those that are not ``passed_over`` (``PutOffJobs``).

    Among jobs of the highest priority, one that loads ``checkpoint`` goes before the first, unless
    that has waited for enough others.
    """
    first = table.first_due(now, passed_over=passed_over)
    if first is None or checkpoint is None or first.first_checkpoint == checkpoint:
        return first
    alike = table.first_due(
        now, priority=first.priority, checkpoint=checkpoint, passed_over=passed_over
    )
    if alike is None or table.overtakers(first, MOST_OVERTAKEN) >= MOST_OVERTAKEN:
        return first
    return alike


def target_of(table: JobTable, job: Job, place: Place) -> str | None:
    """The id of the waiting job that ``job`` has to stand before; its own where it stays.

    None stands for the end.
    """
    before = table.neighbour(job, is_next=False)
    behind = table.neighbour(job, is_next=True)
    if place in (Place.TOP, Place.UP) and before is not None:
        first = table.first_of(job.priority) if place is Place.TOP else before
        return (first or before).job_id
    if place in (Place.DOWN, Place.BOTTOM) and behind is not None:
        after = table.neighbour(behind, is_next=True) if place is Place.DOWN else None
        return None if after is None else after.job_id
    return job.job_id
