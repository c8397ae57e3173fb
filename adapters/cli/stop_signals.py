"""Receives the signals that ask a command to stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType


@contextlib.contextmanager
def signals_received(
    receive: Callable[[int, FrameType | None], None], numbers: Iterable[signal.Signals]
) -> Iterator[None]:
    """Let ``receive`` handle these signals; afterwards they are handled as before."""
    previous = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that is set by Ctrl-C and SIGTERM, for commands that serve until then."""
    stopped = threading.Event()
    with signals_received(lambda _number, _frame: stopped.set(), (signal.SIGINT, signal.SIGTERM)):
        yield stopped
