"""Reads the log of a run in one pass, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from ....events.errors import LogCorruptError
from ....events.folds import Fold
from ....events.log.lock import is_locked
from ....events.log.reader import read_log
from ....events.model import (
    BackendDescription,
    CallCompleted,
    CallRequested,
    RunOpened,
    RunResumed,
    RunState,
    StageEvent,
    UnknownEvent,
)
from ...projections.used_settings import settings_used
from .calls import CallTimeline

SEEDS_AS_RECORDED = "seeds as recorded"
"""A key of ``UsedValues``: whether an answer reports the seeds recorded for its images."""

_MAX_ENVIRONMENTS = 50
_MAX_TYPES = 64
_MAX_VALUES = 6
_MAX_KEYS = 400


class EpochEnvironment(msgspec.Struct, frozen=True):
    """The backend, software and host of one epoch."""

    epoch: int
    backend: BackendDescription
    software: str
    host: str
    pid: int


class UsedValues:
    """The values that the answers of a stage report for each setting, and how often."""

    def __init__(self) -> None:
        self.answers = 0
        self._values: dict[str, Counter[tuple[type, Any]]] = {}

    def take(self, used: Mapping[str, Any]) -> None:
        """Take one more answer into account."""
        self.answers += 1
        for key, value in used.items():
            if key not in self._values and len(self._values) >= _MAX_KEYS:
                continue
            values = self._values.setdefault(key, Counter())
            typed = (type(value), value)  # 1 and true are equal in Python, but not in JSON
            if typed in values or len(values) < _MAX_VALUES:
                values[typed] += 1

    def reported(self) -> list[str]:
        """The settings that the answers report."""
        return list(self._values)

    def of(self, key: str) -> list[tuple[Any, int]]:
        """The values of a setting, the most frequent first; the rarest of many are left out."""
        found = self._values.get(key, Counter())
        return [(value, often) for (_, value), often in found.most_common()]


class LoggedRun:
    """The content of a run's log: its fold, calls, used settings and events.

    ``corruption`` says where the log is corrupt, None if it is sound. ``timeline`` holds the
    events before that point and reads them on demand. ``alive`` says whether a process is
    executing the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.alive = is_locked(folder)
        self.fold = Fold()
        self.call_timeline = CallTimeline()
        self.used: dict[str, UsedValues] = {}
        self.environments: list[EpochEnvironment] = []
        self.types: Counter[str] = Counter()
        self.opened_at: datetime | None = None
        self.ended_at: datetime | None = None
        self.corruption: LogCorruptError | None = None
        self._stage_of: dict[str, str] = {}
        self.timeline = self._read()
        if self.alive and self.fold.state == RunState.RUNNING:
            self.call_timeline.mark_under_way()

    @property
    def died(self) -> bool:
        """Whether the process of the run died, and no other has resumed it."""
        return self.fold.state == RunState.RUNNING and not self.alive

    def _read(self) -> Sequence[StageEvent]:
        try:
            return read_log(self.folder, self._take_all)
        except LogCorruptError as error:
            self.corruption = error
        if not self.corruption.seq:
            return ()
        return read_log(self.folder, lambda _: None, until=self.corruption.seq - 1)

    def _take_all(self, events: Sequence[StageEvent]) -> None:
        if not events:
            return
        self.fold.apply_all(events)
        self.opened_at = self.opened_at or events[0].ts
        self.ended_at = events[-1].ts
        for event in events:
            self._take(event)

    def _take(self, event: StageEvent) -> None:
        self.call_timeline.take(event)
        name = event_type(event)
        if name in self.types or len(self.types) < _MAX_TYPES:
            self.types[name] += 1
        match event:
            case CallRequested():
                self._stage_of[event.call_id] = event.stage_id
            case CallCompleted():
                self._take_answer(event)
            case RunOpened() | RunResumed() if len(self.environments) < _MAX_ENVIRONMENTS:
                hand = EpochEnvironment(
                    event.epoch, event.backend, event.software, event.host, event.pid
                )
                self.environments.append(hand)

    def _take_answer(self, event: CallCompleted) -> None:
        stage_id = self._stage_of.pop(event.call_id, "")
        stage = self.fold.stages.get(stage_id)
        if stage is not None:
            values = self.used.setdefault(stage_id, UsedValues())
            values.take({**settings_used(stage.stage_type, event.info), **_seeds_reported(event)})


def _seeds_reported(event: CallCompleted) -> Mapping[str, bool]:
    """Whether an answer reports the recorded seeds of its images; empty if it reports none."""
    seeds = event.info.get("all_seeds")
    recorded = [artifact.seed for artifact in event.artifacts]
    return (
        {SEEDS_AS_RECORDED: seeds[: len(recorded)] == recorded} if isinstance(seeds, list) else {}
    )


def event_type(event: StageEvent) -> str:
    """The tag of an event, also of one that a newer version wrote."""
    return event.type if isinstance(event, UnknownEvent) else type(event).__name__
