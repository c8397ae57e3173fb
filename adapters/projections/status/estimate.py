"""Measures the elapsed time of a run, and estimates the remaining time."""

from __future__ import annotations

from collections.abc import Callable

from ....events.model import StageEvent

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


class Pace:
    """The seconds that a unit of work takes, in the present stage and in general.

    The general pace is that of this epoch or, until it has made progress, of earlier epochs.
    """

    def __init__(self) -> None:
        self._earlier = (0.0, 0.0)
        self._epoch_began_at = 0.0
        self._stage_began = (0.0, 0.0)
        self._mark = (0.0, 0.0)

    def begin_epoch(self, amount: float) -> None:
        """A new epoch begins with this amount done."""
        seconds, before = self._mark
        self._earlier = (
            self._earlier[0] + seconds,
            self._earlier[1] + max(0.0, before - self._epoch_began_at),
        )
        self._epoch_began_at = amount
        self._stage_began = self._mark = (0.0, amount)

    def begin_stage(self, at_s: float, amount: float) -> None:
        """A stage begins at ``at_s`` seconds of the epoch, with this amount done."""
        self._stage_began = self._mark = (at_s, amount)

    def mark(self, at_s: float, amount: float) -> None:
        """This amount is done at ``at_s`` seconds of the epoch."""
        self._mark = (at_s, amount)

    def remaining_s(
        self, now_s: float, *, in_stage: float, in_later: float, under_way: float
    ) -> float | None:
        """The time for the remaining work; None if no pace is known yet.

        Work ``under_way`` is assumed to progress since the last mark, but not to finish.
        """
        general = self._general()
        stage = _seconds_each(*_since(self._mark, self._stage_began)) or general
        if stage is None:
            return None
        since = min(now_s - self._mark[0], stage * under_way)
        rest = max(0.0, stage * in_stage - max(0.0, since))
        return rest + (general or stage) * in_later

    def _general(self) -> float | None:
        seconds, amount = self._mark
        return _seconds_each(seconds, amount - self._epoch_began_at) or _seconds_each(
            *self._earlier
        )


def _since(mark: tuple[float, float], began: tuple[float, float]) -> tuple[float, float]:
    return mark[0] - began[0], mark[1] - began[1]


def _seconds_each(seconds: float, amount: float) -> float | None:
    return seconds / amount if seconds > 0 and amount > 0 else None
