"""Hands a run's signals to their receivers without letting any of them hold up the run."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from blinker import NamedSignal

from .errors import StagewrightError
from .mailbox import LeftInLog
from .model import StageEvent
from .signals import (
    Receiver,
    deliver,
    deliver_at_once,
    event_appended,
    name_of_receiver,
    note_blocked,
    note_dropped,
    note_fault,
    receivers_of,
    returns_at_once,
    step_progress,
)
from .written_logs import written_log_of

_logger = logging.getLogger("stagewright.signals")

PATIENCE_S = 1.0
"""How long a run waits for one receiver before it goes on without it, over all its calls."""
SHARE_OF_TIME = 0.01
"""How much longer it does so for each second that the run has lasted."""
_SHORTEST_WAIT_S = 0.01
MAX_WAITING = 1024
"""How much is kept in memory for a receiver that is left behind."""


class _Delivery(NamedTuple):
    signal: NamedSignal
    receiver: Receiver
    sender: str
    payload: dict[str, Any]


class _LeftDeliveries(NamedTuple):
    """Events of a log that a receiver is due, to be read back once it gets to them."""

    signal: NamedSignal
    receiver: Receiver
    sender: str
    left: LeftInLog

    def deliveries(self) -> Iterator[_Delivery]:
        """The same as they would have been kept."""
        for event in self.left.events():
            yield _Delivery(self.signal, self.receiver, self.sender, {"event": event})


class _Line:
    """One subscriber: what it has cost the run, and what waits for it once it is left behind.

    All receivers of one object are one subscriber: they are called one at a time, in order.
    """

    __slots__ = ("cost_s", "is_behind", "owner", "waiting")

    def __init__(self, owner: object) -> None:
        self.owner = _reference(owner)
        self.cost_s = 0.0
        self.is_behind = False
        self.waiting: deque[_Delivery | _LeftDeliveries | None] = deque()
        """None stands for what is being delivered: the line is empty once that has returned."""

    def keep(self, delivery: _Delivery) -> None:
        """Keep what it is due, in bounded memory: facts in their log, of steps the first ones."""
        if len(self.waiting) < MAX_WAITING:
            self.waiting.append(delivery)
            return
        if delivery.signal is step_progress:
            note_dropped(name_of_receiver(delivery.receiver))
            return
        event, last = delivery.payload.get("event"), self.waiting[-1]
        if delivery.signal is not event_appended or not isinstance(event, StageEvent):
            self.waiting.append(delivery)  # moves of the lifecycle, of which there are few
        elif isinstance(last, _LeftDeliveries) and last[:3] == delivery[:3]:
            last.left.last = event.seq
        elif (log := written_log_of(delivery.sender)) is not None:
            self.waiting.append(_LeftDeliveries(*delivery[:3], LeftInLog(log, event.seq)))
        else:
            self.waiting.append(delivery)


class Announcer:
    """Delivers announcements in order, on a thread of its own.

    ``flush`` returns once they are delivered, so receivers that return promptly are called
    as if the run had called them itself. What a run waits for one receiver is bounded, over
    all its calls: by a second, and a hundredth of the time that the run has lasted. A receiver
    that takes longer is left behind: from then on it has a thread of its own, where what it is
    due waits for it, in order. Subscriptions that only queue what they get are served at once,
    and cost no change of threads. Where no thread can be started, ``flush`` calls the receivers
    itself.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._began = time.monotonic()
        self._waiting: deque[_Delivery] = deque()
        self._current: _Delivery | None = None
        self._since = 0.0
        self._lines: dict[int, _Line] = {}
        self._worker = 0
        self._thread: threading.Thread | None = None
        """What calls the receivers now; None while no thread could be started for it."""
        self._has_warned = False
        self._is_borrowed = False
        """Whether that is a thread that waits in ``flush``."""
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many calls of receivers that are not behind are not done yet."""
        return len(self._waiting) + (self._current is not None)

    def put(self, signal: NamedSignal, sender: str, **payload: Any) -> None:
        """Queue one announcement; never blocks, and costs next to nothing while nobody listens.

        Once the announcer is closed it is dropped.
        """
        receivers = receivers_of(signal, sender)
        if not receivers or self._closed:
            return
        slow = []
        for receiver in receivers:
            if returns_at_once(receiver):
                deliver_at_once(signal, receiver, sender, payload)
            else:
                slow.append(_Delivery(signal, receiver, sender, payload))
        if slow:
            self._queue(slow)

    def flush(self) -> None:
        """Wait until all is delivered, leaving behind receivers that take too long.

        Returns at once while another caller makes the calls, because no thread could be started.
        """
        if self._thread is threading.current_thread() or not self.waiting:
            return
        with self._changed:
            while (first := self._first) is not None and not self._is_borrowed:
                if self._thread is None:
                    self._work_here()
                    continue
                if self._changed.wait_for(partial(self._is_past, first), self._patience(first)):
                    continue
                if first is self._current:
                    self._leave_behind(first)

    def close(self) -> None:
        """Deliver what is queued and end the threads; the late ones get one second more."""
        self.flush()
        with self._changed:
            if threading.current_thread() is not self._thread:
                self._changed.wait_for(self._none_is_behind, PATIENCE_S)
            self._closed = True
            self._changed.notify_all()

    def _queue(self, deliveries: list[_Delivery]) -> None:
        with self._changed:
            if self._closed:
                return
            self._waiting.extend(deliveries)
            if self._thread is None:
                self._start_worker()
            self._changed.notify_all()

    @property
    def _first(self) -> _Delivery | None:
        """What is being delivered, or will be next."""
        return self._current or (self._waiting[0] if self._waiting else None)

    def _is_past(self, delivery: _Delivery) -> bool:
        return self._first is not delivery

    def _patience(self, delivery: _Delivery) -> float:
        """How many seconds more the run waits for the receiver that is called, or is next."""
        now = time.monotonic()
        limit = PATIENCE_S + SHARE_OF_TIME * (now - self._began)
        spent = self._line_of(delivery.receiver).cost_s
        if delivery is self._current:
            spent += now - self._since
        # Until its call has begun there is nothing that it could be blamed for.
        return max(limit - spent, 0.0 if delivery is self._current else _SHORTEST_WAIT_S)

    def _none_is_behind(self) -> bool:
        return not any(line.is_behind and line.waiting for line in self._lines.values())

    def _start_worker(self) -> None:
        self._worker += 1
        thread = threading.Thread(
            target=self._work, args=(self._worker,), name="stagewright-announcer", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            if not self._has_warned:
                _logger.warning("receivers are called on the run's own thread: %s", error)
            self._thread, self._has_warned = None, True
        else:
            self._thread = thread

    def _work_here(self) -> None:
        """Make the waiting calls on this thread; ``_changed`` is held before and after."""
        worker = self._worker
        self._thread, self._is_borrowed = threading.current_thread(), True
        self._changed.release()
        try:
            while self._deliver_next(worker):
                pass
        finally:
            self._changed.acquire()
            self._thread, self._is_borrowed, self._current = None, False, None

    def _leave_behind(self, delivery: _Delivery) -> None:
        note_blocked(delivery.receiver, delivery.signal)
        line = self._line_of(delivery.receiver)
        line.is_behind = True
        line.waiting.append(None)
        self._current = None
        self._start_worker()

    def _work(self, worker: int) -> None:
        while self._deliver_next(worker):
            pass  # Between two calls nothing is held on to that was delivered.

    def _deliver_next(self, worker: int) -> bool:
        """Make one call; whether this thread is to make the next one too."""
        delivery = self._next(worker)
        if delivery is None:
            return False
        deliver(delivery.signal, delivery.receiver, delivery.sender, delivery.payload)
        with self._changed:
            line = self._line_of(delivery.receiver)
            if worker == self._worker:
                line.cost_s += time.monotonic() - self._since
                self._current = None
                self._changed.notify_all()
                return True
        # It came back after all; somebody else serves the others now.
        del delivery
        self._serve_late(line)
        return False

    def _serve_late(self, line: _Line) -> None:
        """Deliver to a receiver that was left behind what it is due, as it comes."""
        while True:
            with self._changed:
                line.waiting.popleft()
                self._changed.notify_all()
                self._changed.wait_for(lambda: line.waiting or self._closed)
                if not line.waiting:
                    return
                due, line.waiting[0] = line.waiting[0], None
            _deliver_late(due)
            del due

    def _next(self, worker: int) -> _Delivery | None:
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closed or self._is_borrowed)
                if not self._waiting or worker != self._worker:
                    return None
                delivery = self._waiting.popleft()
                line = self._line_of(delivery.receiver)
                if not line.is_behind:
                    self._current = delivery
                    self._since = time.monotonic()
                    return delivery
                line.keep(delivery)
                self._changed.notify_all()

    def _line_of(self, receiver: Receiver) -> _Line:
        owner = getattr(receiver, "__self__", receiver)
        line = self._lines.get(id(owner))
        if line is None or line.owner() is not owner:
            # None of them is held on to: who goes is gone, and another may get its number.
            line = self._lines[id(owner)] = _Line(owner)
        return line


def _deliver_late(due: _Delivery | _LeftDeliveries | None) -> None:
    if isinstance(due, _Delivery):
        deliver(due.signal, due.receiver, due.sender, due.payload)
    elif due is not None:
        try:
            for delivery in due.deliveries():
                deliver(delivery.signal, delivery.receiver, delivery.sender, delivery.payload)
        except (StagewrightError, OSError) as error:
            what = "lost events that were left in a log that cannot be read"
            note_fault(name_of_receiver(due.receiver), due.signal.name, what, 0, error)


def _reference(owner: object) -> Callable[[], object]:
    """What gives the owner as long as it is there, or always where it cannot be told."""
    try:
        return weakref.ref(owner)
    except TypeError:
        return lambda: owner
