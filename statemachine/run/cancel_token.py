"""The token that stops a run."""

from __future__ import annotations

import threading

from ...events.model import CancelMode


class CancelToken:
    """Shared by the caller that cancels, the runner and the backend; safe from any thread.

    ``stopping`` says that no further image is to be begun, ``cancelled`` that the one being
    made is to be given up too. Neither is ever taken back.
    """

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._stopping = threading.Event()
        self.reason = ""

    @property
    def stopping(self) -> bool:
        """Whether any cancel has been requested."""
        return self._stopping.is_set()

    @property
    def cancelled(self) -> bool:
        """Whether the work under way is to be given up now."""
        return self._cancelled.is_set()

    def request(self, mode: CancelMode, reason: str = "") -> None:
        """Ask to stop. The runner calls this once the request is durable in the log."""
        self.reason = reason or self.reason
        self._stopping.set()
        if mode == CancelMode.NOW:
            self._cancelled.set()

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until ``cancelled``, at most ``timeout_s`` seconds; whether it is."""
        return self._cancelled.wait(timeout_s)

    def wait_stopping(self, timeout_s: float | None) -> bool:
        """Wait until ``stopping``, at most ``timeout_s`` seconds; whether it is."""
        return self._stopping.wait(timeout_s)
