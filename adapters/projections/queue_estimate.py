"""How long the jobs of a queue will take, from what was recorded of their servers."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from ...events.queue.jobs import Job, JobState
from .durations import RecordedDurations


class QueueEstimate(NamedTuple):
    """The ``seconds`` of all jobs that are not done, one after the other.

    ``unknown`` of them have no estimate, because a stage of theirs was never recorded.
    """

    seconds: float
    unknown: int


class JobEstimates:
    """Estimates for jobs; ``server`` is that of jobs whose configuration names none."""

    def __init__(self, runs: Path, server: str | None) -> None:
        self._runs = runs
        self._server = server
        self._durations: dict[str | None, RecordedDurations] = {}

    def estimate_s(self, job: Job, now: datetime) -> float | None:
        """The seconds that a job will still take; None where that is not known, or it is done."""
        if job.state not in (JobState.WAITING, JobState.RUNNING) or not job.work:
            return None
        url = job.server or self._server
        if url not in self._durations:
            self._durations[url] = RecordedDurations(self._runs, url)
        seconds = self._durations[url].estimate_work_s(job.work)
        if seconds is None or job.state is JobState.WAITING or job.begun is None:
            return seconds
        return max(0.0, seconds - (now - job.begun).total_seconds())


def estimate_all(seconds: Iterable[float | None]) -> QueueEstimate:
    """The estimate of a whole queue, from those of its jobs."""
    known = list(seconds)
    return QueueEstimate(sum(one for one in known if one is not None), known.count(None))
