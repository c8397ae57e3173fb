"""How much work a run took: requests, failures, time, stage by stage."""

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
"""Thirty thousand years; what a foreign log says beyond counts for nothing."""


class StageWork:
    """The work on one stage, over all epochs.

    ``inputs_asked`` has, by image index, the record of the answered request that was made
    from other images.
    """

    def __init__(self) -> None:
        self.attempts = 0
        self.failed_attempts = 0
        self.inputs_asked: dict[int, int] = {}
        self._ended_ms = 0.0
        self._calls_ms = 0.0

    @property
    def duration_ms(self) -> float:
        """Time worked: of each epoch what it says itself, else its answered requests'.

        An epoch that died within the stage could not say how long it had worked. All of these
        are differences of a clock that never jumps.
        """
        return self._ended_ms + self._calls_ms

    def begin(self) -> None:
        """Another epoch works on the stage; the one before may have died in it."""
        self._ended_ms, self._calls_ms = self.duration_ms, 0.0

    def add_call(self, duration_ms: float) -> None:
        """A request was answered."""
        self._calls_ms += _sound(duration_ms)

    def end(self, duration_ms: float) -> None:
        """An epoch has ended the stage, and says how long it took in all."""
        self._ended_ms, self._calls_ms = self._ended_ms + _sound(duration_ms), 0.0


class WorkTally:
    """Counts the work that events tell of, by stage."""

    def __init__(self) -> None:
        self.stages: defaultdict[str, StageWork] = defaultdict(StageWork)
        self._asked: dict[str, CallRequested] = {}

    def take(self, event: StageEvent) -> None:
        """Take one more event into account."""
        match event:
            case StageStart():
                self.stages[event.stage_id].begin()
            case CallRequested():
                self.stages[event.stage_id].attempts += 1
                self._asked[event.call_id] = event
            case CallCompleted():
                self._completed(event)
            case CallFailed():
                request = self._asked.pop(event.call_id, None)
                if request is not None:
                    self.stages[request.stage_id].failed_attempts += 1
            case StageEnd():
                self.stages[event.stage_id].end(event.duration_ms)

    def _completed(self, event: CallCompleted) -> None:
        request = self._asked.pop(event.call_id, None)
        if request is None:
            return
        work = self.stages[request.stage_id]
        work.add_call(event.duration_ms)
        if request.inputs:
            for artifact in event.artifacts:
                work.inputs_asked[artifact.image_index] = request.seq


def _sound(duration_ms: float) -> float:
    return duration_ms if 0 <= duration_ms <= _LONGEST_MS else 0.0
