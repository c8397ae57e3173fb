"""The lifecycle of a run: a typed, thread-safe face over a ``transitions`` machine."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import transitions

from ..events.model import ErrorDetail, RunState
from .errors import InvalidTransitionError
from .states import TRANSITIONS

_MACHINE_NAME = "stagewright"


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """False for the lines that ``transitions`` logs at each callback of a run's own machine."""
    ours = isinstance(record.args, tuple) and record.args[:1] == (f"{_MACHINE_NAME}: ",)
    return record.levelno >= logging.WARNING or not ours


logging.getLogger("transitions.core").addFilter(_is_worth_logging)


class LifecycleRecord(Protocol):
    """Makes a transition durable. What it raises keeps the state as it was."""

    def __call__(
        self,
        *,
        trigger: str,
        source: RunState,
        dest: RunState,
        reason: str,
        error: ErrorDetail | None,
    ) -> Callable[[], None]:
        """Append the event; the returned call, which must not block, announces it.

        It is made once the new state is visible and before another transition can begin.
        """
        ...


class _Model:
    """What the machine writes the state to; other threads read it without a lock."""

    state: RunState


class RunLifecycle:
    """Owns the state of one run.

    A trigger and its event are one thing: ``record`` makes the event durable first, then the
    new state becomes visible, then the event is announced. Two threads that fire the same
    trigger at once get one transition and one InvalidTransitionError. ``initial`` is the
    state that a fold of the log gives; no trigger is ever repeated to get there.
    """

    def __init__(self, record: LifecycleRecord, *, initial: RunState = RunState.IDLE) -> None:
        self._record = record
        self._lock = threading.RLock()
        self._model = _Model()
        self._announce: Callable[[], None] | None = None
        self._machine = transitions.Machine(
            name=_MACHINE_NAME,
            model=self._model,
            states=list(RunState),
            initial=initial,
            auto_transitions=False,
            send_event=True,
            transitions=[
                {
                    "trigger": row.trigger,
                    "source": row.source,
                    "dest": row.dest,
                    "before": self._append,
                }
                for row in TRANSITIONS
            ],
        )

    @property
    def state(self) -> RunState:
        """The state now; its event is durable."""
        return self._model.state

    def start(self) -> None:
        """IDLE -> RUNNING."""
        self._fire("start")

    def finish(self) -> None:
        """RUNNING -> COMPLETED."""
        self._fire("finish")

    def fail(self, reason: str, error: ErrorDetail | None = None) -> None:
        """RUNNING -> ERROR."""
        self._fire("fail", reason, error)

    def cancel(self, reason: str) -> None:
        """RUNNING -> CANCELLED."""
        self._fire("cancel", reason)

    def recover(self, reason: str = "") -> None:
        """ERROR -> IDLE."""
        self._fire("recover", reason)

    def cleanup(self, reason: str = "") -> None:
        """CANCELLED -> IDLE."""
        self._fire("cleanup", reason)

    def reset(self, reason: str = "") -> None:
        """COMPLETED -> IDLE."""
        self._fire("reset", reason)

    @contextmanager
    def held(self) -> Iterator[RunState]:
        """The state, which no other thread changes meanwhile."""
        with self._lock:
            yield self.state

    def _fire(self, trigger: str, reason: str = "", error: ErrorDetail | None = None) -> None:
        with self._lock:
            self._announce = None
            try:
                # The generated triggers are unknown to type checkers, hence by name.
                getattr(self._model, trigger)(reason=reason, error=error)
            except transitions.MachineError as refused:
                raise InvalidTransitionError(trigger, self.state) from refused
            announce, self._announce = self._announce, None
            # Within the lock, so that announcements keep the order of the log.
            if announce is not None:
                announce()

    def _append(self, data: Any) -> None:
        row = data.transition
        self._announce = self._record(
            trigger=data.event.name,
            source=RunState[row.source],
            dest=RunState[row.dest],
            reason=data.kwargs["reason"],
            error=data.kwargs["error"],
        )
