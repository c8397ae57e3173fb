"""The fold from a queue's events to its jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ..log.shared_events import SharedEvent
from .jobs import Job, JobState, JobTable, QueueState
from .model import (
    MOST_SERVERS,
    JobAdded,
    JobBegun,
    JobEnded,
    JobEvent,
    JobMoved,
    JobRemoved,
    JobRetried,
    JobSetAside,
    JobStopped,
    QueuePaused,
    QueueResumed,
    ServerAdded,
    ServerRemoved,
)

_DONE = (JobState.ENDED, JobState.SET_ASIDE)


class QueueFold:
    """Applies events to a table of jobs; events that it has applied before change nothing.

    An event of a job that was not added, or that does not fit the state of its job, is ignored:
    the record that it refers to may be damaged.
    """

    def __init__(self, table: JobTable) -> None:
        self._table = table

    def apply_all(self, events: Iterable[SharedEvent]) -> None:
        """Take events in the order of the log."""
        state = self._table.state()
        for event in events:
            if event.seq > state.seq:
                state = msgspec.structs.replace(self._apply(event, state), seq=event.seq)
        self._table.put_state(state)

    def _apply(self, event: SharedEvent, state: QueueState) -> QueueState:
        match event:
            case JobAdded():
                self._add(event)
            case JobEvent():
                job = self._table.job(event.job_id)
                changed = None if job is None else self._changed(job, event)
                if changed is not None:
                    self._table.put(changed)
            case QueuePaused():
                return msgspec.structs.replace(state, paused=event.mode)
            case QueueResumed():
                return msgspec.structs.replace(state, paused=None)
            case ServerAdded() if (
                event.url not in state.servers and len(state.servers) < MOST_SERVERS
            ):
                return msgspec.structs.replace(state, servers=(*state.servers, event.url))
            case ServerRemoved():
                left = tuple(url for url in state.servers if url != event.url)
                return msgspec.structs.replace(state, servers=left)
        return state

    def _add(self, event: JobAdded) -> None:
        if self._table.job(event.job_id) is not None:
            return
        self._table.put_added(event)
        self._table.put(
            Job(
                job_id=event.job_id,
                name=event.name,
                job=event.job,
                state=JobState.WAITING,
                priority=event.priority,
                position=float(event.seq),
                not_before=event.not_before,
                total_images=event.total_images,
                added=event.ts,
                added_seq=event.seq,
                first_checkpoint=event.checkpoints[0],
                last_checkpoint=event.checkpoints[1],
                server=_server(event.config),
                work=event.work,
            )
        )

    def _changed(self, job: Job, event: JobEvent) -> Job | None:
        replace = msgspec.structs.replace
        match event:
            case JobMoved() if job.state is JobState.WAITING:
                return self._moved(job, event)
            case JobBegun() if job.state in (JobState.WAITING, JobState.RUNNING):
                return _begun(job, event)
            case JobStopped() if job.state is JobState.RUNNING:
                waiting = replace(job, state=JobState.WAITING, reason=event.reason, deaths=0)
                return replace(waiting, position=self._first_position(job.priority))
            case JobEnded() if job.state is JobState.RUNNING:
                why = event.error.message if event.error else ""
                ended = replace(job, state=JobState.ENDED, outcome=event.outcome, reason=why)
                return replace(ended, ended=event.ts, ended_seq=event.seq)
            case JobSetAside() if job.state is JobState.RUNNING:
                aside = replace(job, state=JobState.SET_ASIDE, reason=event.reason)
                return replace(aside, ended=event.ts, ended_seq=event.seq)
            case JobRetried() if job.state in _DONE:
                waiting = replace(job, state=JobState.WAITING, outcome=None, reason="", deaths=0)
                return replace(waiting, position=float(event.seq), ended=None)
            case JobRemoved() if job.state is not JobState.REMOVED:
                return replace(job, state=JobState.REMOVED, ended=event.ts, ended_seq=event.seq)
        return None

    def _first_position(self, priority: int) -> float:
        """A place before all waiting jobs of a priority."""
        first = self._table.first_of(priority)
        return 0.0 if first is None else first.position - 1.0

    def _moved(self, job: Job, event: JobMoved) -> Job | None:
        if event.before is None:
            return msgspec.structs.replace(job, position=float(event.seq))
        other = self._table.job(event.before)
        if other is None or other.state is not JobState.WAITING or other == job:
            return None
        if other.priority != job.priority:
            return None
        place = self._place_before(other)
        if place is None:
            self._number_anew(job.priority, float(event.seq))
            other = self._table.job(event.before)
            assert other is not None
            place = self._place_before(other)
        return None if place is None else msgspec.structs.replace(job, position=place)

    def _place_before(self, other: Job) -> float | None:
        """A position between a waiting job and the one before it; None where there is no room."""
        previous = self._table.neighbour(other, is_next=False)
        if previous is None:
            return other.position - 1.0
        place = (previous.position + other.position) / 2
        return place if previous.position < place < other.position else None

    def _number_anew(self, priority: int, end: float) -> None:
        """Give the waiting jobs of a priority whole positions below ``end``."""
        row = [job for job in self._table.jobs(JobState.WAITING) if job.priority == priority]
        for place, job in enumerate(row):
            position = end - len(row) + place
            self._table.put(msgspec.structs.replace(job, position=position))


def _begun(job: Job, event: JobBegun) -> Job:
    """The job with a worker; one that was running before has lost its worker."""
    has_died = job.state is JobState.RUNNING
    deaths = job.deaths + 1 if has_died and event.images <= job.images else 0
    return msgspec.structs.replace(
        job,
        state=JobState.RUNNING,
        run_id=event.run_id,
        group_id=event.group_id,
        images=event.images,
        deaths=deaths,
        reason="",
        begun=event.ts,
        begun_seq=event.seq,
        worker=f"process {event.pid} on {event.host}",
    )


def _server(config: Mapping[str, Any]) -> str | None:
    table = config.get("server")
    url = table.get("url") if isinstance(table, Mapping) else None
    first = url[0] if isinstance(url, list | tuple) and url else url
    return first if isinstance(first, str) else None
