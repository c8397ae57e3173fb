"""The threads on which requests are made, one for each request that a backend serves at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Slot(Generic[T]):
    """Runs ``work`` on a thread of its own, from construction on.

    A plain thread, for a pool takes no work once the main thread has ended, and a run goes on
    after that.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._found: list[T] = []
        self._error: BaseException | None = None
        # Whatever thread the run was started from: the process stays until it has ended.
        self._thread = threading.Thread(target=self._run, name="stagewright-slot", daemon=False)
        self._thread.start()

    def wait(self, timeout_s: float | None) -> bool:
        """Wait for its end, at most so long; whether it has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def result(self) -> T:
        """What the work gave, once it has ended. Raises what it raised."""
        if self._error is not None:
            raise self._error
        (found,) = self._found
        return found

    def _run(self) -> None:
        try:
            self._found.append(self._work())
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            self._error = error
