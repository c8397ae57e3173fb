"""Requests on a thread beside, so that one can be watched and given up."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from .client import Arrival, WebUIClient
from .connections import CutOff
from .errors import ServerError

_logger = logging.getLogger("stagewright.webui")


class Exchange:
    """One request and its answer."""

    def __init__(
        self, client: WebUIClient, endpoint: str, body: bytes, limit: int, arrived: Arrival
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._body = body
        self._limit = limit
        self._arrived = arrived
        self._done = threading.Event()
        self._cut_off = CutOff()
        self._answer: bytes | None = None
        self._error: BaseException | None = None

    def make(self) -> None:
        """Send the request and wait for the answer, on the thread of the caller."""
        self._cut_off.follow()
        try:
            self._answer = self._client.exchange(
                self._endpoint, self._body, self._limit, self._arrived
            )
        except BaseException as error:  # noqa: BLE001 - raised where the answer is asked for
            self._error = error
        self._body = b""
        self._done.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the answer, or the failure; whether it is there."""
        return self._done.wait(timeout_s)

    @property
    def done(self) -> bool:
        """Whether the answer, or a failure, is there."""
        return self._done.is_set()

    @property
    def lost(self) -> bool:
        """Whether it is done, and the server may work on it all the same."""
        return isinstance(self._error, ServerError) and self._error.unanswered

    def answer(self) -> bytes:
        """The answer of a request that is done. Raises what went wrong: ServerError."""
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        return self._answer

    def give_up(self) -> None:
        """Cut the connection; the server may go on working."""
        self._cut_off.cut()


class Beside:
    """A thread that does one piece of work after the other.

    It is a daemon, for a server that never answers must not keep a program from ending.
    """

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="stagewright-webui", daemon=True)
        self._thread.start()

    def begin(self, work: Callable[[], None]) -> None:
        """Do ``work``, which raises nothing, as soon as what came before it is done."""
        self._waiting.put(work)

    def end(self) -> None:
        """Take no more; what is under way goes on."""
        self._waiting.put(None)

    def _work(self) -> None:
        while (work := self._waiting.get()) is not None:
            try:
                work()
            except Exception:  # told, and the thread serves whatever comes next
                _logger.exception("a request beside failed")
            del work
