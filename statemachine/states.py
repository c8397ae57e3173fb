"""The lifecycle as data."""

from __future__ import annotations

from typing import NamedTuple

from ..events.model import RunState


class Transition(NamedTuple):
    """One row of the table; ``source`` is the only state that the trigger is allowed in."""

    trigger: str
    source: RunState
    dest: RunState


TRANSITIONS = (
    Transition("start", RunState.IDLE, RunState.RUNNING),
    Transition("finish", RunState.RUNNING, RunState.COMPLETED),
    Transition("fail", RunState.RUNNING, RunState.ERROR),
    Transition("cancel", RunState.RUNNING, RunState.CANCELLED),
    Transition("recover", RunState.ERROR, RunState.IDLE),
    Transition("cleanup", RunState.CANCELLED, RunState.IDLE),
    Transition("reset", RunState.COMPLETED, RunState.IDLE),
)
