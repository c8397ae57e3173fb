"""Measures the elapsed time of a run, and estimates the remaining time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from ....events.model import RunState, StageEvent

_LONGEST_S = 1e9
"""Longer durations in a foreign log are ignored."""


class EpochTime:
    """The duration of the present epoch, in seconds.

    Up to the last event it follows the times of the events, where a clock that was set back
    counts as stopped; after that it follows ``monotonic``. Events of another epoch, such as a
    late seal, are ignored.
    """

    def __init__(self, event: StageEvent, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._epoch = event.epoch
        self._last = event.ts
        self._taken = monotonic()
        self._shown_s = 0.0
        self.at_last_event_s = 0.0
        self.is_running = False

    def take(self, event: StageEvent) -> None:
        """Advance to the time of an event."""
        if event.epoch == self._epoch:
            self.at_last_event_s += max(0.0, (event.ts - self._last).total_seconds())
            self._last = event.ts
            self._taken = self._monotonic()

    def make_up(self, since_s: float, duration_ms: float) -> None:
        """Correct the time: something that began at ``since_s`` lasted ``duration_ms``."""
        if 0 < duration_ms < _LONGEST_S * 1000:
            self.at_last_event_s = max(self.at_last_event_s, since_s + duration_ms / 1000)

    @property
    def now_s(self) -> float:
        """The duration up to now, or up to the end of the epoch."""
        since = self._monotonic() - self._taken if self.is_running else 0.0
        return self.at_last_event_s + since

    def shown_s(self) -> float:
        """``now_s``, but never less than an earlier result."""
        self._shown_s = max(self._shown_s, self.now_s)
        return self._shown_s


class Tally(NamedTuple):
    """An amount of work, and the seconds that it took."""

    seconds: float = 0.0
    amount: float = 0.0

    def plus(self, seconds: float, amount: float) -> Tally:
        return Tally(self.seconds + seconds, self.amount + amount)

    @property
    def seconds_each(self) -> float | None:
        """The time of a unit of work; None if it is not known."""
        is_known = self.seconds > 0 and self.amount > 0
        each = self.seconds / self.amount if is_known else math.inf
        return each if math.isfinite(each) else None  # a tiny step is no pace


class RunProgress(NamedTuple):
    """The progress of one run; ``state`` is None for a run that was removed.

    ``fraction`` of its work is finished now, from 0 to 1. ``seconds`` are the time in which
    ``worked``, a fraction of its work too, was done, over all its epochs; work that was lost and
    made again counts each time.
    """

    state: RunState | None
    fraction: float
    seconds: float = 0.0
    worked: float = 0.0


class Pace:
    """The seconds that a unit of work takes, in the present stage and in general.

    The general pace is that of this epoch or, until it has made progress, of earlier epochs.
    """

    def __init__(self) -> None:
        self._stage = self._epoch = self._earlier = Tally()
        self._at_s = self._amount = 0.0

    @property
    def tally(self) -> Tally:
        """The work of all epochs, and its time."""
        return self._earlier.plus(*self._epoch)

    def begin_epoch(self, amount: float) -> None:
        """A new epoch begins with this amount done."""
        self._earlier = self._earlier.plus(*self._epoch)
        self._stage = self._epoch = Tally()
        self._at_s, self._amount = 0.0, amount

    def begin_stage(self) -> None:
        """A stage begins."""
        self._stage = Tally()

    def mark(self, at_s: float, amount: float) -> None:
        """This amount is done at ``at_s`` seconds of the epoch."""
        since = (at_s - self._at_s, amount - self._amount)
        self._stage, self._epoch = self._stage.plus(*since), self._epoch.plus(*since)
        self._at_s, self._amount = at_s, amount

    def skip(self, at_s: float, amount: float, *, idle: bool) -> None:
        """This amount is done without work; ``idle`` says that no work is under way either."""
        self._amount = amount
        if idle:
            self._at_s = at_s

    def remaining_s(
        self, now_s: float, *, in_stage: float, in_later: float, under_way: float
    ) -> float | None:
        """The time for the remaining work; None if no pace is known yet.

        Work ``under_way`` is assumed to progress since the last mark, but not to finish.
        """
        general = self._epoch.seconds_each or self._earlier.seconds_each
        stage = self._stage.seconds_each or general
        if stage is None:
            return None
        since = max(0.0, min(now_s - self._at_s, stage * under_way))
        return max(0.0, stage * in_stage - since) + (general or stage) * in_later
