"""The model of a status bar: fed from any thread, looked at from any other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import msgspec

from ....events.model import RunOpened, StageEvent, StepProgress
from .status import RunStatus, shown
from .status_fold import StatusFold


class StatusBar:
    """What is to be shown of a run: give it the run's events, and look at ``snapshot``.

    Events come from the first on and in order, as ``subscribe(..., from_seq=0)`` gives them;
    those of another run begin anew. All methods are safe from any thread. ``expects_steps`` says
    that live steps will be told, so that a request of which none is told is seen to wait; it
    may be set at any time, and the first step that is told says the same. ``monotonic`` is a
    clock in seconds.
    """

    def __init__(
        self, *, expects_steps: bool = False, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.expects_steps = expects_steps
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._run: StatusFold | None = None
        self._config_error = ""

    def take_event(self, event: StageEvent) -> None:
        """Take one event of the run."""
        with self._lock:
            run = self._run
            if run is None or isinstance(event, RunOpened) or event.run_id != run.run_id:
                self._run = run = StatusFold(event, self._monotonic)
            run.take_event(event)
            self._config_error = ""

    def take_step(self, progress: StepProgress) -> None:
        """Take how far a request of the run is."""
        with self._lock:
            if self._run is not None:
                self._run.take_step(progress)

    def take_config_error(self, message: str) -> None:
        """Take why nothing was started; it is shown until the next event comes."""
        with self._lock:
            self._config_error = shown(message)

    def snapshot(self) -> RunStatus:
        """How far the run is now."""
        with self._lock:
            if self._run is None:
                return RunStatus(config_error=self._config_error)
            status = self._run.status(expects_steps=self.expects_steps)
            return msgspec.structs.replace(status, config_error=self._config_error)
