"""The model of a status bar, safe to use from several threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import msgspec

from ....events.model import RunOpened, StageEvent, StepProgress
from .status import RunStatus, shown
from .status_fold import StatusFold


class StatusBar:
    """Folds the events of a run into the status that ``snapshot`` returns.

    Give it all events in order, as ``subscribe(..., from_seq=0)`` does; events of another run
    start it again. All methods are safe from any thread. ``expects_steps`` says that live steps
    will be given, so that a request without steps is shown as waiting; it can be set at any
    time, and the first step sets it. ``monotonic`` is a clock in seconds.
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
        """Add an event of the run."""
        with self._lock:
            run = self._run
            if run is None or isinstance(event, RunOpened) or event.run_id != run.run_id:
                self._run = run = StatusFold(event, self._monotonic)
            run.take_event(event)
            self._config_error = ""

    def take_step(self, progress: StepProgress) -> None:
        """Add the sampling step that a request has reached."""
        with self._lock:
            if self._run is not None:
                self._run.take_step(progress)

    def take_config_error(self, message: str) -> None:
        """Set the reason why no run was started; it is shown until the next event."""
        with self._lock:
            self._config_error = shown(message)

    def snapshot(self) -> RunStatus:
        """The status of the run now."""
        with self._lock:
            if self._run is None:
                return RunStatus(config_error=self._config_error)
            status = self._run.status(expects_steps=self.expects_steps)
            return msgspec.structs.replace(status, config_error=self._config_error)
