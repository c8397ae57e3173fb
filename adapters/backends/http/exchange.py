"""One request on one connection, and its answer, of bounded size."""

from __future__ import annotations

from http.client import HTTPConnection as PlainConnection
from http.client import HTTPException, HTTPResponse
from typing import TYPE_CHECKING

from ....statemachine.errors import BackendAnswerError, BackendError
from .connections import Patience, WatchedSocket
from .error_mapping import (
    CONNECTION_EXCEPTIONS,
    TRANSPORT_EXCEPTIONS,
    error_of_exception,
    error_of_status,
)
from .errors import AnswerLostError

if TYPE_CHECKING:
    from .client import HttpClient

MAX_SMALL_ANSWER_BYTES = 1 << 25
"""The largest list, state or error read."""
_PIECE = 1 << 22
_COMPRESSED = (
    "the answer is compressed, although the request did not allow it; switch compression off in "
    "the proxy in front of the server"
)


class Exchange:
    """A request on a connection of its own: ``send`` it, then wait for its ``answer``.

    ``patience`` is called repeatedly and raises to end the wait. With ``is_work`` the server goes
    on with the request after a lost connection, so the errors do not count as settled.
    ``was_cut`` says that its connection had been kept from an earlier request and ended before any
    answer: a server or proxy closes a connection that was idle. ``fresh`` asks for a new one.
    Raises ServerUnreachableError, ServerNotTrustedError.
    """

    def __init__(
        self,
        client: HttpClient,
        path: str,
        patience: Patience,
        *,
        limit: int = MAX_SMALL_ANSWER_BYTES,
        is_work: bool = False,
        fresh: bool = False,
    ) -> None:
        self._client = client
        self._path = path
        self._limit = limit
        self._is_work = is_work
        self._response: HTTPResponse | None = None
        try:
            self._connection = client.connections.take(fresh=fresh)
        except CONNECTION_EXCEPTIONS as error:
            raise error_of_exception(client, path, error, connected=False) from error
        self.patience = patience
        self._is_reused = self._watched.is_reused
        self.was_cut = False

    @property
    def patience(self) -> Patience | None:
        """What decides how long to wait."""
        return self._watched.patience

    @patience.setter
    def patience(self, patience: Patience) -> None:
        self._watched.patience = patience

    def send(self, method: str, body: bytes | None = None) -> None:
        """Send the request. Raises AnswerLostError, since the server may have got it."""
        headers, target = self._client.headers, self._client.base_path + self._path
        if body is not None:
            size = {"Content-Type": "application/json", "Content-Length": str(len(body))}
            headers = headers | size
        try:
            self._watched.hold_head(body)
            # urllib3's own methods check and wrap everything once more: a fifth of the time.
            PlainConnection.request(self._connection, method, target, body, headers)
        except BaseException as error:
            self.close()
            self._raise_lost(error)
            raise

    def answer(self) -> bytes:
        """The answer's body. Raises ServerError; BackendAnswerError where it is too large."""
        try:
            response = PlainConnection.getresponse(self._connection)
            self._response = response
            is_good = response.status in (200, 204)
            body = self._body(response, self._limit if is_good else None)
        except BaseException as error:
            self.close()
            self._raise_lost(error)
            raise
        if is_good or len(body) <= MAX_SMALL_ANSWER_BYTES:
            response.close()
            self._client.connections.give_back(self._connection)
        else:
            self.close()
        if not is_good:
            raise self._refusal(response, body)
        return body

    @property
    def readable(self) -> bool:
        """Whether the answer, or a part of it, has come."""
        return self._connection.sock is not None and self._watched.readable

    def close(self) -> None:
        """Give the request up, if its answer has not been read; the server is not asked to stop."""
        if self._response is not None:
            self._response.close()
        self._connection.close()

    @property
    def _watched(self) -> WatchedSocket:
        watched = self._connection.sock
        assert isinstance(watched, WatchedSocket)
        return watched

    def _raise_lost(self, error: BaseException) -> None:
        """Raise the error that stands for one of the libraries or the system."""
        is_end = isinstance(error, ConnectionError | HTTPException)
        self.was_cut = self._is_reused and self._response is None and is_end
        if isinstance(error, TRANSPORT_EXCEPTIONS):
            settled = not self._is_work
            raise error_of_exception(
                self._client, self._path, error, connected=True, settled=settled
            ) from error

    def _refusal(self, response: HTTPResponse, body: bytes) -> BackendError:
        return error_of_status(
            self._client,
            self._path,
            response.status,
            body[:MAX_SMALL_ANSWER_BYTES].decode("utf-8", "replace"),
            location=response.headers.get("Location", ""),
            retry_after=response.headers.get("Retry-After", ""),
            is_work=self._is_work,
        )

    def _body(self, response: HTTPResponse, limit: int | None) -> bytes:
        """The whole body; without a limit, of one that is too large only the beginning."""
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise self._unusable(_COMPRESSED)
        length = _length_of(response)
        if limit is not None and length is not None and length > limit:
            raise self._unusable(f"the answer has {length} bytes; the limit is {limit}")
        pieces, taken = [], 0
        while piece := response.read1(_PIECE):
            taken += len(piece)
            pieces.append(piece)
            if limit is not None and taken > limit:
                raise self._unusable(f"the answer has more than {limit} bytes")
            if taken > (limit or MAX_SMALL_ANSWER_BYTES):
                return b"".join(pieces)
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if length is None and not response.chunked and body[:1] == b"{" and body[-1:] != b"}":
            length = taken + 1  # the connection ended in the middle of the JSON
        if length is not None and taken < length:
            raise self._client.failure(
                AnswerLostError,
                self._path,
                f"no complete answer came back: it ends after {taken} bytes",
                settled=not self._is_work,
            )
        return body

    def _unusable(self, why: str) -> BackendAnswerError:
        return self._client.failure(BackendAnswerError, self._path, why)


def _length_of(response: HTTPResponse) -> int | None:
    """The length in the header of the answer."""
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else None
