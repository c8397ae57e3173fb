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
    left behind on its thread: others are served by a new one, and the receiver gets nothing
    more until it has returned. ``subscribe`` spares slow receivers this.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[_Delivery] = deque()
        self._current: _Delivery | None = None
        self._since = 0.0
        self._blocked: list[Receiver] = []
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
        """Deliver what is queued and end the thread."""
        self.flush()
        with self._changed:
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
        self._blocked.append(delivery.receiver)
        self._current = None
        self._start_worker()

    def _work(self, worker: int) -> None:
        while (delivery := self._next(worker)) is not None:
            deliver(delivery.signal, delivery.receiver, delivery.sender, delivery.payload)
            with self._changed:
                if worker != self._worker:
                    # It came back after all; somebody else delivers now.
                    self._blocked.remove(delivery.receiver)
                    return
                self._current = None
                self._changed.notify_all()

    def _next(self, worker: int) -> _Delivery | None:
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting or worker != self._worker:
                    return None
                delivery = self._waiting.popleft()
                if delivery.receiver not in self._blocked:
                    self._current = delivery
                    self._since = time.monotonic()
                    return delivery
                if not self._waiting:
                    self._changed.notify_all()
