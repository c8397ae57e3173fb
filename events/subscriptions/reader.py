"""A subscriber's reader: a queue of what was announced, and the log for what does not fit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from blinker import NamedSignal

from .. import signals
from ..errors import StagewrightError
from ..log.open_logs import written_log_of
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
_AT_ONCE = 256
"""How many announcements make a batch, at most."""

Item = StageEvent | StepProgress | str | tuple[NamedSignal, dict[str, Any]]
"""What is handed over: an event, a step, a config error's message, or another signal."""


class _Left:
    """Events of a run that are to be read from its log: from the tail's position to ``last``."""

    def __init__(self, tail: LogTail) -> None:
        self.tail = tail
        self.last = -1


class Reader:
    """Hands over to one subscriber what is announced: in order, each event once.

    The ``take`` methods only queue, so they never block. The queue holds ``capacity`` things. An
    event that does not fit stays in the log, and is read from there; where this process writes
    no log of it, it is queued all the same. With ``tail`` it is the reader of one run: it begins
    with what that log holds, and reads on while other processes write to it.

    A reader is served by whichever thread calls ``run``, until it is closed. One that
    ``is_inline`` is served by whoever announces something to it, with ``serve``, until it takes
    too long and ``leave_to`` gives it a thread. A thread of its own hands over ten times a second
    at most, and of sampling steps the newest; ``dropped`` counts the others.
    """

    def __init__(
        self,
        name: str,
        hand_over: Callable[[Iterable[Item]], None],
        *,
        is_inline: bool,
        capacity: int = CAPACITY,
        tail: LogTail | None = None,
        others_steps: bool = False,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.is_inline = is_inline
        self.thread: threading.Thread | None = None
        self.dropped = 0
        self.error: Exception | None = None
        self._hand_over = hand_over
        self._capacity = capacity
        self._tail = tail
        self._others_steps = others_steps
        self._on_end = on_end
        self._reported = 0
        self._others_step: StepProgress | None = None
        self._left: dict[str, _Left] = {}
        self._newest_step: StepProgress | None = None
        self._step_is_queued = False
        self._is_closing = False
        self._is_serving = False
        # A finalizer may call `close` at any moment, on a thread that is in the middle of any of
        # these methods: so the queues are SimpleQueues, and the locks are reentrant.
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self._end_of_rest: SimpleQueue[None] = SimpleQueue()
        # The innermost lock of all: whoever holds it calls nothing of a subscriber's.
        self._lock = threading.RLock()
        # Held while an inline reader hands over, which may take for ever: wait within bounds.
        self._serving = threading.RLock()

    @property
    def waiting(self) -> int:
        """How many things wait in memory."""
        return self._queue.qsize()

    def take_event(self, event: StageEvent) -> None:
        """Queue an event, or leave it in the log. Those of one run come in their order."""
        if self._is_closing:
            return
        with self._lock:
            left = self._left.get(event.run_id)
            if left is None and self._queue.qsize() >= self._capacity:
                left = self._begin_to_leave(event)
            if left is None:
                self._queue.put(event)
            else:  # until all that was left is read, for nothing may overtake it
                left.last = event.seq

    def take_step(self, progress: StepProgress) -> None:
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

    def take(self, item: Item) -> None:
        """Queue what is in no log, however much waits already."""
        if not self._is_closing:
            self._queue.put(item)

    def start(self) -> None:
        """Give the reader a thread. Raises RuntimeError where there can be no more threads."""
        thread = threading.Thread(target=self.run, name="stagewright-subscription", daemon=True)
        # Before it begins, for it may close the reader itself.
        self.thread = thread
        try:
            thread.start()
        except BaseException:
            self.thread = None
            raise

    def leave_to(self, thread: threading.Thread) -> None:
        """Leave an inline reader to the thread that it blocks, which is to call ``run``."""
        if self.is_inline:
            self.is_inline, self.thread = False, thread

    def close(self, timeout_s: float) -> None:
        """Take nothing more; wait this long until what waits has been handed over."""
        self._is_closing = True
        self._queue.put(None)
        self._end_of_rest.put(None)
        if self.thread is not None:
            if self.thread is not threading.current_thread():
                self.thread.join(timeout_s)
        elif self._serving.acquire(timeout=timeout_s):
            # From within, `_alone` does it later: a log may be in the middle of a reading.
            if not self._is_serving:
                self._end()
            self._serving.release()

    def read_history(self) -> None:
        """Hand over what the log holds, on this thread. Raises LogCorruptError."""
        with self._alone():
            if self._tail is not None:
                self._hand_over(self._tail.read())

    def serve(self) -> None:
        """Hand over what is queued, on this thread; another one that serves is waited for."""
        with self._alone(), self._ending_on_error():
            while self.is_inline and not self._queue.empty():
                self._hand_over(self._in_order(self._batch(None)))
                if self._queue.empty():
                    self._hand_over(self._missed())

    def run(self) -> None:
        """Hand over what comes, on this thread, until the reader is closed or its log is lost."""
        with self._ending_on_error():
            self.read_history()
            while not (self._is_closing and self._queue.empty()):
                items = self._batch(self._poll_s())
                self._hand_over(self._in_order(items))
                if self._queue.empty():
                    self._hand_over(self._missed())
                if items:
                    self._rest()
        self._end()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other thread hand over meanwhile; end the reader if it was closed in between."""
        with self._serving:
            before, self._is_serving = self._is_serving, True
            try:
                yield
            finally:
                self._is_serving = before
                if self._is_closing and not before and self.thread is None:
                    self._end()

    @contextmanager
    def _ending_on_error(self) -> Iterator[None]:
        """A log that cannot be read, or a loop that is gone, ends the reader."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - told by `error`, counted and logged
            self._is_closing, self.error = True, error
            signals.note_lost(self.name, error)

    def _end(self) -> None:
        with self._lock:
            tails = [left.tail for left in self._left.values()]
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

    def _batch(self, timeout_s: float | None) -> list[Item]:
        """What is queued, once there is something; nothing when it is time to look at the log."""
        items: list[Item | None] = []
        with suppress(Empty):
            items.append(self._queue.get(timeout=timeout_s))
            while len(items) < _AT_ONCE:
                items.append(self._queue.get_nowait())
        return [item for item in items if item is not None]

    def _in_order(self, items: Iterable[Item]) -> Iterator[Item]:
        """Queued things; with a position in a log, none that was given already."""
        for item in items:
            if self._tail is not None and isinstance(item, StageEvent):
                yield from self._tail.up_to(item)
            else:
                yield item

    def _missed(self) -> Iterator[Item]:
        """What is in the logs and not in the queue, which is empty.

        Nothing is overlooked: an event is left in the log only while the queue is full, or while
        this is reading what was left before; and the queue is emptied before this is called.
        """
        if self._tail is not None and not self._tail.is_written_here:
            yield from self._tail.read()
            yield from self._step_of_other(self._tail.path.parent)
        with self._lock:
            all_left = list(self._left.items())
        for run_id, left in all_left:
            while not self._is_caught_up(run_id, left):
                yield from left.tail.read(until=left.last)

    def _is_caught_up(self, run_id: str, left: _Left) -> bool:
        """Whether nothing that was left is still to be read; then it is queued again."""
        with self._lock:
            if left.tail.next_seq <= left.last:
                return False
            del self._left[run_id]
        if left.tail is not self._tail:
            left.tail.close()
        return True

    def _begin_to_leave(self, event: StageEvent) -> _Left | None:
        """Leave the events of a run in its log, from this one on; None without a log."""
        tail, log = self._tail, written_log_of(event.run_id)
        if tail is None:
            if log is None:
                return None
            try:
                tail = LogTail(log.path, from_seq=event.seq)
            except (StagewrightError, OSError):  # the folder is gone, which is not the run's fault
                return None
        left = self._left[event.run_id] = _Left(tail)
        return left

    def _step_of_other(self, folder: Path) -> Iterator[StepProgress]:
        """The step at which a run of another process is, if it is a new one."""
        step = read_step(folder) if self._others_steps else None
        if step is not None and step != self._others_step:
            yield step
        self._others_step = step

    def _rest(self) -> None:
        """Sleep, so that the run is held up seldom; then queue the newest step."""
        if not self._is_closing:
            with suppress(Empty):
                self._end_of_rest.get(timeout=REST_S)
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
