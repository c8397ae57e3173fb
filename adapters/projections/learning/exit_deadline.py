"""How long work beside the runs may go on once the process has come to its end."""

from __future__ import annotations

import threading
import time

EXIT_TIME_S = 5.0
"""A process waits no longer for work of this kind when all else in it is done."""


class ExitDeadline:
    """The time that work has from the end of the main thread on; until then it has all of it.

    A program's main thread may end long before its other threads do: each piece of work that
    begins has a exit_deadline of its own.
    """

    def __init__(self) -> None:
        self._until: float | None = None

    def has_passed(self) -> bool:
        """Whether it is time to stop; to be asked again and again."""
        if threading.main_thread().is_alive():
            return False
        now = time.monotonic()
        if self._until is None:
            self._until = now + EXIT_TIME_S
        return now >= self._until
