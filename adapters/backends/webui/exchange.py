"""One request on a background thread, so that it can be watched and aborted."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from .client import Arrival, WebUIClient
from .connections import AbortHandle
from .errors import ServerError

_logger = logging.getLogger("stagewright.webui")


class Exchange:
    """One request and its answer, which another thread can wait for or abort."""

    def __init__(
        self, client: WebUIClient, endpoint: str, body: bytes, limit: int, arrived: Arrival
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._body = body
        self._limit = limit
        self._arrived = arrived
        self._done = threading.Event()
        self._abort_handle = AbortHandle()
        self._answer: bytes | None = None
        self._error: BaseException | None = None

    def make(self) -> None:
        """Send the request and wait for the answer, on the calling thread."""
        self._abort_handle.track_this_thread()
        try:
            self._answer = self._client.exchange(
                self._endpoint, self._body, self._limit, self._arrived
            )
        except BaseException as error:  # noqa: BLE001 - raised where the answer is asked for
            self._error = error
        self._body = b""
        self._done.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the answer or the failure; True once either has come."""
        return self._done.wait(timeout_s)

    @property
    def done(self) -> bool:
        """Whether the answer or a failure has come."""
        return self._done.is_set()

    @property
    def lost(self) -> bool:
        """Whether the request failed without an answer, so the server may still work on it."""
        return isinstance(self._error, ServerError) and self._error.unanswered

    def answer(self) -> bytes:
        """The answer of a finished request. Raises ServerError if it failed."""
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        return self._answer

    def give_up(self) -> None:
        """Abort the request; the server may go on working on it."""
        self._abort_handle.abort()


class BackgroundThread:
    """A daemon thread that runs one function after the other.

    It is a daemon because a server that never answers must not keep a program from ending.
    """

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="stagewright-webui", daemon=True)
        self._thread.start()

    def begin(self, work: Callable[[], None]) -> None:
        """Run ``work`` after the functions given earlier; it should not raise."""
        self._waiting.put(work)

    def end(self) -> None:
        """End the thread after the functions given so far."""
        self._waiting.put(None)

    def _work(self) -> None:
        while (work := self._waiting.get()) is not None:
            try:
                work()
            except Exception:  # logged, so that the thread can run the next function
                _logger.exception("a background request failed")
            del work
