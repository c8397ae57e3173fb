"""How long a run has taken, and how long it may still take."""

from __future__ import annotations

from collections.abc import Callable

from ....events.model import StageEvent

_LONGEST_S = 1e9
"""No call or stage lasts so long; a foreign log may say anything."""


class EpochTime:
    """How long the present epoch has lasted, in seconds.

    Up to the last event it is what the events' times say, where a clock that was set back
    counts as one that stood still; since then it is what ``monotonic`` says. Events that
    belong to another epoch, a seal that came days later for one, count for nothing.
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
        """Go on to the time of an event."""
        if event.epoch == self._epoch:
            self.at_last_event_s += max(0.0, (event.ts - self._last).total_seconds())
            self._last = event.ts
            self._taken = self._monotonic()

    def make_up(self, since_s: float, duration_ms: float) -> None:
        """Something that began at ``since_s`` has lasted so long, whatever the clock said."""
        if 0 < duration_ms < _LONGEST_S * 1000:
            self.at_last_event_s = max(self.at_last_event_s, since_s + duration_ms / 1000)

    @property
    def now_s(self) -> float:
        """How long it has lasted by now; after its end, how long it lasted."""
        since = self._monotonic() - self._taken if self.is_running else 0.0
        return self.at_last_event_s + since

    def shown_s(self) -> float:
        """``now_s`` for somebody who has seen what it was before: never less than that."""
        self._shown_s = max(self._shown_s, self.now_s)
        return self._shown_s


class Pace:
    """Seconds that an amount of work takes: in the present stage, and in general.

    In general it is that of this epoch, and until that has got anywhere that of earlier ones.
    """

    def __init__(self) -> None:
        self._earlier = (0.0, 0.0)
        self._epoch_began_at = 0.0
        self._stage_began = (0.0, 0.0)
        self._mark = (0.0, 0.0)

    def begin_epoch(self, amount: float) -> None:
        """A new epoch begins with so much done."""
        seconds, before = self._mark
        self._earlier = (
            self._earlier[0] + seconds,
            self._earlier[1] + max(0.0, before - self._epoch_began_at),
        )
        self._epoch_began_at = amount
        self._stage_began = self._mark = (0.0, amount)

    def begin_stage(self, at_s: float, amount: float) -> None:
        """A stage begins after so many seconds of the epoch, with so much done."""
        self._stage_began = self._mark = (at_s, amount)

    def mark(self, at_s: float, amount: float) -> None:
        """So much is done after so many seconds of the epoch."""
        self._mark = (at_s, amount)

    def remaining_s(
        self, now_s: float, *, in_stage: float, in_later: float, under_way: float
    ) -> float | None:
        """How long it takes to do what is left; None while nothing tells.

        What is ``under_way`` is taken to go on as time passes since the last mark, and never
        to be done.
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
