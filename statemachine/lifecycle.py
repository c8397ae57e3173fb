"""The lifecycle of a run: a typed facade over a ``transitions`` machine."""

from __future__ import annotations

import logging

import transitions

from ..events.model import RunState
from .errors import InvalidTransitionError
from .states import TRANSITIONS, Trigger

_MACHINE_NAME = "stagewright"


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """False for what ``transitions`` logs at each callback of a run's own machine."""
    ours = isinstance(record.args, tuple) and record.args[:1] == (f"{_MACHINE_NAME}: ",)
    return record.levelno >= logging.WARNING or not ours


logging.getLogger("transitions.core").addFilter(_is_worth_logging)


class _Model:
    """What the machine writes the state to; other threads read it without a lock."""

    state: RunState


class RunLifecycle:
    """The state of one run; ``RunJournal`` owns it.

    It is moved under the journal's lock, once the transition is durable. ``initial`` is the
    state that a fold of the log gives; no trigger is ever repeated to get there.
    """

    def __init__(self, initial: RunState = RunState.IDLE) -> None:
        self._model = _Model()
        self._machine = transitions.Machine(
            name=_MACHINE_NAME,
            model=self._model,
            states=list(RunState),
            initial=initial,
            auto_transitions=False,
            transitions=[row._asdict() for row in TRANSITIONS],
        )

    @property
    def state(self) -> RunState:
        """The state now."""
        return self._model.state

    def dest(self, trigger: Trigger) -> RunState:
        """The state that ``trigger`` would lead to. Raises InvalidTransitionError."""
        allowed = self._machine.get_transitions(trigger, self.state)
        if not allowed:
            raise InvalidTransitionError(trigger, self.state)
        return RunState[str(allowed[0].dest)]

    def move(self, trigger: str) -> None:
        """Change the state. Raises InvalidTransitionError, and the state stays."""
        try:
            # The generated triggers are unknown to type checkers, hence by name.
            getattr(self._model, trigger)()
        except transitions.MachineError as refused:
            raise InvalidTransitionError(trigger, self.state) from refused
