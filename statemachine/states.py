"""The lifecycle as data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from ..events.folds import MISSING_IMAGES
from ..events.model import TRIGGERS, ErrorDetail, RunState
from ..events.model import StageType as StageType
from ..events.result import MissingImage
from .errors import InputRefusedError, StageConflictError

Trigger = Literal["start", "finish", "fail", "cancel", "recover", "cleanup", "reset"]


class Transition(NamedTuple):
    """One row of the table; ``source`` is the only state that the trigger is allowed in."""

    trigger: Trigger
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
assert tuple(row.trigger for row in TRANSITIONS) == TRIGGERS  # subscribers name them


_FINAL_FAILURES = frozenset([StageConflictError.__name__, InputRefusedError.__name__])
"""A resume cannot change a conflict in the configuration, or an input that cannot be used."""


def can_go_on(
    state: RunState, error: ErrorDetail | None, missing: Iterable[MissingImage], *, sealed: bool
) -> bool:
    """Whether a resume would have something to do, according to the log."""
    if state == RunState.COMPLETED:
        return not sealed
    if error is None:
        return True
    errors = [gap.error for gap in missing] if error.kind == MISSING_IMAGES else [error]
    return any(one is None or one.kind not in _FINAL_FAILURES for one in errors)


FRUITLESS_EPOCHS = 5
"""After so many epochs in a row that sent a request and finished no image, resume refuses."""


def is_fruitless(epochs: int) -> bool:
    """Whether so many fruitless epochs in a row are enough for resume to refuse."""
    return epochs >= FRUITLESS_EPOCHS
