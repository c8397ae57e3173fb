"""A subscriber's reader: a queue of what was announced, and the log for what does not fit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

from blinker import NamedSignal

from .. import signals
from ..errors import StagewrightError
from ..groups.model import GroupEvent
from ..log.open_log_registry import open_log_of
from ..log.shared_events import SharedEvent
from ..model import StageEvent, StepProgress
from .live_steps import read_step
from .log_tail import POLL_S, LogTail

CAPACITY = 1024
"""How many announcements wait in memory for a subscriber, unless it asks for another number."""
REST_S = 0.1
"""How long a thread sleeps between two batches: each time that it is woken costs the run's own
thread some 50 us, and an image brings three events within a few milliseconds."""
_IDLE_POLL_S = 0.5
"""How often to look at a log that no other process writes now."""
_BATCH = 256
"""How many announcements are delivered at most before the logs are looked at."""

Item = (
    StageEvent | StepProgress | GroupEvent | SharedEvent | str | tuple[NamedSignal, dict[str, Any]]
)
"""What is delivered: an event, a step, a group's event, a config error's message, or another
signal."""


class _Backlog:
    """Events of a run that are to be read from its log: from the tail's position to ``last``."""

    def __init__(self, tail: LogTail) -> None:
        self.tail = tail
        self.last = -1


