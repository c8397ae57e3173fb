"""One generating request on a thread of its own, which can be given up."""

from __future__ import annotations

import threading

from .client import Arrival, WebUIClient
from .connections import CutOff


class Exchange:
    """A request under way from the moment this is made."""

    def __init__(self, client: WebUIClient, endpoint: str, body: bytes, arrived: Arrival) -> None:
        self._client = client
        self._endpoint = endpoint
        self._body = body
        self._arrived = arrived
        self._done = threading.Event()
        self._cut_off = CutOff()
        self._answer: bytes | None = None
        self._error: BaseException | None = None
        # A thread that a server never answers must not keep the program from ending.
        threading.Thread(target=self._run, name="stagewright-exchange", daemon=True).start()

    def _run(self) -> None:
        self._cut_off.follow()
        try:
            self._answer = self._client.exchange(self._endpoint, self._body, self._arrived)
        except BaseException as error:  # noqa: BLE001 - raised where the answer is asked for
            self._error = error
        self._done.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the answer, or the failure; whether it is there."""
        return self._done.wait(timeout_s)

    @property
    def done(self) -> bool:
        """Whether the answer, or a failure, is there."""
        return self._done.is_set()

    def answer(self) -> bytes:
        """The answer of a request that is done. Raises what went wrong: ServerError."""
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        return self._answer

    def give_up(self) -> None:
        """Cut the connection; the server may go on working."""
        self._cut_off.cut()
