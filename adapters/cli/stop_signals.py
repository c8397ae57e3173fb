"""Ctrl-C and SIGTERM, for commands that serve until they are stopped."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that is set by Ctrl-C and SIGTERM."""
    stopped = threading.Event()

    def receive(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    previous = {
        number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
