"""Counts the requests, failures and time of each stage."""

from __future__ import annotations

from collections import defaultdict

from ....events.model import (
    CallCompleted,
    CallFailed,
    CallRequested,
    StageEnd,
    StageEvent,
    StageStart,
)

_LONGEST_MS = 1e15
"""Longer durations in a foreign log are ignored."""


class StageWork:
    """The work on one stage, over all epochs.

    ``inputs_requested`` holds, by image index, the sequence number of the answered request if
    it had input images.
    """

    def __init__(self) -> None:
        self.attempts = 0
        self.failed_attempts = 0
        self.inputs_requested: dict[int, int] = {}
        self._ended_ms = 0.0
        self._calls_ms = 0.0

    @property
    def duration_ms(self) -> float:
        """Working time: for each epoch its recorded duration, else that of its answered requests.

        An epoch that died within the stage has no recorded duration. All durations come from
        a monotonic clock.
        """
        return self._ended_ms + self._calls_ms

    def begin(self) -> None:
        """A further epoch starts the stage; the one before may have died in it."""
        self._ended_ms, self._calls_ms = self.duration_ms, 0.0

    def add_call(self, duration_ms: float) -> None:
        """Add an answered request."""
        self._calls_ms += _sound(duration_ms)

    def end(self, duration_ms: float) -> None:
        """An epoch ends the stage with this total duration."""
        self._ended_ms, self._calls_ms = self._ended_ms + _sound(duration_ms), 0.0


class WorkTally:
    """Counts the work of each stage from events."""

    def __init__(self) -> None:
        self.stages: defaultdict[str, StageWork] = defaultdict(StageWork)
        self._requests: dict[str, CallRequested] = {}

    def take(self, event: StageEvent) -> None:
        """Add one more event."""
        match event:
            case StageStart():
                self.stages[event.stage_id].begin()
            case CallRequested():
                self.stages[event.stage_id].attempts += 1
                self._requests[event.call_id] = event
            case CallCompleted():
                self._completed(event)
            case CallFailed():
                request = self._requests.pop(event.call_id, None)
                if request is not None:
                    self.stages[request.stage_id].failed_attempts += 1
            case StageEnd():
                self.stages[event.stage_id].end(event.duration_ms)

    def _completed(self, event: CallCompleted) -> None:
        request = self._requests.pop(event.call_id, None)
        if request is None:
            return
        work = self.stages[request.stage_id]
        work.add_call(event.duration_ms)
        if request.inputs:
            for artifact in event.artifacts:
                work.inputs_requested[artifact.image_index] = request.seq


def _sound(duration_ms: float) -> float:
    return duration_ms if 0 <= duration_ms <= _LONGEST_MS else 0.0
