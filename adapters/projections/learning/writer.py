"""Updates the learning records of a folder of runs when its runs end."""

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
from ....events.log.open_log_registry import path_of_run
from ....events.log.storage import OsStorage, Storage
from ....events.model import LifecycleChanged, RunSealed, RunState, StageEvent
from ....events.subscriptions.subscription import Subscription, subscribe
from .exit_deadline import ExitDeadline
from .run_summary import is_end

if TYPE_CHECKING:
    from .update import LearningUpdate, RecordUpdater

LOCK_WAIT_S = 10.0
"""How long an update waits for another process that is writing the records."""
END_WAIT_S = 0.8
"""How long the end of a run waits for its record; subscribers have one second."""
_TRANSITIONS = (RunState.RUNNING, RunState.COMPLETED, RunState.ERROR, RunState.CANCELLED)
_POLL_S = 0.05

_logger = logging.getLogger("stagewright.learning")


class LearningRecordsError(StagewrightError):
    """The records could not be updated; the next update tries again."""


class LearningRecordWriter:
    """Writes ``runs/learning.jsonl``: one line for each run below ``runs`` that has ended.

    Between ``start`` and ``close``, or as a context manager, it updates the file when a run of
    this process ends, before ``wait`` of that run returns, and in the background when the first
    run begins. It delays a run by less than a second. Errors are logged, and the next update of
    any process repairs the file. At its end a process spends a few seconds at most on records
    that are not yet written.

    The file is a projection: it always equals what ``rebuild`` makes of the logs. Safe for
    threads and processes. A writer without references stops listening.
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
        """Listen to the runs of this process; a second call does nothing."""
        if self._subscription is None:
            # On the publisher's thread, so that the end of a run waits for its record.
            self._subscription = subscribe(
                _weak_receiver(self._take_event),
                RunSealed,
                transitions=_TRANSITIONS,
                on="publisher",
            )
            finalize(self, self._subscription.close, timeout_s=0.0)
        return self

    def close(self, timeout_s: float = 2.0) -> None:
        """Stop listening; wait this long for an update in progress."""
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
        """Update the file from all logs, including those of other processes.

        Reads logs whose size, time or inode has changed since this writer last read them; the
        first update reads logs whose last records do not match the file. Waits ``wait_s`` for
        other writers. Raises LearningRecordsError.
        """
        return self._locked(lambda updater: updater.update(), wait_s)

    def _update_in_background(self, deadline: ExitDeadline) -> None:
        """Update, but give up when the process has ended and the deadline has passed."""
        self._locked(
            lambda updater: updater.update(deadline.has_passed), LOCK_WAIT_S, deadline.has_passed
        )

    def rebuild(self, *, wait_s: float = LOCK_WAIT_S) -> LearningUpdate:
        """Read all logs and rewrite the file. Raises LearningRecordsError."""
        return self._locked(lambda updater: updater.rebuild(), wait_s)

    def _locked(
        self,
        work: Callable[[RecordUpdater], LearningUpdate],
        wait_s: float,
        is_over: Callable[[], bool] = lambda: False,
    ) -> LearningUpdate:
        # Loaded here, because a run does not need it to begin.
        from .folder_lock import folder_lock  # noqa: PLC0415 - see above
        from .update import RecordUpdater, empty_update  # noqa: PLC0415 - see above

        if not self.runs.is_dir():
            return empty_update(self.runs)
        began = time.monotonic()
        while not self._updating.acquire(timeout=min(wait_s, _POLL_S)):
            if time.monotonic() - began >= wait_s or is_over():
                raise LearningRecordsError(
                    f"the learning records in {self.runs} are in use by another update"
                )
        try:
            if self._updater is None:
                self._updater = RecordUpdater(self.runs, self._storage)
            left_s = max(0.0, wait_s - (time.monotonic() - began))
            with folder_lock(self.runs, wait_s=left_s, is_over=is_over):
                return work(self._updater)
        except OSError as error:
            raise LearningRecordsError(
                f"the learning records in {self.runs} cannot be updated: {error}"
            ) from error
        finally:
            self._updating.release()

    def _take_event(self, event: StageEvent) -> None:
        """Handle the start, the end or the seal of a run of this process."""
        assert isinstance(event, LifecycleChanged | RunSealed)
        if not self._is_ours(event.run_id):
            return
        if is_end(event):
            self._ended.add(event.run_id)
            self._wait_for(self._request_update())
        elif isinstance(event, RunSealed):
            # The run did not end in this process: an earlier process died after the end.
            if event.run_id not in self._ended:
                self._request_update()
            self._ended.discard(event.run_id)
        elif not self._requested and event.dest is RunState.RUNNING:
            self._request_update()

    def _is_ours(self, run_id: str) -> bool:
        """Whether the run is in this folder of runs."""
        log = path_of_run(run_id)
        try:
            return log is not None and log.parent.parent.samefile(self.runs)
        except OSError:
            return False

    def _request_update(self) -> int:
        """Request an update on the background thread; its number."""
        with self._changed:
            self._requested += 1
            if self._worker_pid != os.getpid():  # A forked process has no thread yet.
                # Not a daemon, so that a process does not end before its record is written.
                thread = threading.Thread(
                    target=self._work_loop, name="stagewright-learning", daemon=False
                )
                self._worker_pid = os.getpid()
                try:
                    thread.start()
                except (
                    RuntimeError
                ) as error:  # too many threads, or the interpreter is shutting down
                    self._worker_pid, self._completed = None, self._requested
                    _logger.warning(
                        "the learning records in %s cannot be updated now: %s", self.runs, error
                    )
            return self._requested

    def _wait_for(self, number: int) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._completed >= number, END_WAIT_S):
                _logger.info("%s: its learning records are still being written", self.runs)

    def _work_loop(self) -> None:
        """Make updates until no further one is requested."""
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
            except Exception as error:  # no error here may affect a run
                _logger.warning("%s", error, exc_info=not isinstance(error, StagewrightError))
            with self._changed:
                self._completed = number
                self._changed.notify_all()


def _weak_receiver(method: Callable[[StageEvent], None]) -> Callable[[StageEvent], None]:
    """A receiver that calls a method and holds no reference to its object."""
    reference = WeakMethod(method)

    def take_event(event: StageEvent) -> None:
        take = reference()
        if take is not None:
            take(event)

    take_event.__qualname__ = type(method.__self__).__qualname__  # type: ignore[attr-defined]  # a bound method
    return take_event
