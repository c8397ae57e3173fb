"""Collects the content of a report from the log of a run, in one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from ....events.folds import recorded_stages
from ....events.model import (
    Artifact,
    CallCompleted,
    CallReused,
    CancelRequested,
    LifecycleChanged,
    LogRepaired,
    RunResumed,
    RunState,
    StageEnd,
    StageEvent,
    StageStart,
    UnknownEvent,
)
from ....events.ratings.log import Ratings
from ...event_text import summarize_event
from ...projections.log_walk import Call, LogWalk
from ...projections.rating_text import rating_text
from ...projections.server_work import ServerTally
from ...projections.used_settings import settings_used
from .image_facts import PromptTable
from .settings_table import SEEDS_AS_RECORDED, UsedValues

MAX_STAGES = 32
_MAX_TEXT = 300


class MarkKind(StrEnum):
    """The kinds of marks on the timeline."""

    STARTED = "started"
    RESUMED = "resumed"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCEL = "cancel"
    CANCELLED = "cancelled"
    REPAIRED = "repaired"


class Mark(msgspec.Struct, frozen=True, gc=False):
    """An event that is marked on the timeline."""

    at_s: float
    kind: MarkKind
    text: str
    seq: int


class StageSpan(msgspec.Struct, gc=False):
    """A stage from its start to its end in one epoch; ``ended_s`` grows until the end."""

    stage_id: str
    began_s: float
    ended_s: float


class RunContent:
    """The log of a run, its marks and stage spans, and the settings that its answers report."""

    def __init__(self, folder: Path, ratings: Ratings | None = None) -> None:
        self._ratings = ratings
        self.marks: list[Mark] = []
        self.spans: list[StageSpan] = []
        self.used: dict[str, UsedValues] = {}
        """By stage id."""
        self.servers = ServerTally()
        """Of a run on several servers, what each made."""
        self.prompts = PromptTable()
        self.types: Counter[str] = Counter()
        self._open_spans: dict[str, StageSpan] = {}
        self.log = LogWalk(folder)
        self.log.read(self._take)

    @property
    def run_id(self) -> str:
        """The run's id, or the name of its folder if the log has no event."""
        return self.log.fold.run_id or self.log.folder.resolve().name

    def rating_of(self, artifact: Artifact) -> str:
        """What a person thinks of an image, as text; "" if it is not rated."""
        return (
            "" if self._ratings is None else rating_text(self._ratings.of(artifact.source_sha256))
        )

    def stage_ids(self) -> list[str]:
        """The planned stages, then other stages in the log; at most ``MAX_STAGES``."""
        fold = self.log.fold
        return list(dict.fromkeys([*fold.planned_stage_ids(), *fold.stages]))[:MAX_STAGES]

    def planned(self, stage_id: str) -> Mapping[str, Any]:
        """A stage as it was planned; empty if it was not."""
        stages = {stage["stage_id"]: stage for stage in recorded_stages(self.log.fold.plan)}
        return stages.get(stage_id, {})

    def finished_counts(self) -> list[int]:
        """The numbers of finished images, by planned stage."""
        stages = self.log.fold.stages
        ids = self.log.fold.planned_stage_ids()
        return [len(stages[one].finished) if one in stages else 0 for one in ids]

    def reused_count(self) -> int:
        """The number of finished images that earlier runs made, over all stages."""
        return sum(len(stage.reused) for stage in self.log.fold.stages.values())

    def _take(self, event: StageEvent, call: Call | None) -> None:
        now_s = self.log.clock.now_s
        self.types[event_type(event)] += 1
        self.servers.take(event)
        for span in self._open_spans.values():
            span.ended_s = now_s
        match event:
            case StageStart():
                self._open_spans[event.stage_id] = span = StageSpan(event.stage_id, now_s, now_s)
                self.spans.append(span)
            case StageEnd():
                self._open_spans.pop(event.stage_id, None)
            case CallCompleted() if call is not None:
                self._take_answer(event, call.stage_id)
            case CallReused():
                self._take_answer(event, event.stage_id)
            case RunResumed():
                self._open_spans.clear()
        kind = _mark_kind(event)
        if kind is not None:
            self.marks.append(Mark(now_s, kind, summarize_event(event)[:_MAX_TEXT], event.seq))

    def _take_answer(self, event: CallCompleted | CallReused, stage_id: str) -> None:
        stage = self.log.fold.stages.get(stage_id)
        if stage is not None:
            used = settings_used(stage.stage_type, event.info)
            values = self.used.setdefault(stage_id, UsedValues())
            values.take({**used, **_reported_seeds(event)})


def _mark_kind(event: StageEvent) -> MarkKind | None:
    if isinstance(event, LifecycleChanged):
        return _MARKED_STATES.get(event.dest)
    return _MARKED_EVENTS.get(type(event))


_MARKED_STATES = {
    RunState.RUNNING: MarkKind.STARTED,
    RunState.COMPLETED: MarkKind.COMPLETED,
    RunState.ERROR: MarkKind.FAILED,
    RunState.CANCELLED: MarkKind.CANCELLED,
}
_MARKED_EVENTS: Mapping[type[StageEvent], MarkKind] = {
    CancelRequested: MarkKind.CANCEL,
    RunResumed: MarkKind.RESUMED,
    LogRepaired: MarkKind.REPAIRED,
}


def _reported_seeds(event: CallCompleted | CallReused) -> Mapping[str, bool]:
    """Whether an answer reports the seeds recorded for its images, if it reports any."""
    reported = event.info.get("all_seeds")
    if not isinstance(reported, list):
        return {}
    recorded = [artifact.seed for artifact in event.artifacts]
    return {SEEDS_AS_RECORDED: reported[: len(recorded)] == recorded}


def event_type(event: StageEvent) -> str:
    """The tag of an event, also of one that a newer version wrote."""
    return event.type if isinstance(event, UnknownEvent) else type(event).__name__
