"""Watches runs and groups: when one stalls and how it ends are sent to a notifier."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

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


class Watch(Protocol):
    """Sends messages about what a command executes: a run, a group, or a worker of a queue."""

    def take_event(self, event: StageEvent) -> None:
        """Note an event, on any thread."""
        ...

    def look(self, handle: Handle[Any]) -> None:
        """Send what is due by now; it is called several times a second."""
        ...

    def send_end(self, handle: Handle[Any], result: Any) -> None:
        """Send how it ended."""
        ...

    def send_lost(self, handle: Handle[Any], error: BaseException) -> None:
        """Send that its end could not be recorded."""
        ...


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

    def tell_every_end(self) -> None:
        """Send the end also where nothing was done: the events may come later than the end."""
        self._has_run = True

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


class WorkerWatch:
    """Watches the runs and groups of a worker, one after the other, each with a watch of its own.

    ``open_watch`` makes it, or None where no service is named.
    """

    def __init__(self, open_watch: Callable[[], RunWatch | None]) -> None:
        self._open_watch = open_watch
        self._current: tuple[Handle[Any], RunWatch] | None = None

    def begin(self, handle: Handle[Any]) -> None:
        """A run or group of the worker has begun."""
        watch = self._open_watch()
        if watch is not None:
            watch.tell_every_end()
        self._current = None if watch is None else (handle, watch)

    def end(self, result: PipelineRunResult | GroupResult) -> None:
        """Send how the present run or group ended."""
        current, self._current = self._current, None
        if current is not None:
            handle, watch = current
            watch.send_end(handle, result)

    def drop(self) -> None:
        """The present run or group was stopped on request: it does not stall."""
        self._current = None

    def take_event(self, event: StageEvent) -> None:
        """See ``Watch``."""
        current = self._current
        if current is not None:
            current[1].take_event(event)

    def look(self, _worker: Handle[Any]) -> None:
        """See ``Watch``; of the present run or group."""
        current = self._current
        if current is not None:
            handle, watch = current
            watch.look(handle)

    def send_end(self, worker: Handle[Any], result: Any) -> None:
        """The end of a worker is no event of ``[notify]``."""

    def send_lost(self, _worker: Handle[Any], error: BaseException) -> None:
        """See ``Watch``; of the present run or group."""
        current, self._current = self._current, None
        if current is not None:
            handle, watch = current
            watch.send_lost(handle, error)
