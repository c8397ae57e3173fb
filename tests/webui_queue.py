"""The scripted WebUI's one queue of jobs, and the state that /progress shows."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .webui_faults import Document


class WebUIError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, document: object) -> None:
        super().__init__(status)
        self.status, self.document = status, document


class ServerClosingError(Exception):
    """The test server ends; whatever waits in it stops."""


@dataclass(eq=False)
class Job:
    """One job: ``passes`` are sampling steps, and the rest says how it goes wrong.

    It stands before step ``stands_at`` until it is interrupted, unless it is ``deaf``. The first
    step of a pass takes ``lasts_s``, any other ``pace_s`` (the queue's pace when None). Somebody
    else interrupts it before step ``interrupted_at``.
    """

    name: str = ""
    passes: tuple[int, ...] = (1,)
    task: str | None = None
    foreign: bool = False
    released: bool = False
    stands_at: int | None = None
    deaf: bool = False
    lasts_s: float = 0.0
    pace_s: float | None = None
    interrupted_at: int | None = None


class JobQueue:
    """The queue lock, first come first served, and the state of the job that holds it.

    ``steps_per_second`` None means at once. ``interrupts`` holds, for each interrupt, the job
    that it found. The first ``deaf_interrupts`` of them are answered and lost. ``longest`` is the
    most jobs that were ever in line, the running one included. A job that was interrupted takes
    ``decoding_s`` seconds more, as a real one does to decode what it has.
    """

    def __init__(self, steps_per_second: float | None, deaf_interrupts: int) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.steps_per_second = steps_per_second
        self.deaf_interrupts = deaf_interrupts
        self.decoding_s = 0.0
        self.held: tuple[int, bool] | None = None
        self.line: deque[Job] = deque()
        self.longest = 0
        self.interrupts: list[Job | None] = []
        self.state: Document = self._state("", 0)
        self.closing = False
        self._pending: list[str] = []
        self._finished: deque[str] = deque(maxlen=16)
        self._current: str | None = None
        self._began = time.monotonic()

    @staticmethod
    def _state(job: str, count: int) -> Document:
        flags = {"skipped": False, "interrupted": False, "stopping_generation": False}
        counts = {"job_no": 0, "sampling_step": 0, "sampling_steps": 0}
        stamp = time.strftime("%Y%m%d%H%M%S")
        return {**flags, "job": job, "job_count": count, "job_timestamp": stamp, **counts}

    def wait(self, condition: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Wait for a change that makes ``condition`` true; ServerClosingError at the end."""
        with self.changed:
            self.changed.wait_for(lambda: self.closing or condition(), timeout_s)
            if self.closing:
                raise ServerClosingError
            return condition()

    def alter(self, change: Callable[[], object]) -> None:
        """Change something that others wait for."""
        with self.changed:
            change()
            self.changed.notify_all()

    def close(self) -> None:
        """Stop whatever waits."""
        self.alter(lambda: setattr(self, "closing", True))

    @contextmanager
    def enter(self, job: Job) -> Iterator[None]:
        """Wait for the job's turn and hold the queue lock; ``begin`` starts the job."""
        with self.changed:
            if job.task is not None:
                self._pending.append(job.task)
            self.line.append(job)
            self.longest = max(self.longest, len(self.line))
        try:
            self.wait(lambda: self.line[0] is job)
            yield
            self.alter(lambda: self._end(job))
        except WebUIError:
            if job.name != "Upscale":
                self.update(job="", job_count=0)
            raise
        finally:
            self.alter(lambda: self.line.remove(job))

    def begin(self, job: Job) -> None:
        """Start the job: its task becomes active, and what an interrupt left is cleared."""
        with self.changed:
            self.state = self._state(job.name, len(job.passes))
            self.state["job_no"] = int(job.name == "Upscale")
            self._began = time.monotonic()
            if job.task is not None:
                self._pending.remove(job.task)
                self._current = job.task
            self.changed.notify_all()

    def _end(self, job: Job) -> None:
        self.state.update(job="", job_count=0)
        if job.task is not None:
            self._finished.append(job.task)
            self._current = None

    def advance(self, job: Job) -> int:
        """Go through the passes; how many were finished before an interrupt."""
        for number, steps in enumerate(job.passes):
            for step in range(steps):
                if job.name != "Upscale":
                    self.update(job_no=number, sampling_step=step, sampling_steps=steps)
                self._pause(job, step, steps)
                if job.released or self.state["interrupted"] or self.state["skipped"]:
                    self.wait(lambda: False, self.decoding_s)
                    return number
        return len(job.passes)

    def update(self, **values: object) -> None:
        """Change what ``/progress`` shows."""
        self.alter(lambda: self.state.update(values))

    def _pause(self, job: Job, step: int, steps: int) -> None:
        def told() -> bool:
            return bool(self.state["interrupted"] or self.state["skipped"])

        def free() -> bool:
            held, deaf = (None if job.foreign else self.held) or (job.stands_at, job.deaf)
            stands = held is not None and step == min(held, steps - 1) and not job.released
            return not stands or (told() and not deaf)

        pace = 1 / self.steps_per_second if self.steps_per_second else 0.0
        pace = pace if job.pace_s is None else job.pace_s
        if step == job.interrupted_at:
            self.update(interrupted=True)
        self.wait(lambda: job.released or told(), max(pace, 0.0 if step else job.lasts_s))
        self.wait(free)

    def interrupt(self, flag: str = "interrupted") -> None:
        """Interrupt (or skip) whatever runs."""
        with self.changed:
            self.interrupts.append(self.line[0] if self.line else None)
            self.deaf_interrupts -= 1
            if self.deaf_interrupts < 0:
                self.update(**{flag: True})

    def progress(self) -> Document:
        """What GET /sdapi/v1/progress answers."""
        with self.changed:
            state = dict(self.state)
            fraction = 0.01 + self._fraction() if state["job_count"] else 0.0
            spent = time.monotonic() - self._began
        fraction = min(fraction, 1.0)
        answer = {"progress": fraction, "eta_relative": spent / (fraction or 1.0) - spent}
        return {**answer, "state": state, "current_image": None, "textinfo": None}

    def _fraction(self) -> float:
        steps = self.state["sampling_step"] / (self.state["sampling_steps"] or 1)
        return float(self.state["job_no"] + steps) / (self.state["job_count"] or 1)

    def task_progress(self, task: str) -> Document:
        """What POST /internal/progress answers."""
        with self.changed:
            active, queued = task == self._current, task in self._pending
            progress = min(self._fraction(), 1.0) if active else None
            answer = {"active": active, "queued": queued, "completed": task in self._finished}
        return {**answer, "progress": progress, "eta": None, "textinfo": "Waiting..."}
