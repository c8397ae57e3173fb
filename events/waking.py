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
from contextlib import suppress
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
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._work, name="stagewright-waker", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # There can be no more threads: who asked pays for it.
            self._ring_all()
        else:
            self._thread = thread

    def _ring_all(self) -> None:
        """Make the calls that wait."""
        with suppress(Empty):
            while True:
                self._due.get_nowait()()

    def _work(self) -> None:
        rested_at = 0.0
        while True:
            first = self._due.get()
            time.sleep(max(LINGER_S, rested_at - time.monotonic()))
            first()
            del first  # While it sleeps it holds on to nobody.
            self._ring_all()
            rested_at = time.monotonic() + REST_S


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
