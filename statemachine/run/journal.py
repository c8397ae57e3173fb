"""The journal of a run: its log, fold and lifecycle under one lock."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable
from datetime import datetime
from typing import TypedDict

from ...events import signals
from ...events.errors import LogWriteError, StagewrightError
from ...events.folds import Fold
from ...events.log.file_log import FileEventLog
from ...events.log.lock import boot_id, host_name
from ...events.log.memory_log import EventLog
from ...events.model import (
    CancelMode,
    CancelRequested,
    ErrorDetail,
    LifecycleChanged,
    RunOpened,
    RunSealed,
    RunState,
    StageEvent,
    StepProgress,
)
from ...events.subscriptions.dispatcher import Dispatcher
from ...events.subscriptions.live_steps import StepsFile
from ...events.version import software
from ..errors import BackendError
from ..lifecycle import RunLifecycle
from ..ports import Clock
from ..states import Trigger

MAX_TEXT = 8192
"""Most characters of a message, a reason or a detail that a log keeps."""


class Envelope(TypedDict):
    """The fields that the journal gives to every event."""

    run_id: str
    seq: int
    ts: datetime
    epoch: int


class ProcessFields(TypedDict):
    """What the first record of an epoch says of the process that writes it."""

    software: str
    host: str
    boot_id: str
    pid: int


def process_fields() -> ProcessFields:
    """Those of this process."""
    return ProcessFields(software=software(), host=host_name(), boot_id=boot_id(), pid=os.getpid())


class RunJournal:
    """Owns the log of a run that is being worked on, its fold and its lifecycle.

    An event is appended, as durably as its kind must be; then it changes fold and state; then
    it is announced. The runner keeps nothing beside the fold. Safe from any thread.
    """

    def __init__(self, log: EventLog, fold: Fold, *, epoch: int, clock: Clock) -> None:
        self.run_id = log.run_id
        self.fold = fold
        self._log = log
        self._lifecycle = RunLifecycle(fold.state)
        self._epoch = epoch
        self._clock = clock
        # Lock order: this one, then the dispatcher's, then a reader's.
        self._lock = threading.RLock()
        self._dispatcher = Dispatcher()
        self._steps = StepsFile(log.path.parent) if isinstance(log, FileEventLog) else None
        self._unwritable: LogWriteError | None = None

    @property
    def state(self) -> RunState:
        """The run's state; its event is durable."""
        return self._lifecycle.state

    @property
    def opened(self) -> RunOpened:
        """The run's first event."""
        assert self.fold.opened is not None
        return self.fold.opened

    def record(self, make: Callable[[Envelope], StageEvent]) -> None:
        """Append the event that ``make`` builds around its envelope, then announce it.

        Returns once the event is as durable as its kind must be, and its receivers have been
        called (or were too slow). Raises LogWriteError.
        """
        with self._lock:
            self._append(make)
        # Without the lock: receivers are called now, and they may cancel the run.
        self.flush()

    def move(self, trigger: Trigger, reason: str = "", error: ErrorDetail | None = None) -> None:
        """Record a transition, then change the state, then announce it.

        Receivers are not waited for: ``flush`` does that. Of two threads that move the run at
        once one wins. Raises InvalidTransitionError and LogWriteError; the state stays then.
        """
        with self._lock:
            source, dest = self.state, self._lifecycle.dest(trigger)
            self._append(
                lambda at: LifecycleChanged(
                    **at,
                    trigger=trigger,
                    source=source,
                    dest=dest,
                    reason=recordable(reason),
                    error=error,
                )
            )

    def record_cancel(self, mode: CancelMode, reason: str) -> None:
        """Record that the run is to stop, and announce it, as ``move`` does.

        Raises InvalidTransitionError unless the run is RUNNING, LogWriteError.
        """
        with self._lock:
            self._lifecycle.dest("cancel")
            self._append(lambda at: CancelRequested(**at, reason=recordable(reason), mode=mode))

    def announce_opening(self) -> None:
        """Announce RunOpened, which was recorded before there was a journal."""
        self._dispatcher.publish(signals.event_appended, self.run_id, event=self.opened)
        self.flush()

    def record_seal(self) -> None:
        """Close the epoch. Raises LogWriteError."""
        outcome = self.fold.outcome
        assert outcome is not None
        self.record(
            lambda at: RunSealed(**at, count=at["seq"], head=self._log.chain, outcome=outcome)
        )

    def announce_progress(self, progress: StepProgress) -> None:
        """Announce how far an image is; this is not recorded."""
        if self._steps is not None:
            self._steps.tell(progress)
        self._dispatcher.publish(signals.step_progress, self.run_id, progress=progress)
        self.flush()

    def flush(self) -> None:
        """Wait within bounds until receivers have been called. Never call it with the lock held."""
        self._dispatcher.flush()

    def close(self) -> None:
        """Announce what is waiting and release the log."""
        if self._steps is not None:
            self._steps.close()
        self._dispatcher.close()
        self._log.close()

    def _append(self, make: Callable[[Envelope], StageEvent]) -> None:
        """Append, then change fold and state, then announce; the caller holds the lock.

        Once a record could not be written, only ``fail`` is tried.
        """
        event = make(
            Envelope(
                run_id=self.run_id,
                seq=self._log.next_seq,
                ts=self._clock.now(),
                epoch=self._epoch,
            )
        )
        is_failure = isinstance(event, LifecycleChanged) and event.trigger == "fail"
        if self._unwritable is not None and not is_failure:
            raise self._unwritable
        # Append before move: a reader of the new state may rely on its event being durable.
        try:
            self._log.append(event)
        except LogWriteError as error:
            self._unwritable = error
            raise
        self._unwritable = None
        self.fold.apply(event)
        if isinstance(event, LifecycleChanged):
            self._lifecycle.move(event.trigger)
        self._dispatcher.publish(signals.event_appended, self.run_id, event=event)
        if isinstance(event, LifecycleChanged):
            self._dispatcher.publish(signals.lifecycle_changed, self.run_id, event=event)


def error_detail(
    error: BaseException, *, stage_id: str | None = None, image_index: int | None = None
) -> ErrorDetail:
    """An exception as text; with the traceback, unless it is an error of this package."""
    if isinstance(error, BackendError):
        detail = error.detail
    elif isinstance(error, StagewrightError):
        detail = ""
    else:
        detail = "".join(traceback.format_exception(error))
    return ErrorDetail(
        kind=type(error).__name__,
        message=recordable(str(error)),
        detail=recordable(str(detail)),
        stage_id=stage_id,
        image_index=image_index,
    )


def recordable(text: str) -> str:
    """``text`` as a log can hold it: lone surrogates escaped, and its length bounded."""
    if len(text) > MAX_TEXT:
        text = f"{text[:MAX_TEXT]} ... ({len(text)} characters in all)"
    return text.encode("utf-8", "backslashreplace").decode()
