"""Folds the log of a run in one pass, with each call joined to its request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

import msgspec

from ...events.errors import LogCorruptError
from ...events.folds import Fold
from ...events.log.lock import is_locked
from ...events.log.reader import read_log
from ...events.model import (
    CallCompleted,
    CallFailed,
    CallRequested,
    RunOpened,
    RunResumed,
    RunState,
    StageEvent,
)
from ...events.origins import servers_of


class CallState(StrEnum):
    """How a call ended, or that it is under way.

    ``retried`` completed after earlier attempts had failed; ``repeated`` failed and was followed
    by another attempt.
    """

    COMPLETED = "completed"
    RETRIED = "retried"
    REPEATED = "repeated"
    FAILED = "failed"
    UNANSWERED = "unanswered"
    UNDER_WAY = "under-way"

    @property
    def is_done(self) -> bool:
        """Whether the call made its images."""
        return self in (CallState.COMPLETED, CallState.RETRIED)

    @property
    def has_failed(self) -> bool:
        """Whether the call ended with an error."""
        return self in (CallState.REPEATED, CallState.FAILED)


class Call(msgspec.Struct, gc=False):
    """One attempt at one request; times are seconds since the run was opened.

    ``last_seq`` is the event that ended it, or else the one that began it. ``server`` is the
    address that it was sent to, "" in a run with one server.
    """

    stage_id: str
    image_index: int
    count: int
    attempt: int
    request_sha256: str
    began_s: float
    ended_s: float
    last_seq: int
    state: CallState = CallState.UNANSWERED
    error_kind: str = ""
    error_message: str = ""
    server: str = ""


class Epoch(msgspec.Struct, gc=False):
    """The part of a run that one process executed; ``opened`` is the time of its first event."""

    number: int
    opened: datetime
    began_s: float
    ended_s: float


class RunClock:
    """Seconds since the first event; never decreases, even if the system clock was set back."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.set_back = 0
        """How many events have an earlier time than an event before them."""
        self._opened: datetime | None = None

    def read(self, moment: datetime) -> float:
        """The time of the next event."""
        self._opened = self._opened or moment
        seconds = (moment - self._opened) / timedelta(seconds=1)
        self.set_back += seconds < self.now_s
        self.now_s = max(self.now_s, seconds)
        return self.now_s


class OpenRequests:
    """The requests that have no answer yet, by call id.

    ``has_several_servers`` says whether the run has several servers, or has had them.
    """

    def __init__(self) -> None:
        self.has_several_servers = False
        self._open: dict[str, CallRequested] = {}

    def request_of(self, event: StageEvent) -> CallRequested | None:
        """The request that the next event sends or answers; None for other events."""
        match event:
            case RunOpened() | RunResumed():
                several = len(servers_of(event.backend)) > 1
                self.has_several_servers = self.has_several_servers or several
            case CallRequested():
                self._open[event.call_id] = event
                return event
            case CallCompleted() | CallFailed():
                return self._open.pop(event.call_id, None)
        return None

    def server_of(self, request: CallRequested | None) -> str:
        """The server of a request; "" without one, or in a run with one server."""
        return (request.server or "") if self.has_several_servers and request is not None else ""


Observer = Callable[[StageEvent, Call | None], None]


class LogWalk:
    """The content of a run's log: its fold, calls, epochs and events.

    ``openings`` are the first event and the resumes; ``ended_at`` is the time of the last event.
    ``alive`` says whether a process is
    executing the run. ``corruption`` says where the log is corrupt, None if it is sound;
    ``timeline`` holds the events before that point and reads them on demand.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.alive = is_locked(folder)
        self.fold = Fold()
        self.clock = RunClock()
        self.calls: list[Call] = []
        self.epochs: list[Epoch] = []
        self.openings: list[RunOpened | RunResumed] = []
        self.ended_at: datetime | None = None
        self.corruption: LogCorruptError | None = None
        self.timeline: Sequence[StageEvent] = ()
        self._requests = OpenRequests()
        self._open_calls: dict[str, Call] = {}
        self._failed_calls: dict[tuple[str, int], Call] = {}
        """Failed calls that no further attempt has followed."""

    @property
    def died(self) -> bool:
        """Whether the process of the run died, and no other has resumed it."""
        return self.fold.state == RunState.RUNNING and not self.alive

    def read(self, observe: Observer) -> None:
        """Read the log; ``observe`` receives each event, and the call that it begins or ends.

        Raises RunNotFoundError, OSError.
        """

        def take(events: Sequence[StageEvent]) -> None:
            if events:
                self.fold.apply_all(events)
            for event in events:
                observe(event, self._take(event))

        try:
            self.timeline = read_log(self.folder, take)
        except LogCorruptError as error:
            self.corruption = error
            if error.seq:
                self.timeline = read_log(self.folder, lambda _: None, until=error.seq - 1)
        if self.alive and self.fold.state == RunState.RUNNING:
            self._mark_under_way()

    def _take(self, event: StageEvent) -> Call | None:
        now_s = self.clock.read(event.ts)
        self.ended_at = event.ts
        if not self.epochs or event.epoch != self.epochs[-1].number:
            self.epochs.append(Epoch(event.epoch, event.ts, now_s, now_s))
        self.epochs[-1].ended_s = now_s
        server = self._requests.server_of(self._requests.request_of(event))
        match event:
            case RunOpened() | RunResumed():
                self.openings.append(event)
                self._open_calls.clear()
            case CallRequested():
                return self._begin(event, now_s, server)
            case CallCompleted() | CallFailed():
                return self._end(event, now_s)
        return None

    def _begin(self, event: CallRequested, now_s: float, server: str) -> Call:
        failed = self._failed_calls.pop((event.stage_id, event.image_index), None)
        if failed is not None:
            failed.state = CallState.REPEATED
        call = Call(
            event.stage_id,
            event.image_index,
            event.count,
            event.attempt,
            event.request_sha256,
            now_s,
            now_s,
            event.seq,
            server=server,
        )
        self.calls.append(call)
        self._open_calls[event.call_id] = call
        return call

    def _end(self, event: CallCompleted | CallFailed, now_s: float) -> Call | None:
        call = self._open_calls.pop(event.call_id, None)
        if call is None:
            return None
        call.ended_s, call.last_seq = now_s, event.seq
        if isinstance(event, CallCompleted):
            call.state = CallState.RETRIED if call.attempt else CallState.COMPLETED
        else:
            call.state = CallState.FAILED
            call.error_kind, call.error_message = event.error.kind, event.error.message
            self._failed_calls[call.stage_id, call.image_index] = call
        return call

    def _mark_under_way(self) -> None:
        """A process still waits for the answers to these calls."""
        for call in self._open_calls.values():
            call.ended_s = self.clock.now_s
            call.state = CallState.UNDER_WAY
