"""Hands a run's signals to their receivers without letting any of them hold up the run."""

from __future__ import annotations

import threading
import time
from collections import deque
from functools import partial
from typing import Any, NamedTuple

from blinker import NamedSignal

from .signals import (
    Receiver,
    deliver,
    deliver_at_once,
    note_blocked,
    receivers_of,
    returns_at_once,
)

PATIENCE_S = 1.0
"""How long a run waits for one receiver before it goes on without it, over all its calls."""
SHARE_OF_TIME = 0.01
"""How much longer it does so for each second that the run has lasted."""
_SHORTEST_WAIT_S = 0.01


class _Delivery(NamedTuple):
    signal: NamedSignal
    receiver: Receiver
    sender: str
    payload: dict[str, Any]


class _Line:
    """One receiver: what it has cost the run, and what waits for it once it is left behind."""

    __slots__ = ("cost_s", "is_behind", "receiver", "waiting")

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.cost_s = 0.0
        self.is_behind = False
        self.waiting: deque[_Delivery] = deque()


class Announcer:
    """Delivers announcements in order, on a thread of its own.

    ``flush`` returns once they are delivered, so receivers that return promptly are called
    as if the run had called them itself. What a run waits for one receiver is bounded, over
    all its calls: by a second, and a hundredth of the time that the run has lasted. A receiver
    that takes longer is left behind: from then on it has a thread of its own, where what it is
    due waits for it, in order. Subscriptions that only queue what they get are served at once,
    and cost no change of threads.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._began = time.monotonic()
        self._waiting: deque[_Delivery] = deque()
        self._current: _Delivery | None = None
        self._since = 0.0
        self._lines: list[_Line] = []
        self._worker = 0
        self._thread: threading.Thread | None = None
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
        """Wait until all is delivered, leaving behind receivers that take too long."""
        if self._thread is threading.current_thread() or not self.waiting:
            return
        with self._changed:
            while (first := self._first) is not None:
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
        return not any(line.is_behind and line.waiting for line in self._lines)

    def _start_worker(self) -> None:
        self._worker += 1
        self._thread = threading.Thread(
            target=self._work, args=(self._worker,), name="stagewright-announcer", daemon=True
        )
        self._thread.start()

    def _leave_behind(self, delivery: _Delivery) -> None:
        note_blocked(delivery.receiver, delivery.signal)
        line = self._line_of(delivery.receiver)
        line.is_behind = True
        # It stands for the call under way: the line is empty once that has returned.
        line.waiting.append(delivery)
        self._current = None
        self._start_worker()

    def _work(self, worker: int) -> None:
        while (delivery := self._next(worker)) is not None:
            deliver(delivery.signal, delivery.receiver, delivery.sender, delivery.payload)
            with self._changed:
                line = self._line_of(delivery.receiver)
                line.cost_s += time.monotonic() - self._since if worker == self._worker else 0.0
                if worker == self._worker:
                    self._current = None
                    self._changed.notify_all()
                    continue
            # It came back after all; somebody else serves the others now.
            self._serve_late(line)
            return

    def _serve_late(self, line: _Line) -> None:
        """Deliver to a receiver that was left behind what it is due, as it comes."""
        while True:
            with self._changed:
                line.waiting.popleft()
                self._changed.notify_all()
                self._changed.wait_for(lambda: line.waiting or self._closed)
                if not line.waiting:
                    return
                delivery = line.waiting[0]
            deliver(delivery.signal, line.receiver, delivery.sender, delivery.payload)

    def _next(self, worker: int) -> _Delivery | None:
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting or worker != self._worker:
                    return None
                delivery = self._waiting.popleft()
                line = self._line_of(delivery.receiver)
                if not line.is_behind:
                    self._current = delivery
                    self._since = time.monotonic()
                    return delivery
                line.waiting.append(delivery)
                self._changed.notify_all()

    def _line_of(self, receiver: Receiver) -> _Line:
        # Bound methods are made anew at each look and cannot always be hashed: they compare.
        for line in self._lines:
            if line.receiver == receiver:
                return line
        self._lines.append(_Line(receiver))
        return self._lines[-1]
