"""The one way a fact takes: stamped, appended, folded, announced, in this order."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from datetime import datetime
from typing import TypedDict, TypeVar

from ..events import signals
from ..events.errors import LogWriteError, StagewrightError
from ..events.file_log import FileEventLog
from ..events.folding import Fold, StageFold
from ..events.log import EventLog
from ..events.model import (
    ErrorDetail,
    LifecycleChanged,
    RunOpened,
    RunSealed,
    RunState,
    StageEvent,
)
from ..events.progress import StepProgress
from ..events.subscriptions.dispatcher import Dispatcher
from ..events.subscriptions.live_steps import StepsFile
from .errors import BackendError
from .ports import Clock

E = TypeVar("E", bound=StageEvent)
MAX_TEXT = 8192
"""Characters of a message, a reason or a server's words that a log keeps."""


class Envelope(TypedDict):
    """What the journal puts on every event."""

    run_id: str
    seq: int
    ts: datetime
    epoch: int


class RunJournal:
    """Writes one run's log and holds what it folds to; safe from any thread.

    The fold is the only memory of a run that is being worked on.
    """

    def __init__(self, log: EventLog, fold: Fold, *, epoch: int, clock: Clock) -> None:
        self._log = log
        self._fold = fold
        self._epoch = epoch
        self._clock = clock
        self._lock = threading.RLock()
        self._dispatcher = Dispatcher()
        self._steps = StepsFile(log.path.parent) if isinstance(log, FileEventLog) else None
        self._unwritable: LogWriteError | None = None

    @property
    def run_id(self) -> str:
        """The run that is written."""
        return self._log.run_id

    @property
    def fold(self) -> Fold:
        """What the log says so far."""
        return self._fold

    @property
    def opened(self) -> RunOpened:
        """The run's first event."""
        assert self._fold.opened is not None
        return self._fold.opened

    def stage(self, stage_id: str) -> StageFold:
        """What the log says so far of a stage that has started."""
        return self._fold.stages[stage_id]

    def record(self, make: Callable[[Envelope], E], *, flush: bool = True) -> E:
        """Append the event that ``make`` builds around its envelope, then announce it.

        Returns once the event is as durable as its kind must be, and its subscribers have
        been told (or were too slow). Raises LogWriteError.
        """
        with self._lock:
            event = self._append(make)
            self._announce(event)
        if flush:
            self.flush()
        return event

    def record_transition(
        self,
        *,
        trigger: str,
        source: RunState,
        dest: RunState,
        reason: str,
        error: ErrorDetail | None,
    ) -> Callable[[], None]:
        """Append a transition; the returned call queues its announcement, for ``flush``.

        Raises LogWriteError.
        """
        with self._lock:
            event = self._append(
                lambda at: LifecycleChanged(
                    **at,
                    trigger=trigger,
                    source=source,
                    dest=dest,
                    reason=recordable(reason),
                    error=error,
                )
            )

        def announce() -> None:
            self._announce(event)
            self._dispatcher.publish(signals.lifecycle_changed, self.run_id, event=event)

        return announce

    def announce_opening(self) -> None:
        """Tell of RunOpened, which reached the disk before there was a journal."""
        with self._lock:
            self._announce(self.opened)
        self.flush()

    def record_seal(self) -> None:
        """Close the epoch. Raises LogWriteError."""
        outcome = self._fold.outcome
        assert outcome is not None
        self.record(
            lambda at: RunSealed(**at, count=at["seq"], head=self._log.chain, outcome=outcome)
        )

    def announce_progress(self, progress: StepProgress) -> None:
        """Tell how far an image is."""
        if self._steps is not None:
            self._steps.tell(progress)
        self._dispatcher.publish(signals.step_progress, self.run_id, progress=progress)
        self.flush()

    def flush(self) -> None:
        """Let subscribers catch up, within bounds."""
        self._dispatcher.flush()

    def close(self) -> None:
        """Deliver what is waiting and release the log."""
        if self._steps is not None:
            self._steps.close()
        self._dispatcher.close()
        self._log.close()

    def _append(self, make: Callable[[Envelope], E]) -> E:
        event = make(
            Envelope(
                run_id=self._log.run_id,
                seq=self._log.next_seq,
                ts=self._clock.now(),
                epoch=self._epoch,
            )
        )
        self._write(event)
        self._fold.apply(event)
        return event

    def _write(self, event: StageEvent) -> None:
        """Append; once a record could not be written, only the failure itself is tried."""
        is_failure = isinstance(event, LifecycleChanged) and event.trigger == "fail"
        if self._unwritable is not None and not is_failure:
            raise self._unwritable
        try:
            self._log.append(event)
        except LogWriteError as error:
            self._unwritable = error
            raise
        self._unwritable = None

    def _announce(self, event: StageEvent) -> None:
        self._dispatcher.publish(signals.event_appended, self.run_id, event=event)


def error_detail(
    error: BaseException, *, stage_id: str | None = None, image_index: int | None = None
) -> ErrorDetail:
    """An exception as text; one that we did not raise ourselves brings its traceback."""
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
    """``text`` as a log can hold it: lone surrogates as escapes, and of bounded length."""
    if len(text) > MAX_TEXT:
        text = f"{text[:MAX_TEXT]} ... ({len(text)} characters in all)"
    return text.encode("utf-8", "backslashreplace").decode()
