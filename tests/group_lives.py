"""Legal lives of a group, event by event: variants, deaths, cancels, resumes.

A life is a list of events of the group, and of events and live steps of its runs, as hypothesis
draws them. ``GroupStory`` makes the events of a group one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec
from hypothesis import strategies as st
from stagewright.events import (
    BackendDescription,
    CancelMode,
    LifecycleChanged,
    Outcome,
    RunOpened,
    RunState,
    StageEvent,
)
from stagewright.events.groups.model import (
    GroupCancelled,
    GroupEvent,
    GroupOpened,
    GroupResumed,
    GroupSealed,
    SweepAxis,
    Variant,
    VariantBegun,
    VariantRemoved,
)

from .status_lives import Told, lives
from .support import START

GROUP = "20261120T225226.123456Z-sweep-0a1b2c"
GroupTold = GroupEvent | Told
_PROCESS: dict[str, Any] = {"software": "0", "host": "here", "boot_id": "1", "pid": 1}


def variant_run(place: int) -> str:
    """The run id of a variant."""
    return f"20261120T225226.123456Z-variant-{place:06x}"


class GroupStory:
    """The events of one group; each method gives the next one."""

    def __init__(self, variants: Sequence[Variant], group_id: str = GROUP) -> None:
        self.group_id = group_id
        self.variants = tuple(variants)
        self.events: list[GroupEvent] = []
        self.epoch = 0

    def add(self, kind: type[GroupEvent], **fields: Any) -> GroupEvent:
        """The next event."""
        seq = len(self.events)
        at: dict[str, Any] = {"seq": seq, "ts": START + timedelta(seconds=seq), "epoch": self.epoch}
        self.events.append(kind(group_id=self.group_id, **at, **fields))
        return self.events[-1]

    def open(self, **fields: Any) -> GroupEvent:
        """The group's first event, with an axis over ``txt2img.steps``."""
        values = tuple(variant.variant_index for variant in self.variants)
        axes = (SweepAxis(key="txt2img.steps", values=values),)
        given: dict[str, Any] = {"config": {}, "axes": axes, "seed": 1, "software": "0", **fields}
        backend = BackendDescription(kind="embedded")
        process = {key: value for key, value in _PROCESS.items() if key != "software"}
        return self.add(GroupOpened, variants=self.variants, backend=backend, **process, **given)

    def begin(self, place: int, run_id: str | None = None) -> GroupEvent:
        """A variant gets its run."""
        index = self.variants[place].variant_index
        return self.add(VariantBegun, variant_index=index, run_id=run_id or variant_run(place))

    def cancel(self) -> GroupEvent:
        """The group is asked to stop."""
        return self.add(GroupCancelled, mode=CancelMode.NOW, reason="enough")

    def resume(self) -> GroupEvent:
        """A later process goes on."""
        self.epoch += 1
        return self.add(GroupResumed, **_PROCESS)

    def remove(self, place: int) -> GroupEvent:
        """The run of a variant is removed on purpose."""
        index = self.variants[place].variant_index
        return self.add(VariantRemoved, variant_index=index, run_id=variant_run(place), reason="rm")

    def seal(self, outcome: str, **fields: Any) -> GroupEvent:
        """The epoch is closed."""
        closed = {"count": len(self.events), "head": "0" * 64}
        return self.add(GroupSealed, outcome=Outcome(outcome), **closed, **fields)


def variants(*weights: int, **values: Sequence[Any]) -> list[Variant]:
    """Variants of so many sampling steps; ``values`` by key, with ``__`` for a dot."""
    return [
        Variant(
            variant_index=place,
            values={key.replace("__", "."): each[place] for key, each in values.items()},
            total_images=2,
            total_steps=weight,
        )
        for place, weight in enumerate(weights)
    ]


def in_group(event: StageEvent, place: int, values: Mapping[str, Any] | None = None) -> StageEvent:
    """An event of a run, as one of a variant's run."""
    named = msgspec.structs.replace(event, run_id=variant_run(place))
    if isinstance(named, RunOpened):
        extra = {"group_id": GROUP, "variant_index": place, "varied": values or {}}
        named = msgspec.structs.replace(named, **extra)
    return named


def _segments(life: Sequence[Told], place: int) -> list[list[Told]]:
    """A run's life, cut where another process goes on with it."""
    epochs: list[list[Told]] = [[]]
    epoch = 0
    for told in life:
        if isinstance(told, StageEvent):
            if told.epoch != epoch:
                epoch = told.epoch
                epochs.append([])
            told = in_group(told, place)  # noqa: PLW2901 - the same event
        epochs[-1].append(told)
    return epochs


def _end(told: Sequence[Told]) -> RunState | None:
    """The state that a process left a run in."""
    moves = [one.dest for one in told if isinstance(one, LifecycleChanged)]
    return moves[-1] if moves else None


class _GroupLife:
    """A group that is told as it is lived."""

    def __init__(self, draw: Any, runs: Sequence[Sequence[Told]], weights: Sequence[int]) -> None:
        self.draw = draw
        self.story = GroupStory(variants(*weights))
        self.waiting = {place: _segments(life, place) for place, life in enumerate(runs)}
        self.ends: dict[int, RunState | None] = {}
        self.begun: set[int] = set()
        self.told: list[GroupTold] = [self.story.open()]

    def live(self) -> list[GroupTold]:
        self._epoch()
        while any(self.waiting.values()) and self.draw(st.integers(0, 4)):
            self.told.append(self.story.resume())
            self._epoch()
        return self.told

    def _epoch(self) -> None:
        """One process's work, to its end or its death."""
        for place, segments in self.waiting.items():
            if not segments:
                continue
            if place not in self.begun:
                self.begun.add(place)
                self.told.append(self.story.begin(place))
            told = segments.pop(0)
            self.told += told
            self.ends[place] = _end(told)
            if self.ends[place] == RunState.RUNNING:
                return  # The process died.
            if self.ends[place] == RunState.CANCELLED:
                self.told += [self.story.cancel(), self.story.seal("cancelled")]
                return
        states = [self.ends.get(place) for place in self.waiting]
        whole = all(state == RunState.COMPLETED for state in states)
        self.told.append(self.story.seal("completed" if whole else "failed"))


@st.composite
def group_lives(draw: Any) -> list[GroupTold]:
    """A whole life of a group of a few variants."""
    runs = draw(st.lists(lives(), min_size=1, max_size=3))
    weights = draw(st.lists(st.integers(0, 200), min_size=len(runs), max_size=len(runs)))
    return _GroupLife(draw, runs, weights).live()
