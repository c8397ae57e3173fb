"""What a simulated run takes for the world: its clock, its machine, and who notes its facts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest
from stagewright.events import (
    CallCompleted,
    CallReused,
    EventLog,
    StageEvent,
    StageImageProgress,
)
from stagewright.statemachine.resume import reopen
from stagewright.statemachine.run import creation, dispatcher, group_launcher, group_runner
from stagewright.statemachine.run.journal import ProcessFields

from .support import START

_ONE_PROCESS = ProcessFields(
    software="stagewright (simulated)", host="simulated", boot_id="0" * 32, pid=4242
)


@contextlib.contextmanager
def same_machine_everywhere() -> Iterator[None]:
    """Records are as long, and nothing comes by the wall clock, wherever a seed is run."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (creation, reopen, group_launcher):
            patch.setattr(module, "process_fields", lambda: _ONE_PROCESS)
        # Orders to cancel are looked for between stages and runs; a slow machine looks no oftener.
        for module in (dispatcher, group_runner):
            patch.setattr(module, "POLL_S", 60.0)
        yield


class JumpingClock:
    """A time of day that now and then jumps back, and a monotonic clock that does not."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._now = START
        self._monotonic_ms = 0.0

    def now(self) -> datetime:
        jump = -7200 if self._random.random() < 0.02 else 1
        self._now += timedelta(seconds=self._random.random() * jump)
        return self._now

    def monotonic_ms(self) -> float:
        self._monotonic_ms += self._random.randrange(1, 1000) / 8
        return self._monotonic_ms


class History:
    """The facts of a run whose recording was reported as done, and how many are durable.

    ``mistakes`` are images that were announced before their record was durable.
    """

    def __init__(self) -> None:
        self.events: list[StageEvent] = []
        self.durable = 0
        self.mistakes: list[str] = []
        self._recorded: dict[str, int] = {}

    def add(self, event: StageEvent, *, durable: bool) -> None:
        """Take down one more fact; what is durable makes all before it so."""
        self.events.append(event)
        if durable:
            self.durable = len(self.events)
        if isinstance(event, CallCompleted | CallReused):
            self._recorded.update((one.path, event.seq) for one in event.artifacts)
        if isinstance(event, StageImageProgress):
            path = event.artifact.path
            if self._recorded.get(path, -1) >= self.durable:
                self.mistakes.append(f"{path} is announced before its record is durable")


class WitnessedLog:
    """A run's log; ``history`` gets each record once ``append`` has returned."""

    def __init__(self, log: EventLog, history: History, *, every: bool) -> None:
        self._log = log
        self._history = history
        self._every = every

    @property
    def run_id(self) -> str:
        return self._log.run_id

    @property
    def next_seq(self) -> int:
        return self._log.next_seq

    @property
    def chain(self) -> str:
        return self._log.chain

    def append(self, event: StageEvent) -> None:
        self._log.append(event)
        self._history.add(event, durable=self._every or event.barrier)

    def event_at(self, seq: int) -> StageEvent:
        return self._log.event_at(seq)

    def timeline(self) -> Sequence[StageEvent]:
        return self._log.timeline()

    def close(self) -> None:
        self._log.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)
