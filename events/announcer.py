"""Hands a run's signals to their receivers without letting any of them hold up the run."""

from __future__ import annotations

import threading
import time
from collections import deque
from functools import partial
from typing import Any, NamedTuple

from blinker import NamedSignal

from .signals import Receiver, deliver, note_blocked, receivers_of

PATIENCE_S = 1.0
"""How long a run waits for one call of a receiver before it goes on without it."""


class _Delivery(NamedTuple):
    signal: NamedSignal
    receiver: Receiver
    sender: str
    payload: dict[str, Any]


class Announcer:
    """Delivers announcements in order, on a thread of its own.

    ``flush`` returns once they are delivered, so receivers that return promptly are called
    as if the run had called them itself. A receiver that does not return within a second is
    left behind on its thread: others are served by a new one, and what the receiver is due
    meanwhile waits for it there, in order, until it has caught up.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[_Delivery] = deque()
        self._current: _Delivery | None = None
        self._since = 0.0
        self._behind: list[tuple[Receiver, deque[_Delivery]]] = []
        self._worker = 0
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many calls of receivers are not done yet."""
        return len(self._waiting) + (self._current is not None)

    def put(self, signal: NamedSignal, sender: str, **payload: Any) -> None:
        """Queue one announcement; never blocks, and costs next to nothing while nobody listens.

        Once the announcer is closed it is dropped.
        """
        receivers = receivers_of(signal, sender)
        if not receivers:
            return
        with self._changed:
            if self._closed:
                return
            self._waiting.extend(
                _Delivery(signal, receiver, sender, payload) for receiver in receivers
            )
            if self._thread is None:
                self._start_worker()
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all is delivered, leaving behind receivers that do not return."""
        if self._thread is threading.current_thread() or not self.waiting:
            return
        with self._changed:
            while self._waiting or self._current is not None:
                before = self._current
                spent = 0.0 if before is None else time.monotonic() - self._since
                if self._changed.wait_for(partial(self._moved_on, before), PATIENCE_S - spent):
                    continue
                if before is not None:
                    self._leave_behind(before)

    def close(self) -> None:
        """Deliver what is queued and end the thread; the late ones get one second more."""
        self.flush()
        with self._changed:
            if threading.current_thread() is not self._thread:
                self._changed.wait_for(lambda: not self._behind, PATIENCE_S)
            self._closed = True
            self._changed.notify_all()

    def _moved_on(self, before: _Delivery | None) -> bool:
        return self._current is not before or not (self._waiting or self._current)

    def _start_worker(self) -> None:
        self._worker += 1
        self._thread = threading.Thread(
            target=self._work, args=(self._worker,), name="stagewright-announcer", daemon=True
        )
        self._thread.start()

    def _leave_behind(self, delivery: _Delivery) -> None:
        note_blocked(delivery.receiver, delivery.signal)
        self._behind.append((delivery.receiver, deque()))
        self._current = None
        self._start_worker()

    def _work(self, worker: int) -> None:
        while (delivery := self._next(worker)) is not None:
            deliver(delivery.signal, delivery.receiver, delivery.sender, delivery.payload)
            with self._changed:
                if worker == self._worker:
                    self._current = None
                    self._changed.notify_all()
                    continue
            # It came back after all; somebody else serves the others now.
            self._catch_up(delivery.receiver)
            return

    def _catch_up(self, receiver: Receiver) -> None:
        """Deliver what has gathered for a receiver that was left behind."""
        while True:
            with self._changed:
                place, waiting = next(
                    (place, waiting)
                    for place, (behind, waiting) in enumerate(self._behind)
                    if behind == receiver
                )
                if not waiting:
                    del self._behind[place]
                    self._changed.notify_all()
                    return
                delivery = waiting.popleft()
            deliver(delivery.signal, receiver, delivery.sender, delivery.payload)

    def _next(self, worker: int) -> _Delivery | None:
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting or worker != self._worker:
                    return None
                delivery = self._waiting.popleft()
                late = self._line_of(delivery.receiver)
                if late is None:
                    self._current = delivery
                    self._since = time.monotonic()
                    return delivery
                late.append(delivery)
                if not self._waiting:
                    self._changed.notify_all()

    def _line_of(self, receiver: Receiver) -> deque[_Delivery] | None:
        """What waits for a receiver that was left behind; None for all others."""
        return next((waiting for behind, waiting in self._behind if behind == receiver), None)
