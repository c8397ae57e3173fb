"""Legal lives of a run, event by event: slots, batches, reuse, failures, cancels, deaths, resumes.

A life is a list of events and live steps, as hypothesis draws them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import msgspec
from hypothesis import strategies as st
from stagewright.events import (
    CallCompleted,
    CallFailed,
    CallRequested,
    CallReused,
    CancelMode,
    CancelRequested,
    LifecycleChanged,
    RunOpened,
    RunState,
    StageEvent,
    StepProgress,
)

from .stories import Story, error, stage_id

STEPS: dict[str, dict[str, Any]] = {
    "txt2img": {"steps": 25, "hires": {"steps": 12}},
    "img2img": {"steps": 20},
    "upscale": {},
    "adetailer": {"steps": 20, "passes": [{"model": "face"}, {"model": "hand", "steps": 8}]},
}
KINDS = tuple(STEPS)
WAYS_BACK = {
    RunState.ERROR: "recover",
    RunState.CANCELLED: "cleanup",
    RunState.COMPLETED: "reset",
}
Told = StageEvent | StepProgress


class Plan(msgspec.Struct, frozen=True):
    """What a run is to make; stages in canonical order."""

    kinds: tuple[str, ...]
    images: int
    batch: int
    slots: int
    servers: int = 0
    """How many servers share it; 0 where the log names none."""

    def spans(self, kind: str) -> Iterator[tuple[int, int]]:
        """First index and number of each request's images."""
        size = self.batch if kind == "txt2img" else 1
        for first in range(0, self.images, size):
            yield first, min(size, self.images - first)


