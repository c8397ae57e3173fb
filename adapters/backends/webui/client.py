"""The HTTP client for one server: kept connections, bounded answers and typed errors."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import requests
import urllib3
from urllib3.response import HTTPResponse

from ....events.version import VERSION
from ....statemachine.config.schema import ServerTable
from ....statemachine.errors import BackendAnswerError, ConfigurationError
from ...text import one_line
from .address import Credentials, ServerAddress
from .connections import AbortableAdapter, Deadlines
from .error_mapping import error_of_exception, error_of_status
from .errors import AnswerLostError

MAX_SMALL_ANSWER_BYTES = 1 << 25
"""The largest list, state or error read."""
ANSWER_TIMEOUT_S = 10.0
"""The time limit of small requests; ten times the measured time of a busy server."""

certificate_logger = logging.getLogger("stagewright.webui.certificate")
"""Warns once for each client that does not check its server's certificate."""

_PIECE = 1 << 22
_SENT_AT_ONCE = 1 << 18

Arrival = Callable[[int], None]
"""Receives the number of bytes received or sent since its last call."""


class WebUIClient:
    """Requests to one server, over connections that are kept. Safe from any thread.

    Without redirects, netrc, proxies and cookies, so data goes only to that address. Connections
    and TLS come from a requests adapter; a requests Session would add these features and take
    as much time for a small request as the server. Raises ConfigurationError if ``ca_bundle``
    does not exist.
    """

    def __init__(
        self,
        address: ServerAddress,
        settings: ServerTable | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self.address = address
        self.credentials = credentials or Credentials()
        self._settings = settings or ServerTable()
        bundle = self._settings.ca_bundle
        if bundle is not None and address.is_encrypted and not Path(bundle).exists():
            raise ConfigurationError(
                f"server.ca_bundle = {bundle}: no such file", key="server.ca_bundle"
            )
        if address.is_encrypted and not self._settings.tls_verify:
            certificate_logger.warning(
                "%s: its certificate is not checked (server.tls_verify = false)",
                one_line(address.url),
            )
        self._path = urlsplit(address.url).path
        self._headers = {"User-Agent": f"stagewright/{VERSION}", "Accept": "application/json"}
        self._headers["Accept-Encoding"] = "identity"
        if self.credentials.header is not None:
            self._headers["Authorization"] = self.credentials.header
        self._deadlines = Deadlines()
        self._adapter = AbortableAdapter(pool_connections=1, pool_maxsize=4, max_retries=0)
        self._pool: urllib3.HTTPConnectionPool | None = None

    def close(self) -> None:
        """Close idle connections; new ones are opened on demand."""
        self._pool = None
        self._adapter.close()

    def get(self, path: str, *, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        """The decoded JSON at ``path``. Raises ServerError."""
        return self._small("GET", path, None, timeout_s)

    def post(self, path: str, body: Any, *, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        """The decoded JSON that answers ``body``; None for an empty answer. Raises ServerError."""
        return self._small("POST", path, msgspec.json.encode(body), timeout_s)

    def exchange(self, path: str, body: bytes, limit: int, arrived: Arrival) -> bytes:
        """The answer to ``body``, of at most ``limit`` bytes; without a time limit.

        Raises ServerError, and BackendAnswerError for a larger answer.
        """
        pieces = _Pieces(body, arrived)
        return self._not_empty(self._send("POST", path, pieces, None, limit, arrived), path)

    def decoded(self, answer: bytes, path: str) -> Any:
        """``answer`` as JSON. Raises BackendAnswerError if it is not JSON."""
        try:
            return msgspec.json.decode(answer)
        except (ValueError, RecursionError):
            return self.loosely_decoded(answer, path)

    def loosely_decoded(self, answer: bytes, path: str) -> Any:
        """Decode JSON that strict decoders refuse, for example with lone surrogates."""
        try:
            return _recordable(json.loads(answer))
        except (ValueError, RecursionError) as error:
            start = answer[:2000].decode("utf-8", "replace")
            raise error_of_status(
                self.address, path, 200, start, credentials=self.credentials
            ) from error

    def _small(self, method: str, path: str, body: bytes | None, timeout_s: float) -> Any:
        with self._deadlines.limit(timeout_s):
            answer = self._send(method, path, body, timeout_s, MAX_SMALL_ANSWER_BYTES)
        if not answer and method == "POST":
            return None
        return self.decoded(self._not_empty(answer, path), path)

    def _not_empty(self, answer: bytes, path: str) -> bytes:
        if not answer:
            raise AnswerLostError(
                f"{self.address.url}{path}: no complete answer came back: it is empty",
                endpoint=path,
            )
        return answer

    def _send(
        self,
        method: str,
        path: str,
        body: bytes | _Pieces | None,
        timeout_s: float | None,
        limit: int,
        arrived: Arrival | None = None,
    ) -> bytes:
        headers = self._headers
        if body is not None:
            size = {"Content-Type": "application/json", "Content-Length": str(len(body))}
            headers = headers | size
        try:
            response = self._connections().urlopen(
                method,
                self._path + path,
                body=body,
                headers=headers,
                timeout=urllib3.Timeout(connect=self._settings.connect_timeout_s, read=timeout_s),
                retries=False,
                redirect=False,
                preload_content=False,
            )
            assert isinstance(response, HTTPResponse)
            try:
                return self._answer(response, path, limit, arrived)
            finally:
                response.close()  # a fully read response is already back in the pool
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            left = isinstance(body, _Pieces) and body.begun
            raise error_of_exception(
                self.address, path, error, self.credentials, left=left
            ) from error

    def _connections(self) -> urllib3.HTTPConnectionPool:
        if self._pool is None:
            settings = self._settings
            verify = (settings.ca_bundle or True) if settings.tls_verify else False
            pool = self._adapter.get_connection_with_tls_context(
                requests.Request("GET", self.address.url).prepare(), verify=verify
            )
            # Without this the certificates of the system would be trusted.
            self._adapter.cert_verify(  # type: ignore[no-untyped-call]  # types-requests lacks it
                pool, self.address.url, verify, None
            )
            assert isinstance(pool, urllib3.HTTPConnectionPool)
            self._pool = pool
        return self._pool

    def _answer(
        self, response: HTTPResponse, path: str, limit: int, arrived: Arrival | None
    ) -> bytes:
        if response.status in (200, 204):
            return self._body(response, path, limit, arrived)
        body = self._body(response, path, MAX_SMALL_ANSWER_BYTES, None, cut=True)
        raise error_of_status(
            self.address,
            path,
            response.status,
            body.decode("utf-8", "replace"),
            location=response.headers.get("Location", ""),
            retry_after=response.headers.get("Retry-After", ""),
            credentials=self.credentials,
        )

    def _body(
        self,
        response: HTTPResponse,
        path: str,
        limit: int,
        arrived: Arrival | None,
        *,
        cut: bool = False,
    ) -> bytes:
        """The whole body, or with ``cut`` its first ``limit`` bytes."""
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise self._unusable(
                path, "the answer is compressed, although the request did not allow it"
            )
        length = _length_of(response)
        if length is not None and length > limit and not cut:
            raise self._unusable(path, f"the answer has {length} bytes; the limit is {limit}")
        pieces, taken = [], 0
        while piece := response.read1(_PIECE, decode_content=False):
            taken += len(piece)
            if taken > limit:
                if cut:
                    break
                raise self._unusable(path, f"the answer has more than {limit} bytes")
            pieces.append(piece)
            if arrived is not None:
                arrived(len(piece))
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if length is None and not response.chunked and body[:1] == b"{" and body[-1:] != b"}":
            length = taken + 1  # the connection ended in the middle of the JSON
        if length is not None and taken < min(length, limit):
            raise AnswerLostError(
                f"{self.address.url}{path}: no complete answer came back: "
                f"it ends after {taken} bytes",
                endpoint=path,
            )
        return body

    def _unusable(self, path: str, why: str) -> BackendAnswerError:
        return BackendAnswerError(f"{self.address.url}{path}: {why}", endpoint=path)


def _length_of(response: HTTPResponse) -> int | None:
    """The length in the header of the answer."""
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else None


def _recordable(value: Any) -> Any:
    """JSON values without lone surrogates, which a log cannot hold."""
    if isinstance(value, dict):
        return {_recordable(key): _recordable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_recordable(part) for part in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


class _Pieces:
    """A body sent in pieces, so that the send timeout applies to each piece."""

    def __init__(self, body: bytes, gone: Arrival) -> None:
        self._body = memoryview(body)
        self._gone = gone
        self.begun = False

    def __len__(self) -> int:
        return len(self._body)

    def __iter__(self) -> Iterator[Any]:  # memoryviews, which urllib3's types leave out
        self.begun = True
        for start in range(0, len(self._body), _SENT_AT_ONCE):
            piece = self._body[start : start + _SENT_AT_ONCE]
            yield piece
            self._gone(len(piece))
