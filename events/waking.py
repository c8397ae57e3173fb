"""Wakes the threads of subscriptions: a moment after something came for them, all in one go.

A run pays for each thread that it wakes, some twenty microseconds and a change of threads, and
an image brings three events within a few milliseconds. So it wakes one thread, which waits for
the rest of them and then wakes all others.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

LINGER_S = 0.01
"""How long after the first event of several the threads are woken."""

Ring = Callable[[], None]


class Waker:
    """Makes the calls that it is asked for on a thread of its own, ``LINGER_S`` later."""

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
        while True:
            due = [self._due.get()]
            time.sleep(LINGER_S)
            try:
                while True:
                    due.append(self._due.get_nowait())
            except Empty:
                pass
            for ring in due:
                ring()
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
