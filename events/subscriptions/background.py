"""One receiver's thread: a queue of announcements, and the log for those that do not fit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from queue import Empty, SimpleQueue
from typing import cast

from .. import signals
from ..model import StageEvent
from ..progress import StepProgress
from ..written_logs import written_log_of
from .live_steps import read_step
from .reader import LogPosition

CAPACITY = 1024
"""How many announcements wait in memory for a receiver, unless it asks for another number."""
REST_S = 0.1
"""How long a thread sleeps between two batches: each time that it is woken costs the run's own
thread some 50 us, and an image brings three events within a few milliseconds."""
_AT_ONCE = 256
"""How many announcements make a batch, at most."""

Item = StageEvent | StepProgress | str | Callable[[], object]
"""What is handed over: an event, a step, a config error's message, or any call to be made."""


class BackgroundReader:
    """Hands events to one receiver in order, each once, on a thread that runs ``run``.

    ``take_event`` and ``take_step`` are connected to signals: they only queue, so they cost the
    run no wait. The queue holds ``capacity`` things. An event that does not fit stays in the
    log, and the reader continues from its position there; where this process writes no log of
    it, it is queued all the same. Of sampling steps the newest is kept, ten a second are handed
    over, and ``dropped`` counts the others.

    With ``run_id`` it takes the events of that run only; with ``followed``, it begins with what
    the log holds from there on, and reads on while other processes write to it.
    """

    def __init__(
        self,
        hand_over: Callable[[Iterable[Item]], None],
        name: str,
        *,
        capacity: int = CAPACITY,
        run_id: str | None = None,
        followed: LogPosition | None = None,
        others_steps: bool = False,
        on_end: Callable[[], None] = lambda: None,
        thread: threading.Thread | None = None,
    ) -> None:
        self.name = name
        self.dropped = 0
        self.error: Exception | None = None
        self.thread = thread or threading.Thread(
            target=self.run, name="stagewright-subscription", daemon=True
        )
        self._hand_over = hand_over
        self._capacity = capacity
        self._run_id = run_id
        self._followed = followed
        self._others_steps = others_steps
        self._on_end = on_end
        self._reported = 0
        self._others_step: StepProgress | None = None
        self._positions: dict[str, LogPosition] = {}
        if followed is not None:
            assert run_id is not None
            self._positions[run_id] = followed
        self._newest_step: StepProgress | None = None
        self._step_is_queued = False
        self._is_closing = False
        # A finalizer may call `close` at any moment, on a thread that is in the middle of any
        # of these methods: so the queues are SimpleQueues, and the lock is reentrant. It is the
        # innermost lock: whoever holds it calls nothing of a subscriber's and takes no other.
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self._end_of_rest: SimpleQueue[None] = SimpleQueue()
        self._lock = threading.RLock()

    @property
    def waiting(self) -> int:
        """How many things wait in memory."""
        return self._queue.qsize()

    def take_event(self, run_id: str | None, event: StageEvent) -> None:
        """Queue an event, or leave it in the log. Those of one run come in their order."""
        if self._is_closing or self._run_id not in (None, run_id):
            return
        with self._lock:
            position = self._position_of(event)
            if position is not None:
                # Before the look at the queue: `_missed` looks the other way round.
                position.announced = event.seq
                if self._queue.qsize() >= self._capacity:
                    return
            self._queue.put(event)

    def take_step(self, run_id: str | None, progress: StepProgress) -> None:
        """Queue a sampling step if none is queued; otherwise keep the newest one."""
        if self._is_closing or self._run_id not in (None, run_id):
            return
        with self._lock:
            if self._step_is_queued:
                self.dropped += self._newest_step is not None
                self._newest_step = progress
            else:
                self._step_is_queued = True
                self._queue.put(progress)

    def take(self, item: Item) -> None:
        """Queue what is in no log, however much waits already."""
        if not self._is_closing:
            self._queue.put(item)

    def close(self, timeout_s: float) -> None:
        """Take nothing more; wait this long until what waits has been handed over."""
        self._is_closing = True
        self._queue.put(None)
        self._end_of_rest.put(None)
        if self.thread is not threading.current_thread():
            self.thread.join(timeout_s)

    def run(self) -> None:
        """Hand over what comes until ``close``; an error of the log or the receiver ends it."""
        try:
            if self._followed is not None:
                self._hand_over(self._followed.read())
            while not (self._is_closing and self._queue.empty()):
                items = self._batch()
                self._hand_over(chain.from_iterable(map(self._in_order, items)))
                if self._queue.empty():
                    self._hand_over(self._missed())
                if items:
                    self._rest()
        except Exception as error:  # noqa: BLE001 - a log or a loop that is gone
            self._is_closing, self.error = True, error
            signals.note_lost(self.name, error)
        finally:
            for position in self._snapshot():
                position.close()
            self._report_dropped()
            self._on_end()

    def _batch(self) -> list[Item]:
        """What waits, once there is something; nothing when it is time to look at the log."""
        items: list[Item | None] = []
        with suppress(Empty):
            poll_s = None if self._followed is None else self._followed.poll_s
            items.append(self._queue.get(timeout=poll_s))
            while len(items) < _AT_ONCE:
                items.append(self._queue.get_nowait())
        return [item for item in items if item is not None]

    def _in_order(self, item: Item) -> Iterable[Item]:
        """One thing, after the events before it that were left in the log."""
        position = self._positions.get(item.run_id) if isinstance(item, StageEvent) else None
        return (item,) if position is None else position.up_to(cast(StageEvent, item))

    def _missed(self) -> Iterator[Item]:
        """What is in the logs and not in the queue, which is empty.

        Nothing is overlooked: an event is left in the log only while the queue is full, so after
        its number has been noted, this is called again once the queue has been emptied.
        """
        for position in self._snapshot():
            if position is self._followed and not position.is_announced:
                yield from position.read()
                yield from self._step_of_other()
            elif position.announced >= position.next_seq:
                yield from position.read(until=position.announced)
            elif position.is_sealed and position is not self._followed:
                self._forget(position)

    def _snapshot(self) -> list[LogPosition]:
        with self._lock:
            return list(self._positions.values())

    def _forget(self, position: LogPosition) -> None:
        """Drop the place in a log that has ended, unless a resume has announced more by now."""
        with self._lock:
            if position.announced < position.next_seq:
                self._positions = {
                    run: one for run, one in self._positions.items() if one is not position
                }
                position.close()

    def _step_of_other(self) -> Iterator[StepProgress]:
        """The step at which a run of another process is, if it is a new one."""
        if self._others_steps and self._followed is not None:
            step = read_step(self._followed.path.parent)
            if step is not None and step != self._others_step:
                yield step
            self._others_step = step

    def _position_of(self, event: StageEvent) -> LogPosition | None:
        """The place in this event's log, from the first event on; None without a log."""
        position = self._positions.get(event.run_id)
        if position is None and (log := written_log_of(event.run_id)) is not None:
            position = self._positions[event.run_id] = LogPosition(log.path, event.seq)
        return position

    def _rest(self) -> None:
        """Sleep, so that the run is held up seldom; then queue the newest step."""
        if not self._is_closing:
            with suppress(Empty):
                self._end_of_rest.get(timeout=REST_S)
        with self._lock:
            step, self._newest_step = self._newest_step, None
            self._step_is_queued = step is not None and not self._is_closing
            if step is not None and not self._is_closing:
                self._queue.put(step)
            elif step is not None:
                self.dropped += 1
        self._report_dropped()

    def _report_dropped(self) -> None:
        dropped = self.dropped
        signals.note_dropped(self.name, dropped - self._reported)
        self._reported = dropped
