"""The calls, marks and epochs of a run's timeline, collected from its events."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from ....events.model import (
    CallCompleted,
    CallFailed,
    CallRequested,
    CancelRequested,
    LifecycleChanged,
    LogRepaired,
    RunResumed,
    RunState,
    StageEnd,
    StageEvent,
    StageStart,
)
from ...text import count

MAX_CALLS = 100_000
MAX_MARKS = 400
MAX_SPANS = 4_000
MAX_EPOCHS = 200
_MAX_WORDS = 300


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


CALL_WORDS = {
    CallState.COMPLETED: "completed",
    CallState.RETRIED: "completed after a retry",
    CallState.REPEATED: "failed, retried",
    CallState.FAILED: "failed",
    CallState.UNANSWERED: "unanswered",
    CallState.UNDER_WAY: "under way",
}
"""The states as shown on the page."""
DONE = frozenset([CallState.COMPLETED, CallState.RETRIED])
NOT_DONE = frozenset([CallState.REPEATED, CallState.FAILED])


class Call(msgspec.Struct, gc=False):
    """One attempt at one request; times are seconds since the run was opened.

    ``last_seq`` is the event that ended it, or else the one that began it.
    """

    stage_id: str
    image_index: int
    count: int
    attempt: int
    began_s: float
    ended_s: float
    last_seq: int
    state: CallState = CallState.UNANSWERED
    words: str = ""


class MarkKind(StrEnum):
    """The kinds of marks on the timeline."""

    STARTED = "started"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    CANCEL = "cancel"
    RESUMED = "resumed"
    REPAIRED = "repaired"


class Mark(msgspec.Struct, frozen=True, gc=False):
    """A mark on the timeline."""

    at_s: float
    kind: MarkKind
    words: str
    seq: int


class StageSpan(msgspec.Struct, gc=False):
    """A stage from its start to its end in one epoch; ``ended_s`` grows until the end."""

    stage_id: str
    began_s: float
    ended_s: float


class Epoch(msgspec.Struct, gc=False):
    """The part of a run that one process executed; ``opened`` is the time of its first event."""

    number: int
    opened: datetime
    began_s: float
    ended_s: float


class RunClock:
    """Seconds since the first event; never decreases, even if the system clock was set back."""

    def __init__(self) -> None:
        self.opened: datetime | None = None
        self.now_s = 0.0
        self.set_back = 0
        """How many events have an earlier time than an event before them."""

    def read(self, moment: datetime) -> float:
        """The time of the next event."""
        if self.opened is None:
            self.opened = moment
        seconds = (moment - self.opened) / timedelta(seconds=1)
        if seconds < self.now_s:
            self.set_back += 1
        self.now_s = max(self.now_s, seconds)
        return self.now_s


class CallTimeline:
    """Collects calls, marks and epochs from events in order; beyond its bounds it only counts."""

    def __init__(self) -> None:
        self.clock = RunClock()
        self.calls: list[Call] = []
        self.marks: list[Mark] = []
        self.spans: list[StageSpan] = []
        self.epochs: list[Epoch] = []
        self.counts: Counter[CallState] = Counter()
        """Of all calls, including those beyond the bounds."""
        self._open_calls: dict[str, Call] = {}
        self._failed_calls: dict[tuple[str, int], Call] = {}
        """Failed calls that no further attempt has followed."""
        self._open_spans: dict[str, StageSpan] = {}
        self._names: dict[str, str] = {}

    def take(self, event: StageEvent) -> None:
        """Take one more event into account."""
        now_s = self.clock.read(event.ts)
        self._take_epoch(event, now_s)
        match event:
            case CallRequested():
                self._begin(event, now_s)
            case CallCompleted():
                self._finish(event, now_s)
            case CallFailed():
                self._fail(event, now_s)
            case StageStart():
                self._begin_stage(event, now_s)
            case StageEnd():
                self._end_stage(event.stage_id, now_s)
            case LifecycleChanged():
                self._change(event, now_s)
            case CancelRequested():
                words = f"cancel requested ({event.mode}): {event.reason}"
                self._mark(now_s, MarkKind.CANCEL, words, event.seq)
            case RunResumed():
                self._open_spans.clear()
                self._open_calls.clear()
                done = count(event.completed_images, "image")
                words = f"resumed: epoch {event.epoch}, {done} finished"
                self._mark(now_s, MarkKind.RESUMED, words, event.seq)
            case LogRepaired():
                words = f"{count(event.bytes, 'byte')} of an incomplete record removed"
                self._mark(now_s, MarkKind.REPAIRED, words, event.seq)

    def mark_under_way(self) -> None:
        """Mark the unanswered calls as under way: a process still waits for their answers."""
        for call in self._open_calls.values():
            call.ended_s = self.clock.now_s
            self._settle(call, CallState.UNDER_WAY)

    @property
    def total_calls(self) -> int:
        """The number of all calls, including those beyond the bounds."""
        return sum(self.counts.values())

    def _take_epoch(self, event: StageEvent, now_s: float) -> None:
        last = self.epochs[-1] if self.epochs else None
        if last is None or (event.epoch != last.number and len(self.epochs) < MAX_EPOCHS):
            self.epochs.append(Epoch(event.epoch, event.ts, now_s, now_s))
        else:
            last.ended_s = now_s
        for span in self._open_spans.values():
            span.ended_s = now_s

    def _begin(self, event: CallRequested, now_s: float) -> None:
        self.counts[CallState.UNANSWERED] += 1
        stage_id = self._names.setdefault(event.stage_id, event.stage_id)
        failed = self._failed_calls.pop((stage_id, event.image_index), None)
        if failed is not None:
            self._settle(failed, CallState.REPEATED)
        call = Call(
            stage_id, event.image_index, event.count, event.attempt, now_s, now_s, event.seq
        )
        if len(self.calls) < MAX_CALLS:
            self.calls.append(call)
        if len(self._open_calls) < MAX_CALLS:
            self._open_calls[event.call_id] = call

    def _finish(self, event: CallCompleted, now_s: float) -> None:
        call = self._answered(event.call_id, event.seq, now_s)
        if call is not None:
            self._settle(call, CallState.RETRIED if call.attempt else CallState.COMPLETED)

    def _fail(self, event: CallFailed, now_s: float) -> None:
        call = self._answered(event.call_id, event.seq, now_s)
        if call is not None:
            self._settle(call, CallState.FAILED)
            call.words = f"{event.error.kind}: {event.error.message}"[:_MAX_WORDS]
            if len(self._failed_calls) < MAX_CALLS:
                self._failed_calls[call.stage_id, call.image_index] = call

    def _answered(self, call_id: str, seq: int, now_s: float) -> Call | None:
        call = self._open_calls.pop(call_id, None)
        if call is not None:
            call.ended_s, call.last_seq = now_s, seq
        return call

    def _settle(self, call: Call, state: CallState) -> None:
        self.counts[call.state] -= 1
        self.counts[state] += 1
        call.state = state

    def _begin_stage(self, event: StageStart, now_s: float) -> None:
        if len(self.spans) < MAX_SPANS:
            span = StageSpan(event.stage_id, now_s, now_s)
            self._open_spans[event.stage_id] = span
            self.spans.append(span)

    def _end_stage(self, stage_id: str, now_s: float) -> None:
        span = self._open_spans.pop(stage_id, None)
        if span is not None:
            span.ended_s = now_s

    def _change(self, event: LifecycleChanged, now_s: float) -> None:
        kind = _MARKED_STATES.get(event.dest)
        if kind is not None:
            why = f": {event.reason}" if event.reason else ""
            self._mark(now_s, kind, f"{event.trigger}{why}", event.seq)

    def _mark(self, at_s: float, kind: MarkKind, words: str, seq: int) -> None:
        if len(self.marks) < MAX_MARKS:
            self.marks.append(Mark(at_s, kind, words[:_MAX_WORDS], seq))


_MARKED_STATES = {
    RunState.RUNNING: MarkKind.STARTED,
    RunState.COMPLETED: MarkKind.COMPLETED,
    RunState.ERROR: MarkKind.FAILED,
    RunState.CANCELLED: MarkKind.CANCELLED,
}
