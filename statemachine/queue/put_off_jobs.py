"""The jobs that a worker passes over while their server cannot be reached."""

from __future__ import annotations

import time

from ...events.queue.jobs import Job
from ...events.queue.model import JobKind

_LONGEST_PAUSE_S = 60.0
"""The longest pause between two attempts to reach a server, each of which is recorded."""
_MOST_DOUBLINGS = 16


class PutOffJobs:
    """The jobs that a worker passes over for a while, because their server cannot be reached.

    All jobs that name the same server are passed over together; those without a server are too,
    since they use the same ones. A job that uses the server of an earlier run stands for itself.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, float]] = {}

    def put_off(self, job: Job, *, alone: bool = False) -> None:
        """Pass over the job, and those on its server unless it is put off ``alone``."""
        key = job.job_id if alone else _server_key(job)
        failures = self._known.get(key, (0, 0.0))[0]
        pause_s = min(_LONGEST_PAUSE_S, 2.0 ** min(failures, _MOST_DOUBLINGS))
        self._known[key] = (failures + 1, time.monotonic() + pause_s)

    def note_reached(self, job: Job) -> None:
        """The job was worked on, so its server is there."""
        self._known.pop(job.job_id, None)
        self._known.pop(_server_key(job), None)

    def passed_over(self) -> tuple[str, ...]:
        """Job ids and servers whose time has not come."""
        now = time.monotonic()
        return tuple(key for key, (_, until) in self._known.items() if until > now)

    def are_given_up(self, after: int) -> bool:
        """Whether there are any, and each has failed so many times in a row."""
        return bool(self._known) and min(one for one, _ in self._known.values()) >= after


def _server_key(job: Job) -> str:
    is_bound = job.job in (JobKind.RESUME, JobKind.RERUN)
    return job.server or (job.job_id if is_bound else "")
