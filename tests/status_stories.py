"""Stories of runs, and a bar that shows them by a clock which a test sets."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
from stagewright.adapters import RunStatus, StatusBar
from stagewright.events import RunOpened, StepProgress

from .status_lives import STEPS
from .stories import Story, stage_id
from .support import START


class Clock:
    """A monotonic clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Shown:
    """A bar with a clock of its own, and a story whose events it has been given."""

    def __init__(self, story: Story, **options: Any) -> None:
        self.clock = Clock()
        self.story = story
        self.bar = StatusBar(monotonic=self.clock, **options)
        self._given = 0

    def now(self) -> RunStatus:
        for event in self.story.events[self._given :]:
            self.bar.take_event(event)
        self._given = len(self.story.events)
        return self.bar.snapshot()

    def step(self, kind: str, index: int, step: int, steps: int, fraction: float) -> RunStatus:
        """A live step, and what is shown then."""
        self.now()
        self.bar.take_step(
            StepProgress(
                stage_id=stage_id(kind), image_index=index, step=step, steps=steps,
                fraction=fraction,
            )
        )  # fmt: skip
        return self.now()


def planned(*kinds: str, images: int = 2, **plan: Any) -> Story:
    """A story with the steps of its stages, running."""
    story = Story(*kinds, images=images)
    stages = [
        {"stage_id": stage_id(kind), "stage_type": kind, "config": STEPS[kind]} for kind in kinds
    ]
    return replan(story, {"stages": stages, **plan}).move("start")


def replan(story: Story, plan: dict[str, Any], **fields: Any) -> Story:
    """The story with another plan, and other fields of its RunOpened."""
    opened = story.events[0]
    assert isinstance(opened, RunOpened)
    story.events[0] = msgspec.structs.replace(opened, plan=plan, **fields)
    return story


def made(story: Story, kind: str, *indexes: int) -> Story:
    """Images that are made and announced."""
    for index in indexes:
        story.make(kind, index).announce(kind, index, story.image(kind, index))
    return story


def reused(story: Story, kind: str, *indexes: int) -> Story:
    """Images that were made before, copied and announced."""
    for index in indexes:
        story.reuse(kind, index).announce(kind, index, story.image(kind, index))
    return story


def after(story: Story, seconds: float) -> Story:
    """The story with its last event so many seconds after its first; it goes on from there."""
    last = msgspec.structs.replace(story.events[-1], ts=START + timedelta(seconds=seconds))
    story.events[-1] = last
    story.late_s = seconds - last.seq / 1000
    return story
