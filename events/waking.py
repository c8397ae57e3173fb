"""Wakes the threads of subscriptions: soon after something came for them, all in one go.

A run pays for each thread that wakes beside it, some fifty microseconds with the change of
threads, and an image brings three events within a few milliseconds. So it wakes one thread, which
waits for the rest of them and then wakes all others, ten times a second at most: what listeners
cost is then a small share of the time, however quick the images are.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

LINGER_S = 0.01
"""How long after the first event of several the threads are woken."""
REST_S = 0.1
"""How long they are left to sleep before they are woken once more."""

Ring = Callable[[], None]


class Waker:
    """Makes the calls that it is asked for on a thread of its own, ``REST_S`` later at most."""

    def __init__(self) -> None:
        self._due: SimpleQueue[Ring] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def ask(self, ring: Ring) -> None:
        """Have ``ring`` called soon; it must neither block nor raise. From any thread."""
        self._due.put(ring)
        if self._thread is None:
            with self._lock:
                self._start()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._work, name="stagewright-waker", daemon=True
            )
            self._thread.start()

    def _work(self) -> None:
        rested_at = 0.0
        while True:
            due = [self._due.get()]
            time.sleep(max(LINGER_S, rested_at - time.monotonic()))
            try:
                while True:
                    due.append(self._due.get_nowait())
            except Empty:
                pass
            for ring in due:
                ring()
            rested_at = time.monotonic() + REST_S
            del due, ring


_waker = Waker()


def wake_soon(ring: Ring) -> None:
    """Have a sleeping thread woken, by a call that neither blocks nor raises."""
    _waker.ask(ring)


def _begin_anew() -> None:
    """In a process that was forked none of the threads are left."""
    global _waker  # noqa: PLW0603 - there is one for each process
    _waker = Waker()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
