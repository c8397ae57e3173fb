"""How long the jobs of a queue will take, from what was recorded of their servers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from ...events.queue.jobs import Job, JobState, ServerWork
from ...events.queue.model import StageWork
from .durations import RecordedDurations


class QueueEstimate(NamedTuple):
    """The ``seconds`` of all jobs that are not over, one after the other.

    It is not ``complete`` where a stage of some of them was never recorded.
    """

    seconds: float
    complete: bool


class JobEstimates:
    """Estimates for jobs; ``servers`` are those of jobs that name none."""

    def __init__(self, runs: Path, servers: Sequence[str]) -> None:
        self._runs = runs
        self._servers = tuple(servers) or (None,)
        self._durations: dict[tuple[str | None, ...], RecordedDurations] = {}
        self._known: dict[tuple[str | None, tuple[StageWork, ...]], float | None] = {}

    def estimate_s(self, job: Job, now: datetime) -> float | None:
        """The seconds that a job will still take; None where that is not known, or it is over."""
        if not job.is_left or not job.work:
            return None
        seconds = self._estimate_work(job.server, job.work)
        if seconds is None or job.state is JobState.WAITING:
            return seconds
        return max(0.0, seconds - _elapsed_s(job, now))

    def estimate_all(
        self, work: Iterable[ServerWork], running: Iterable[Job], now: datetime
    ) -> QueueEstimate:
        """The estimate of a whole queue, from its work that is left and its jobs in progress."""
        parts = [self._estimate_work(one.server, (one.work,)) for one in work]
        seconds = sum(one for one in parts if one is not None)
        for job in running:
            whole = self._estimate_work(job.server, job.work) or 0.0
            seconds -= min(whole, _elapsed_s(job, now))
        return QueueEstimate(max(0.0, seconds), None not in parts)

    def _estimate_work(self, server: str | None, work: tuple[StageWork, ...]) -> float | None:
        key = server, work
        if key not in self._known:
            urls = self._servers if server is None else (server,)
            if urls not in self._durations:
                self._durations[urls] = RecordedDurations(self._runs, *urls)
            self._known[key] = self._durations[urls].estimate_work_s(work)
        return self._known[key]


def _elapsed_s(job: Job, now: datetime) -> float:
    return 0.0 if job.begun is None else max(0.0, (now - job.begun).total_seconds())
