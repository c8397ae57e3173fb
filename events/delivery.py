"""Which events a subscriber wants, and how it is called: faults counted, loops respected."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from . import signals
from .mailbox import ConfigError
from .model import TRIGGERS, LifecycleChanged, RunState, StageEvent
from .progress import StepProgress

CallSoon = Callable[[Callable[[], None]], object]
"""What a GUI's or asyncio's loop offers to be handed a call from another thread."""
_STILL_THERE_S = 1.0
"""How long a call may wait in a loop before it is seen whether the loop is still there."""
Told = StageEvent | StepProgress | ConfigError


class Wanted:
    """The events of some types, and those of some moves of the lifecycle; of neither: all.

    A move is named by its trigger (``finish``) or by the state that it leads to
    (``RunState.COMPLETED``). Raises ValueError for any other name,
    and TypeError for what is no event type.
    """

    def __init__(
        self, types: tuple[type[StageEvent], ...] = (), transitions: Iterable[str] = ()
    ) -> None:
        for kind in types:
            if not (isinstance(kind, type) and issubclass(kind, StageEvent)):
                raise TypeError(f"{kind!r} is no event type (sampling steps come to on_step)")
        self._types = types
        # One name alone is a collection of letters to Python.
        named = [transitions] if isinstance(transitions, str) else list(transitions)
        known = (*TRIGGERS, *map(str, RunState))
        for name in named:
            if name not in known:
                raise ValueError(f"no transition {name!r}; there are {', '.join(known)}")
        self._transitions = frozenset(named)

    def fits(self, event: StageEvent) -> bool:
        """Whether the event is one of them."""
        if isinstance(event, self._types) or not (self._types or self._transitions):
            return True
        return isinstance(event, LifecycleChanged) and not self._transitions.isdisjoint(
            (event.trigger, event.dest)
        )


class Listener:
    """What a subscriber is called with; what it raises is counted, logged, and goes no further.

    ``is_muted`` after ten faults in a row.
    """

    def __init__(
        self,
        on_event: Callable[[StageEvent], object],
        on_step: Callable[[StepProgress], object] | None = None,
        on_config_error: Callable[[str], object] | None = None,
    ) -> None:
        self.name = signals.name_of(on_event)
        self.faults = 0
        self.wants_steps = on_step is not None
        self.wants_config_errors = on_config_error is not None
        self._on_event = on_event
        self._on_step = on_step
        self._on_config_error = on_config_error
        self._streak = 0
        self.is_muted = False

    def hear(self, told: Told) -> None:
        """Call the subscriber, unless it is muted."""
        if self.is_muted:
            return
        try:
            self._call(told)
        except BaseException as error:
            if signals.is_for_the_program(error):
                raise
            self.faults += 1
            self._streak += 1
            self.is_muted = self._streak >= signals.MUTED_AFTER
            what = f"raised {type(error).__name__}"
            signals.note_fault(self.name, _source(told), what, self._streak, error)
        else:
            self._streak = 0

    def _call(self, told: Told) -> None:
        if isinstance(told, StageEvent):
            self._on_event(told)
        elif isinstance(told, StepProgress):
            assert self._on_step is not None
            self._on_step(told)
        else:
            assert self._on_config_error is not None
            self._on_config_error(told.message)


class InLoop:
    """Runs calls in somebody's loop, one after the other: no more than one waits there."""

    def __init__(self, call_soon: CallSoon) -> None:
        self._call_soon = call_soon
        self._is_done = threading.Event()
        self._is_abandoned = False

    def run(self, call: Callable[[], None]) -> None:
        """Hand a call over and wait until it has been made, or is not to be made any more.

        Raises whatever a loop raises that has ended, also when it ends meanwhile.
        """

        def in_loop() -> None:
            try:
                if not self._is_abandoned:
                    call()
            finally:
                self._is_done.set()

        self._is_done.clear()
        if self._is_abandoned:
            return
        self._call_soon(in_loop)
        while not self._is_done.wait(_STILL_THERE_S):
            self._call_soon(_nothing)

    def abandon(self) -> None:
        """Make no call any more, not even one that waits in the loop already."""
        self._is_abandoned = True
        self._is_done.set()


def _nothing() -> None:
    """What a loop is handed to see whether it still takes calls."""


def _source(told: Told) -> str:
    return {StepProgress: "step_progress", ConfigError: "config_error"}.get(
        type(told), "event_appended"
    )
