"""Limits background work after the main thread of the process has ended."""

from __future__ import annotations

import threading
import time

EXIT_TIME_S = 5.0
"""How long a process stays alive for background work after its main thread has ended."""


class ExitDeadline:
    """A deadline that starts when the main thread ends; before that there is no limit.

    The main thread may end long before other threads, so each piece of work has its own deadline.
    """

    def __init__(self) -> None:
        self._until: float | None = None

    def has_passed(self) -> bool:
        """Whether the work must stop now; call it repeatedly during the work."""
        if threading.main_thread().is_alive():
            return False
        now = time.monotonic()
        if self._until is None:
            self._until = now + EXIT_TIME_S
        return now >= self._until
