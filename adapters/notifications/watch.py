"""Watches one run or group: when it stalls and how it ends are sent to a notifier."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ...events.errors import StagewrightError
from ...events.model import (
    CallFailed,
    CallReused,
    LifecycleChanged,
    RunState,
    StageEvent,
    StageImageProgress,
)
from ...events.result import PipelineRunResult
from ...statemachine.groups.result import GroupResult
from ...statemachine.run.handle import Handle
from .messages import error_of, group_message, lost_message, run_message, stalled_message
from .notifier import Notifier


class RunWatch:
    """Give it the events with ``take_event``, call ``look`` often, and one of the ends."""

    def __init__(self, notifier: Notifier, runs: Path, stalled_minutes: float) -> None:
        self._notifier = notifier
        self._runs = runs
        self._stalled_s = 60 * stalled_minutes
        self._began_s = self._finished_s = time.monotonic()
        self._has_run = self._is_told = False
        self._failure: str | None = None

    def take_event(self, event: StageEvent) -> None:
        """Note an event, on any thread."""
        if isinstance(event, StageImageProgress | CallReused):
            self._finished_s = time.monotonic()
            self._is_told, self._failure = False, None
        elif isinstance(event, CallFailed):
            self._failure = error_of(event.error)
        elif isinstance(event, LifecycleChanged):
            self._has_run = True

    def look(self, handle: Handle[Any]) -> None:
        """Send a message if no image was finished for too long: one, until the next image."""
        if not self._is_told and time.monotonic() - self._finished_s >= self._stalled_s:
            self._is_told = True
            self._notifier.send(stalled_message(handle, self._stalled_s / 60, self._failure))

    def send_end(self, handle: Handle[Any], result: PipelineRunResult | GroupResult) -> None:
        """Send how it ended, unless it was complete before and nothing was done."""
        if result.state == RunState.COMPLETED and not self._has_run:
            return
        took_s = time.monotonic() - self._began_s
        try:
            if isinstance(result, GroupResult):
                message = group_message(result, handle.folder, self._runs, took_s)
            else:
                message = run_message(result, handle.folder, took_s)
        except (StagewrightError, OSError) as error:  # its log has gone or changed since
            message = lost_message(handle, error)
        self._notifier.send(message)

    def send_lost(self, handle: Handle[Any], error: BaseException) -> None:
        """Send that its end could not be recorded."""
        self._notifier.send(lost_message(handle, error))