class Life(Story):
    """A run that is told as it is lived; ``told`` holds its events and live steps, in order."""

    def __init__(self, plan: Plan, draw: Any) -> None:
        super().__init__(*plan.kinds, images=plan.images)
        self.plan = plan
        self.draw = draw
        self.finished: dict[str, set[int]] = {kind: set() for kind in plan.kinds}
        stages = [
            {"stage_id": stage_id(kind), "stage_type": kind, "config": STEPS[kind]}
            for kind in plan.kinds
        ]
        opened = self.events[0]
        assert isinstance(opened, RunOpened)
        self.events[0] = msgspec.structs.replace(opened, plan={"stages": stages})
        self.told: list[Told] = list(self.events)

    def add(self, kind: type[StageEvent], **fields: Any) -> Life:
        if kind is CallRequested and self.plan.servers:
            fields["server"] = f"http://{self.draw(st.integers(1, self.plan.servers))}:7860"
        super().add(kind, **fields)
        self.told.append(self.events[-1])
        return self

    def live(self) -> Life:
        """From the start to some end, over any number of epochs."""
        self.move("start")
        self._epoch()
        while self.draw(st.booleans()):
            if not self._resume():
                break
            self._epoch()
        return self

    @property
    def state(self) -> RunState:
        """Where the lifecycle is."""
        return next(e.dest for e in reversed(self.events) if isinstance(e, LifecycleChanged))

    def _epoch(self) -> None:
        """One process's work, to its end or its death."""
        goes_on = self.draw(st.booleans())
        missing = False
        for kind in self.plan.kinds:
            end, has_failed = self._stage(kind, goes_on=goes_on)
            missing = missing or has_failed
            if end in ("fail", "cancel"):
                self.move(end, error() if end == "fail" else None, "enough")
            if end != "completed":
                return
        if missing:
            self.move("fail", error("MissingImagesError"))
        else:
            self.move("finish").seal("completed")

    def _stage(self, kind: str, *, goes_on: bool) -> tuple[str, bool]:
        """How it ended (``died`` says nothing of it), and whether images are given up."""
        before = self.plan.kinds[: self.plan.kinds.index(kind)]
        sources = self.finished[before[-1]] if before else set(range(self.plan.images))
        spans = [
            span
            for span in self.plan.spans(kind)
            if not self._indexes(span) <= self.finished[kind] and self._indexes(span) & sources
        ]
        if not spans:
            return "completed", len(self.finished[kind]) < self.plan.images
        self.begin(kind)
        under_way: list[tuple[tuple[int, int], str, int]] = []
        has_failed = False
        while spans or under_way:
            moves = ["answer", "answer", "step", "step", "fail"] if under_way else []
            moves += ["ask", "ask", "reuse"] if spans and len(under_way) < self.plan.slots else []
            move = self.draw(st.sampled_from(moves))
            if move == "reuse":
                self._reuse_all(kind, spans.pop(0))
            elif move == "ask":
                span = spans.pop(0)
                under_way.append((span, self.ask(kind, *span), 0))
            else:
                place = self.draw(st.integers(0, len(under_way) - 1))
                end = self._go_on(kind, move, under_way, place, goes_on=goes_on)
                has_failed = has_failed or end == "given up"
                if end in ("fail", "cancel", "died"):
                    return end, has_failed
        outcome = "partial" if has_failed else "completed"
        self.end(kind, outcome)
        return "completed", has_failed

    def _go_on(
        self,
        kind: str,
        move: str,
        under_way: list[tuple[tuple[int, int], str, int]],
        place: int,
        *,
        goes_on: bool,
    ) -> str | None:
        span, call_id, _ = under_way[place]
        if move == "fail":
            return self._fail(kind, under_way, place, goes_on=goes_on)
        if move == "answer":
            del under_way[place]
            self._answer_all(kind, span, call_id)
            return None
        fraction = self.draw(st.floats(0, 1))
        whole = 37 if kind == "txt2img" else 20
        self.told.append(
            StepProgress(
                stage_id=stage_id(kind),
                image_index=span[0],
                step=int(fraction * whole),
                steps=whole,
                fraction=fraction,
            )
        )
        return None

    def _answer_all(self, kind: str, span: tuple[int, int], call_id: str) -> None:
        self.answer(call_id, kind, span[0], count=span[1])
        self._announce_all(kind)

    def _reuse_all(self, kind: str, span: tuple[int, int]) -> None:
        self.reuse(kind, *span)
        if self.draw(st.booleans()):
            self.late_s += self.draw(st.integers(0, 20))
        self._announce_all(kind)

    def _announce_all(self, kind: str) -> None:
        made = self.events[-1]
        assert isinstance(made, CallCompleted | CallReused)
        for image in made.artifacts:
            self.announce(kind, image.image_index, image)
            self.finished[kind].add(image.image_index)

    def _fail(
        self,
        kind: str,
        under_way: list[tuple[tuple[int, int], str, int]],
        place: int,
        *,
        goes_on: bool,
    ) -> str | None:
        """A failure: it is tried again, given up, ends the run, or comes of a cancel or a kill."""
        span, call_id, failures = under_way[place]
        ways = ["fail", "cancel", "died", *(["retry"] * 4 if failures < 3 else [])]
        ways = [*ways, "given up", "given up"] if goes_on else ways
        way: str = self.draw(st.sampled_from(ways))
        if way == "died":
            return way
        if way == "cancel":
            self.add(CancelRequested, reason="enough", mode=CancelMode.NOW)
        kinds = {"cancel": "GenerationInterrupted"}
        failed = error(kinds.get(way, "BackendError"), stage_id=stage_id(kind), image_index=span[0])
        self.add(CallFailed, call_id=call_id, endpoint="x", error=failed, will_retry=way == "retry")
        if way == "retry":
            under_way[place] = (span, self.ask(kind, *span), failures + 1)
            return None
        del under_way[place]
        if way == "given up":
            return way
        self.end(kind, "cancelled" if way == "cancel" else "failed")
        return way

    def _resume(self) -> bool:
        """A later process takes the run up, unless nothing of it is to be done.

        Files may have been lost meanwhile.
        """
        lost = self._lose() if self.draw(st.booleans()) else {}
        if self.state == RunState.COMPLETED and not lost:
            return False
        self.epoch += 1
        if self.state == RunState.RUNNING:
            self.move("fail", error("ProcessDied"), "process died")
        self.move(WAYS_BACK[self.state])
        self.resumed(**({"lost": lost} if lost else {}))
        self.move("start")
        return True

    def _lose(self) -> dict[str, tuple[tuple[int, int], ...]]:
        lost = {}
        for kind, finished in self.finished.items():
            gone = self.draw(st.sets(st.sampled_from(sorted(finished)))) if finished else set()
            finished.difference_update(gone)
            if gone:
                lost[stage_id(kind)] = tuple(_rows(sorted(gone)))
        return lost

    @staticmethod
    def _indexes(span: tuple[int, int]) -> set[int]:
        return set(range(span[0], span[0] + span[1]))


def _rows(indexes: Sequence[int]) -> Iterator[tuple[int, int]]:
    for _, row in groupby(enumerate(indexes), lambda one: one[1] - one[0]):
        members = [index for _, index in row]
        yield members[0], members[-1]


@st.composite
def plans(draw: Any) -> Plan:
    """Every legal combination of stages, with a few images."""
    kinds = draw(st.sets(st.sampled_from(KINDS), min_size=1))
    if "adetailer" in kinds and not kinds & {"txt2img", "img2img"}:
        kinds = {*kinds, "img2img"}
    ordered = tuple(kind for kind in KINDS if kind in kinds)
    small = st.integers(1, 3)
    servers = draw(st.integers(0, 3))
    return Plan(ordered, draw(st.integers(1, 5)), draw(small), draw(small), servers)


@st.composite
def lives(draw: Any) -> list[Told]:
    """A whole life of a run."""
    return Life(draw(plans()), draw).live().told
