"""The jobs of the server: one runs, the others wait, and clients read and stop the running one."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import msgspec

from ...events.model import CancelMode
from ...statemachine.run.cancel_token import CancelToken
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


class _Ticket:
    """The place of one request in the queue; ``task`` is "" for a request without a task."""

    def __init__(self, task: str) -> None:
        self.task = task


class Jobs:
    """The queue of jobs and the state of the running one. Safe from any thread.

    ``interrupted`` stays true after an interrupt until the next job begins.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[_Ticket] = deque()
        self._running: _Ticket | None = None
        self._active_task = ""
        self._finished: deque[str] = deque(maxlen=_KEPT_TASKS)
        self._state = JobState()
        self._token = CancelToken()
        self._began = time.monotonic()
        self._closed = False

    @contextmanager
    def turn(self, job: str = "", task: str = "") -> Iterator[None]:
        """Wait for the requests that came earlier, then run the block alone.

        ``job`` begins with the block; without one the state does not change. As in a WebUI, a task
        whose block raises an exception stays active until the next task. Raises ApiError, 503, once
        the server closes.
        """
        ticket = _Ticket(task)
        with self._changed:
            self._queue.append(ticket)
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._queue[0] is ticket)
                self._begin(job, ticket)
            yield
            with self._changed:
                if task:
                    self._active_task = ""
                    self._finished.append(task)
        finally:
            with self._changed:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def _begin(self, job: str, ticket: _Ticket) -> None:
        """Clear the flags of the job before, so that a client interrupts only what it sees."""
        if self._closed:
            raise ApiError(503, detail="the server is closing")
        self._running = ticket
        self._active_task = ticket.task or self._active_task
        if job:
            now = datetime.now().astimezone().strftime("%Y%m%d%H%M%S")
            self._state = JobState(job=job, job_count=-1, job_timestamp=now)
            self._began = time.monotonic()

    def divide(self, job_count: int) -> None:
        """Set the number of parts of the job, which is -1 until then."""
        with self._changed:
            self._state.job_count = job_count

    def begin_image(self, *, first: bool) -> CancelToken | None:
        """A token for the next image, which interrupt and skip cancel; None if interrupted.

        The first image is begun in any case, so that there is something to answer with.
        """
        with self._changed:
            self._state.skipped = False
            self._token = CancelToken()
            if self._state.interrupted or self._closed:
                self._token.request(CancelMode.NOW)
                return self._token if first else None
            return self._token

    def step(self, job_no: int, step: int, steps: int) -> None:
        """Note that ``step`` of ``steps`` of a part is done."""
        with self._changed:
            self._state.job_no = job_no
            self._state.sampling_step, self._state.sampling_steps = step, steps

    def end(self) -> None:
        """End the job."""
        with self._changed:
            self._state.job, self._state.job_count = "", 0

    def interrupt(self) -> None:
        """Interrupt the running job; without one, only set the flag."""
        with self._changed:
            self._state.interrupted = True
            self._token.request(CancelMode.NOW)

    def skip(self) -> None:
        """Skip the current image and continue with the next."""
        with self._changed:
            self._state.skipped = True
            self._token.request(CancelMode.NOW)

    def close(self) -> None:
        """Interrupt the running job, and refuse all that wait."""
        with self._changed:
            self._closed = True
            self._token.request(CancelMode.NOW)
            self._changed.notify_all()

    @property
    def timestamp(self) -> str:
        """When the job began, as ``20261120225226``."""
        with self._changed:
            return self._state.job_timestamp

    def progress(self) -> dict[str, Any]:
        """The answer of ``/sdapi/v1/progress``; there are no previews."""
        with self._changed:
            idle = self._state.job_count == 0
            done, left = (0.0, 0.0) if idle else self._done_and_left(_WARMED_UP)
            return {
                "progress": done,
                "eta_relative": left,
                "state": msgspec.structs.asdict(self._state),
                "current_image": None,
                "textinfo": None,
            }

    def task_progress(self, task: str | None) -> dict[str, Any]:
        """The answer of ``/internal/progress``, with the text that a WebUI shows its user."""
        with self._changed:
            active = bool(task) and task == self._active_task
            waiting = [one.task for one in self._queue if one.task and one is not self._running]
            queued = task in waiting
            text = f"In queue: {waiting.index(str(task)) + 1}/{len(waiting)}" if queued else None
            done, left = self._done_and_left(0.0) if active else (None, None)
            return {
                "active": active,
                "queued": queued,
                "completed": task in self._finished,
                "progress": done,
                "eta": left or None,
                "live_preview": None,
                "id_live_preview": -1,
                "textinfo": None if active else text or "Waiting...",
            }

    def _done_and_left(self, start: float) -> tuple[float, float]:
        """The share that is done, and the seconds left."""
        state, done = self._state, start
        if state.job_count > 0:
            done += state.job_no / state.job_count
            if state.sampling_steps > 0:
                done += state.sampling_step / state.sampling_steps / state.job_count
        done = min(done, 1.0)
        elapsed = time.monotonic() - self._began
        return done, elapsed / done - elapsed if done else 0.0
