"""The state of the server: the running job, the tasks, and the lock of jobs."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

import msgspec

from ...events.model import CancelMode
from ...statemachine.run.cancel import CancelToken
from .api_errors import ApiError

_KEPT_TASKS = 16
_WARMED_UP = 0.01
"""The first value of ``progress``."""


class JobState(msgspec.Struct, kw_only=True):
    """The ``state`` of a WebUI, from which ``progress`` is computed."""

    skipped: bool = False
    interrupted: bool = False
    stopping_generation: bool = False
    job: str = ""
    job_count: int = 0
    job_timestamp: str = "0"
    job_no: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0


class Progress:
    """The running job. Safe from any thread; one thread at a time runs a job.

    ``interrupted`` stays true after an interrupt until the next job begins.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = JobState()
        self._token = CancelToken()
        self._began = time.monotonic()
        self._closed = False

    def begin(self, job: str, job_count: int = -1) -> None:
        """Begin a job, and clear the flags of the one before.

        ``job_count`` is the number of its parts, -1 while it is not known.
        """
        with self._lock:
            self._state = JobState(
                job=job,
                job_count=job_count,
                job_timestamp=datetime.now().astimezone().strftime("%Y%m%d%H%M%S"),
            )
            self._began = time.monotonic()

    def begin_image(self, *, first: bool) -> CancelToken | None:
        """A token for the next image, which interrupt and skip cancel; None if interrupted.

        The first image is begun in any case, so that there is something to answer with.
        """
        with self._lock:
            self._state.skipped = False
            self._token = CancelToken()
            if self._state.interrupted or self._closed:
                self._token.request(CancelMode.NOW)
                return self._token if first else None
            return self._token

    def divide(self, job_count: int) -> None:
        """Set the number of parts of the job."""
        with self._lock:
            self._state.job_count = job_count

    def step(self, job_no: int, step: int, steps: int) -> None:
        """Note that ``step`` of ``steps`` of a part is done."""
        with self._lock:
            self._state.job_no = job_no
            self._state.sampling_step, self._state.sampling_steps = step, steps

    def end(self) -> None:
        """End the job."""
        with self._lock:
            self._state.job, self._state.job_count = "", 0

    def interrupt(self) -> None:
        """Interrupt the running job; without one, only set the flag."""
        with self._lock:
            self._state.interrupted = True
            self._token.request(CancelMode.NOW)

    def close(self) -> None:
        """Interrupt the running job, and all later ones."""
        with self._lock:
            self._closed = True
            self._token.request(CancelMode.NOW)

    def skip(self) -> None:
        """Skip the current image and continue with the next."""
        with self._lock:
            self._state.skipped = True
            self._token.request(CancelMode.NOW)

    @property
    def timestamp(self) -> str:
        """When the job began, as ``20261120225226``."""
        with self._lock:
            return self._state.job_timestamp

    def report(self) -> dict[str, Any]:
        """The answer of ``/sdapi/v1/progress``, without the picture."""
        with self._lock:
            state = msgspec.structs.asdict(self._state)
            idle = self._state.job_count == 0
            done, left = (0.0, 0.0) if idle else self._done_and_left(_WARMED_UP)
        return {"progress": done, "eta_relative": left, "state": state}

    def task_progress(self) -> tuple[float, float | None]:
        """Progress from 0 to 1 and the seconds left, computed as for ``/internal/progress``."""
        with self._lock:
            if self._state.job_count <= 0:
                return 0.0, None
            done, left = self._done_and_left(0.0)
        return done, left if done else None

    def _done_and_left(self, start: float) -> tuple[float, float]:
        state, done = self._state, start
        if state.job_count > 0:
            done += state.job_no / state.job_count
            if state.sampling_steps > 0:
                done += state.sampling_step / state.sampling_steps / state.job_count
        done = min(done, 1.0)
        elapsed = time.monotonic() - self._began
        return done, elapsed / done - elapsed if done else 0.0


class Tasks:
    """Which tasks are queued or active, and the last 16 that finished.

    As in a WebUI, a task that fails keeps its earlier state. Of tasks that were refused while
    queued, which stay queued, the last 16 are kept.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current: str | None = None
        self._waiting: dict[str, None] = {}
        self._refused: deque[str] = deque(maxlen=_KEPT_TASKS)
        self._finished: deque[str] = deque(maxlen=_KEPT_TASKS)

    def add(self, task: str) -> None:
        """Note that a task is queued."""
        with self._lock:
            self._waiting[task] = None

    def start(self, task: str) -> None:
        """Note that a task is active."""
        with self._lock:
            self._waiting.pop(task, None)
            with suppress(ValueError):
                self._refused.remove(task)
            self._current = task

    def refuse(self, task: str) -> None:
        """Note a refused task, which still appears as queued, as in a WebUI."""
        with self._lock:
            self._waiting.pop(task, None)
            if task not in self._refused:
                self._refused.append(task)

    def finish(self, task: str) -> None:
        """Note that a task is finished."""
        with self._lock:
            self._current = None
            self._finished.append(task)

    def report(self, task: str | None) -> dict[str, Any]:
        """The state of a task, with the text that a WebUI shows to its user."""
        with self._lock:
            active = task is not None and task == self._current
            waiting = [*self._refused, *self._waiting]
            queued = task in waiting
            words = "Waiting..."
            if queued:
                words = f"In queue: {waiting.index(str(task)) + 1}/{len(waiting)}"
            return {
                "active": active,
                "queued": queued,
                "completed": task in self._finished,
                "textinfo": None if active else words,
            }


class FairLock:
    """A lock that threads get in the order in which they ask for it."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._tickets: deque[object] = deque()
        self._closed = False

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lock in the block. Raises ApiError, 503, once the server closes."""
        ticket = object()
        with self._condition:
            self._tickets.append(ticket)
        try:
            with self._condition:
                self._condition.wait_for(lambda: self._closed or self._tickets[0] is ticket)
                if self._closed:
                    raise ApiError(503, detail="the server is closing")
            yield
        finally:
            with self._condition:
                self._tickets.remove(ticket)
                self._condition.notify_all()

    def close(self) -> None:
        """Refuse all threads that wait for the lock."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