class Reader:
    """Delivers to one subscriber what is announced: in order, each event once.

    The ``queue`` methods never block. ``capacity`` things wait in memory. An event beyond that
    is left in the log and read from there; where this process writes no log of it, it is queued
    all the same. With ``tail`` it is the reader of one run: it begins with what that log holds,
    and reads on while other processes write to it.

    A reader delivers on the thread that calls ``run``, until it is closed. One that ``is_inline``
    delivers on the publisher's thread, which calls ``serve``, until it takes too long and
    ``leave_to`` gives it that thread. A reader with a thread delivers ten times a second at most,
    and of sampling steps only the newest; ``dropped`` counts the others.
    """

    def __init__(
        self,
        name: str,
        deliver: Callable[[Iterable[Item]], None],
        *,
        is_inline: bool,
        capacity: int = CAPACITY,
        tail: LogTail | None = None,
        polls_steps: bool = False,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.is_inline = is_inline
        self.thread: threading.Thread | None = None
        self.dropped = 0
        self.error: Exception | None = None
        self._deliver = deliver
        self._capacity = capacity
        self._tail = tail
        self._polls_steps = polls_steps
        self._on_end = on_end
        self._reported = 0
        self._polled_step: StepProgress | None = None
        self._backlogs: dict[str, _Backlog] = {}
        self._newest_step: StepProgress | None = None
        self._step_is_queued = False
        self._is_closing = False
        self._is_delivering = False
        # A finalizer may call `close` at any moment, on a thread that is in the middle of any of
        # these methods: so the queues are SimpleQueues, and the locks are reentrant.
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self._wake_up: SimpleQueue[None] = SimpleQueue()
        # The innermost lock of all: no receiver and no other lock may be called under it.
        self._lock = threading.RLock()
        # Held while an inline reader delivers, which may take for ever: wait within bounds.
        self._delivering = threading.RLock()

    @property
    def waiting(self) -> int:
        """How many things wait in memory."""
        return self._queue.qsize()

    def queue_event(self, event: StageEvent) -> None:
        """Queue an event, or leave it in the log. Those of one run come in their order."""
        if self._is_closing:
            return
        with self._lock:
            backlog = self._backlogs.get(event.run_id)
            if backlog is None and self._queue.qsize() >= self._capacity:
                backlog = self._begin_backlog(event)
            if backlog is None:
                self._queue.put(event)
            else:  # until the backlog is read, for no event may overtake it
                backlog.last = event.seq

    def queue_step(self, progress: StepProgress) -> None:
        """Queue a sampling step if none is queued; otherwise keep the newest one."""
        if self._is_closing:
            return
        with self._lock:
            if self.is_inline:
                self._queue.put(progress)
            elif self._step_is_queued:
                self.dropped += self._newest_step is not None
                self._newest_step = progress
            else:
                self._step_is_queued = True
                self._queue.put(progress)

    def queue(self, item: Item) -> None:
        """Queue what is in no log, however much waits already."""
        if not self._is_closing:
            self._queue.put(item)

    def start(self) -> None:
        """Give the reader a thread. Raises RuntimeError where there can be no more threads."""
        # Set before it begins, for it may close the reader itself.
        self.thread = threading.Thread(
            target=self.run, name="stagewright-subscription", daemon=True
        )
        try:
            self.thread.start()
        except BaseException:
            self.thread = None
            raise

    def leave_to(self, thread: threading.Thread) -> None:
        """Leave an inline reader to the thread that it blocks, which is to call ``run``."""
        if self.is_inline:
            self.is_inline, self.thread = False, thread

    def close(self, timeout_s: float) -> None:
        """Queue nothing more; wait this long until what waits has been delivered."""
        self._is_closing = True
        self._queue.put(None)
        self._wake_up.put(None)
        if self.thread is not None:
            if self.thread is not threading.current_thread():
                self.thread.join(timeout_s)
        elif self._delivering.acquire(timeout=timeout_s):
            # From within a delivery, `_alone` does it later: a log may be in the middle of a read.
            if not self._is_delivering:
                self._end()
            self._delivering.release()

    def read_history(self) -> None:
        """Deliver what the log holds, on this thread. Raises LogCorruptError."""
        with self._alone():
            if self._tail is not None:
                self._deliver(self._tail.read())

    def serve(self) -> None:
        """Deliver what is queued, on this thread; another one that serves is waited for."""
        with self._alone(), self._ending_on_error():
            while self.is_inline and not self._queue.empty():
                self._deliver(self._with_logs(self._take_queued(None)))

    def run(self) -> None:
        """Deliver what comes, on this thread, until the reader is closed or its log is lost."""
        with self._ending_on_error():
            self.read_history()
            while not (self._is_closing and self._queue.empty()):
                items = self._take_queued(self._poll_s())
                self._deliver(self._with_logs(items))
                if items:
                    self._rest()
        self._end()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other thread deliver meanwhile; end the reader if it was closed in between."""
        with self._delivering:
            before, self._is_delivering = self._is_delivering, True
            try:
                yield
            finally:
                self._is_delivering = before
                if self._is_closing and not before and self.thread is None:
                    self._end()

    @contextmanager
    def _ending_on_error(self) -> Iterator[None]:
        """End the reader where the log cannot be read, or the loop has ended."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - kept in `error`, counted and logged
            self._is_closing, self.error = True, error
            signals.note_fault(self.name, "its subscription", f"lost: {error}")

    def _end(self) -> None:
        with self._lock:
            tails = [backlog.tail for backlog in self._backlogs.values()]
        for tail in filter(None, [self._tail, *tails]):
            tail.close()
        self._report_dropped()
        self._on_end()

    def _poll_s(self) -> float | None:
        """How long to wait for an announcement before the log is looked at again."""
        if self._tail is None:
            return None
        is_idle = self._tail.is_written_here or self._tail.has_ended()
        return _IDLE_POLL_S if is_idle else POLL_S

    def _take_queued(self, timeout_s: float | None) -> list[Item]:
        """Wait for the first thing in the queue; what is queued then, up to a batch."""
        items: list[Item | None] = []
        with suppress(Empty):
            items.append(self._queue.get(timeout=timeout_s))
            while len(items) < _BATCH:
                items.append(self._queue.get_nowait())
        return [item for item in items if item is not None]

    def _with_logs(self, items: list[Item]) -> Iterator[Item]:
        """What was queued, and after it what the logs have.

        Nothing is overlooked: an event is left in the log only while the queue is full, or while
        an earlier backlog is read; and the queue is emptied before the backlogs are read.
        """
        yield from self._in_order(items)
        if self._queue.empty():
            yield from self._from_logs()

    def _in_order(self, items: Iterable[Item]) -> Iterator[Item]:
        """Queued things; with a position in a log, none that was delivered already."""
        for item in items:
            if self._tail is not None and isinstance(item, StageEvent):
                yield from self._tail.up_to(item)
            else:
                yield item

    def _from_logs(self) -> Iterator[Item]:
        """What is in the logs and was not queued."""
        if self._tail is not None and not self._tail.is_written_here:
            yield from self._tail.read()
            step = read_step(self._tail.path.parent) if self._polls_steps else None
            if step is not None and step != self._polled_step:
                yield step
            self._polled_step = step
        with self._lock:
            backlogs = list(self._backlogs.items())
        for run_id, backlog in backlogs:
            while not self._is_caught_up(run_id, backlog):
                yield from backlog.tail.read(until=backlog.last)

    def _is_caught_up(self, run_id: str, backlog: _Backlog) -> bool:
        """Whether the whole backlog has been read; then the run's events are queued again."""
        with self._lock:
            if backlog.tail.next_seq <= backlog.last:
                return False
            del self._backlogs[run_id]
        if backlog.tail is not self._tail:
            backlog.tail.close()
        return True

    def _begin_backlog(self, event: StageEvent) -> _Backlog | None:
        """Leave the events of a run in its log, from this one on; None without a log."""
        tail, log = self._tail, open_log_of(event.run_id)
        if tail is None and log is not None:
            # The folder may be gone, which is not the run's fault.
            with suppress(StagewrightError, OSError):
                tail = LogTail(log.path, from_seq=event.seq)
        if tail is None:
            return None
        return self._backlogs.setdefault(event.run_id, _Backlog(tail))

    def _rest(self) -> None:
        """Sleep, so that the run is held up seldom; then queue the newest step."""
        if not self._is_closing:
            with suppress(Empty):
                self._wake_up.get(timeout=REST_S)
        with self._lock:
            step, self._newest_step = self._newest_step, None
            self._step_is_queued = step is not None and not self._is_closing
            if step is not None and self._is_closing:
                self.dropped += 1
            elif step is not None:
                self._queue.put(step)
        self._report_dropped()

    def _report_dropped(self) -> None:
        dropped = self.dropped
        signals.note_dropped(self.name, dropped - self._reported)
        self._reported = dropped
