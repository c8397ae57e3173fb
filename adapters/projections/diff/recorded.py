"""Reads what a comparison needs from the log of a run, in one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from ....events.folds import Fold, StageFold, recorded_stages
from ....events.log.reader import read_log
from ....events.model import (
    CallCompleted,
    CallFailed,
    CallRequested,
    RunOpened,
    RunResumed,
    StageEvent,
)

_MOST_KINDS = 64
"""The most kinds of errors, and servers, that are kept."""


class RecordedRun:
    """The content of a run's log, with some 200 bytes of memory for each image of each stage.

    Raises RunNotFoundError, LogCorruptError.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fold = Fold()
        self.requests: dict[str, dict[int, int]] = {}
        """By stage and image index, the sequence number of the request that made the image."""
        self.failed_attempts: Counter[str] = Counter()
        self.backends: list[Mapping[str, Any]] = []
        """Each backend with its software, once, in the order of use."""
        self._pending: dict[str, tuple[str, int]] = {}
        self._began: datetime | None = None
        self._ended: datetime | None = None
        self.timeline = read_log(folder, self._observe)

    @property
    def opened(self) -> RunOpened:
        """The first event, which every sound log has."""
        assert self.fold.opened is not None
        return self.fold.opened

    @property
    def elapsed_ms(self) -> float:
        """The time from the first event to the last, including pauses between epochs."""
        assert self._began is not None
        assert self._ended is not None
        return (self._ended - self._began).total_seconds() * 1000

    def stages(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The stages of the plan with a label: their type, ``txt2img 2`` for a second one.

        If the plan names no stages, those that started.
        """
        planned: list[Mapping[str, Any]] = recorded_stages(self.opened.plan) or [
            {"stage_id": one.stage_id, "stage_type": str(one.stage_type), "config": {}}
            for one in self.fold.stages.values()
        ]
        seen: Counter[str] = Counter()
        for stage in planned:
            kind = str(stage.get("stage_type", stage["stage_id"]))
            seen[kind] += 1
            yield (kind if seen[kind] == 1 else f"{kind} {seen[kind]}"), stage

    def folded(self, stage_id: str) -> StageFold | None:
        """The fold of a stage; None if it did not start."""
        return self.fold.stages.get(stage_id)

    def _observe(self, events: Sequence[StageEvent]) -> None:
        self._began = self._began or events[0].ts
        self._ended = events[-1].ts
        for event in events:
            match event:
                case CallRequested():
                    self._pending[event.call_id] = (event.stage_id, event.seq)
                case CallCompleted():
                    self._note_answer(event)
                case CallFailed():
                    self._pending.pop(event.call_id, None)
                    known = event.error.kind in self.failed_attempts
                    if known or len(self.failed_attempts) < _MOST_KINDS:
                        self.failed_attempts[event.error.kind] += 1
                case RunOpened() | RunResumed():
                    self._note_backend(event)
        self.fold.apply_all(events)

    def _note_answer(self, event: CallCompleted) -> None:
        stage_id, seq = self._pending.pop(event.call_id, ("", 0))
        if stage_id:
            table = self.requests.setdefault(stage_id, {})
            for artifact in event.artifacts:
                table[artifact.image_index] = seq

    def _note_backend(self, event: RunOpened | RunResumed) -> None:
        backend = {**msgspec.structs.asdict(event.backend), "software": event.software}
        if backend not in self.backends and len(self.backends) < _MOST_KINDS:
            self.backends.append(backend)
