"""Keeps the learning records of a folder of runs up to date while runs come to their ends."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING
from weakref import WeakMethod, finalize

from ....events.errors import StagewrightError
from ....events.log.open_logs import path_of_run
from ....events.log.storage import OsStorage, Storage
from ....events.model import LifecycleChanged, RunSealed, RunState, StageEvent
from ....events.subscriptions.subscription import Subscription, subscribe
from .exit_deadline import ExitDeadline
from .run_summary import is_end

if TYPE_CHECKING:
    from .update import LearningUpdate, RecordUpdater

LOCK_WAIT_S = 10.0
"""How long an update waits for another process that writes the records."""
END_WAIT_S = 0.8
"""How long a run's end waits for its record; it would be left behind after a second."""
_TRANSITIONS = (RunState.RUNNING, RunState.COMPLETED, RunState.ERROR, RunState.CANCELLED)
_POLL_S = 0.05

_logger = logging.getLogger("stagewright.learning")


class LearningRecordsError(StagewrightError):
    """The records could not be brought up to date; the next update makes it good."""


class LearningRecordWriter:
    """Writes ``runs/learning.jsonl``: one line for each run below ``runs`` that has ended.

    Between ``start`` and ``close``, or as a context manager, it brings the file up to date when
    a run of this process ends, before whoever waits for that run goes on, and, beside the run,
    when the first one begins. It holds a run up for less than a second, and what goes wrong is
    logged and made good by the next update, of whichever process. A process that comes to its
    end before its records are written goes on with that for a few seconds at most.

    The file is a projection: it holds what ``rebuild`` would make of the logs, byte for byte.
    Safe from any thread and any number of processes. Nothing happens after it is forgotten: a
    writer that nobody holds listens no more.
    """

    def __init__(self, runs: Path | str, *, storage: Storage | None = None) -> None:
        self.runs = Path(runs)
        self._storage = storage or OsStorage()
        self._updating = threading.Lock()
        self._updater: RecordUpdater | None = None
        self._changed = threading.Condition()
        self._requested = 0
        self._completed = 0
        self._worker_pid: int | None = None
        self._ended: set[str] = set()
        self._subscription: Subscription | None = None

    def start(self) -> LearningRecordWriter:
        """Listen to the runs of this process; starting twice is fine."""
        if self._subscription is None:
            # On the publisher's thread: a run that ends waits for its record.
            self._subscription = subscribe(
                _weak_receiver(self._take_event),
                RunSealed,
                transitions=_TRANSITIONS,
                on="publisher",
            )
            finalize(self, self._subscription.close, timeout_s=0.0)
        return self

    def close(self, timeout_s: float = 2.0) -> None:
        """Listen no more; wait this long for an update that is under way."""
        if self._subscription is not None:
            self._subscription.close(timeout_s)
            self._subscription = None
        with self._changed:
            self._changed.wait_for(lambda: self._worker_pid != os.getpid(), timeout_s)

    def __enter__(self) -> LearningRecordWriter:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def update(self, *, wait_s: float = LOCK_WAIT_S) -> LearningUpdate:
        """Bring the file up to date with all logs, those of other processes included.

        A log is read where its size, time or inode has changed since this writer has last seen
        it; at first where its last records are not those that the record in the file was made
        of. Waits ``wait_s`` for others who write. Raises LearningRecordsError.
        """
        return self._locked(lambda updater: updater.update(), wait_s)

    def _update_in_background(self, deadline: ExitDeadline) -> None:
        """Do it beside the runs: when the process ends it is not to be held up for long."""
        self._locked(
            lambda updater: updater.update(deadline.has_passed), LOCK_WAIT_S, deadline.has_passed
        )

    def rebuild(self, *, wait_s: float = LOCK_WAIT_S) -> LearningUpdate:
        """Make the file anew from the logs, each read whole. Raises LearningRecordsError."""
        return self._locked(lambda updater: updater.rebuild(), wait_s)

    def _locked(
        self,
        work: Callable[[RecordUpdater], LearningUpdate],
        wait_s: float,
        is_over: Callable[[], bool] = lambda: False,
    ) -> LearningUpdate:
        # Loaded here: a run that begins needs none of it.
        from .folder_lock import folder_lock  # noqa: PLC0415 - see above
        from .update import RecordUpdater, empty_update  # noqa: PLC0415 - see above

        if not self.runs.is_dir():
            return empty_update(self.runs)
        began = time.monotonic()
        while not self._updating.acquire(timeout=min(wait_s, _POLL_S)):
            if time.monotonic() - began >= wait_s or is_over():
                raise LearningRecordsError(f"{self.runs}: its learning records are being written")
        try:
            if self._updater is None:
                self._updater = RecordUpdater(self.runs, self._storage)
            left_s = max(0.0, wait_s - (time.monotonic() - began))
            with folder_lock(self.runs, wait_s=left_s, is_over=is_over):
                return work(self._updater)
        except OSError as error:
            raise LearningRecordsError(
                f"the learning records in {self.runs} cannot be brought up to date: {error}"
            ) from error
        finally:
            self._updating.release()

    def _take_event(self, event: StageEvent) -> None:
        """A run of this process has begun, come to its end, or been sealed."""
        assert isinstance(event, LifecycleChanged | RunSealed)
        if not self._is_ours(event.run_id):
            return
        if is_end(event):
            self._ended.add(event.run_id)
            self._wait_for(self._request_update())
        elif isinstance(event, RunSealed):
            # One that has not come to its end here: its process died in between.
            if event.run_id not in self._ended:
                self._request_update()
            self._ended.discard(event.run_id)
        elif not self._requested and event.dest is RunState.RUNNING:
            self._request_update()

    def _is_ours(self, run_id: str) -> bool:
        """Whether the run is one of this folder of runs."""
        log = path_of_run(run_id)
        try:
            return log is not None and log.parent.parent.samefile(self.runs)
        except OSError:
            return False

    def _request_update(self) -> int:
        """Have an update made that begins from now on, on a thread beside; its number."""
        with self._changed:
            self._requested += 1
            if self._worker_pid != os.getpid():  # A process that was forked has no thread yet.
                # No daemon, which it would inherit: a process that has come to its end does not
                # leave before its record.
                thread = threading.Thread(
                    target=self._work_loop, name="stagewright-learning", daemon=False
                )
                self._worker_pid = os.getpid()
                try:
                    thread.start()
                except RuntimeError as error:  # too many threads, or the process is gone already
                    self._worker_pid, self._completed = None, self._requested
                    _logger.warning("the learning records in %s have to wait: %s", self.runs, error)
            return self._requested

    def _wait_for(self, number: int) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._completed >= number, END_WAIT_S):
                _logger.info("%s: its learning records are still being written", self.runs)

    def _work_loop(self) -> None:
        """Make updates until none is asked for."""
        deadline = ExitDeadline()
        while True:
            with self._changed:
                number = self._requested
                if self._completed == number:
                    self._worker_pid = None
                    self._changed.notify_all()
                    return
            try:
                self._update_in_background(deadline)
            except Exception as error:  # whatever it is, it must not harm a run
                _logger.warning("%s", error, exc_info=not isinstance(error, StagewrightError))
            with self._changed:
                self._completed = number
                self._changed.notify_all()


def _weak_receiver(method: Callable[[StageEvent], None]) -> Callable[[StageEvent], None]:
    """A receiver that calls a method as long as its object is there, and does not hold it."""
    reference = WeakMethod(method)

    def take_event(event: StageEvent) -> None:
        take = reference()
        if take is not None:
            take(event)

    take_event.__qualname__ = type(method.__self__).__qualname__  # type: ignore[attr-defined]  # a bound method
    return take_event
