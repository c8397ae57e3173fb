"""One server's HTTP: a session, bounded answers, and errors that say what went wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import msgspec
import requests
import urllib3

from ...events.version import VERSION
from ...statemachine.config import ServerTable
from ...statemachine.errors import BackendAnswerError, BackendError
from .address import Credentials, ServerAddress
from .connections import FollowedAdapter
from .errors import AnswerLostError
from .failures import error_of_exception, error_of_status

MAX_SMALL_ANSWER_BYTES = 1 << 25
"""The largest list, state or error read."""
ANSWER_TIMEOUT_S = 10.0
"""How long a list or a state may take; ten times what a busy server was seen to take."""

_PIECE = 1 << 20
_SENT_AT_ONCE = 1 << 18

Arrival = Callable[[int], None]
"""Told how many bytes have come or gone since it was told last."""


class WebUIClient:
    """Requests to one server. Safe from any thread.

    No redirects, no netrc, no proxies and no cookies: what is sent goes to that address.
    """

    def __init__(
        self,
        address: ServerAddress,
        settings: ServerTable | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self.address = address
        self.credentials = credentials or Credentials()
        self._connect_timeout_s = (settings or ServerTable()).connect_timeout_s
        self._session = _session(settings or ServerTable(), self.credentials)
        self._prepared: dict[str, requests.PreparedRequest] = {}

    def close(self) -> None:
        """Close the idle connections."""
        self._session.close()

    def get(self, path: str, *, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        """The decoded JSON at ``path``. Raises ServerError."""
        prepared = self._prepared.get(path)
        if prepared is None:
            prepared = self._prepare("GET", path)
            self._prepared[path] = prepared
        return self._small(prepared, path, timeout_s)

    def post(self, path: str, body: Any, *, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        """The decoded JSON that answers ``body``; None for an empty answer. Raises ServerError."""
        prepared = self._prepare("POST", path, msgspec.json.encode(body))
        return self._small(prepared, path, timeout_s)

    def exchange(self, path: str, body: bytes, limit: int, arrived: Arrival) -> bytes:
        """The answer to ``body``, of ``limit`` bytes at most, waited for as long as it takes.

        Raises ServerError, and BackendAnswerError for a larger answer.
        """
        prepared = self._prepare("POST", path, _Pieces(body, arrived))
        return self._send(prepared, path, None, limit, arrived)

    def decoded(self, answer: bytes, path: str) -> Any:
        """``answer`` as JSON. Raises BackendAnswerError where it is none."""
        try:
            return msgspec.json.decode(answer)
        except (ValueError, RecursionError):
            return self.loosely_decoded(answer, path)

    def loosely_decoded(self, answer: bytes, path: str) -> Any:
        """JSON with what strict decoders refuse, lone surrogates for one."""
        try:
            return _recordable(json.loads(answer))
        except (ValueError, RecursionError) as error:
            start = answer[:2000].decode("utf-8", "replace")
            raise self._refusal(path, 200, start) from error

    def _small(self, prepared: requests.PreparedRequest, path: str, timeout_s: float) -> Any:
        answer = self._send(prepared, path, timeout_s, MAX_SMALL_ANSWER_BYTES)
        return self.decoded(answer, path) if answer else None

    def _prepare(
        self, method: str, path: str, body: bytes | _Pieces | None = None
    ) -> requests.PreparedRequest:
        headers = None if body is None else {"Content-Type": "application/json"}
        asked = requests.Request(method, self.address.url + path, data=body, headers=headers)
        return self._session.prepare_request(asked)

    def _send(
        self,
        prepared: requests.PreparedRequest,
        path: str,
        timeout_s: float | None,
        limit: int,
        arrived: Arrival | None = None,
    ) -> bytes:
        timeout = (self._connect_timeout_s, timeout_s)
        try:
            with self._session.send(
                prepared, timeout=timeout, allow_redirects=False, stream=True
            ) as response:
                status = response.status_code
                if status not in (200, 204):
                    body = self._body(response, path, MAX_SMALL_ANSWER_BYTES, None, cut=True)
                    words = body.decode("utf-8", "replace")
                    raise self._refusal(path, status, words, response.headers.get("Location", ""))
                return self._body(response, path, limit, arrived)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise error_of_exception(self.address, path, error, self.credentials) from error

    def _body(
        self,
        response: requests.Response,
        path: str,
        limit: int,
        arrived: Arrival | None,
        *,
        cut: bool = False,
    ) -> bytes:
        """The whole body, or with ``cut`` its first ``limit`` bytes."""
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise self._unusable(path, "the answer is compressed, which was not asked for")
        length = response.headers.get("Content-Length", "")
        if length.isdigit() and int(length) > limit and not cut:
            raise self._unusable(path, f"the answer has {length} bytes; the limit is {limit}")
        pieces, taken = [], 0
        while piece := response.raw.read(_PIECE, decode_content=False):
            taken += len(piece)
            if taken > limit:
                if cut:
                    break
                raise self._unusable(path, f"the answer has more than {limit} bytes")
            pieces.append(piece)
            if arrived is not None:
                arrived(len(piece))
        if length.isdigit() and taken < min(int(length), limit):
            raise AnswerLostError(
                f"{self.address.url}{path}: the answer ends after {taken} of {length} bytes",
                endpoint=path,
            )
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _unusable(self, path: str, why: str) -> BackendAnswerError:
        return BackendAnswerError(f"{self.address.url}{path}: {why}", endpoint=path)

    def _refusal(self, path: str, status: int, body: str, location: str = "") -> BackendError:
        return error_of_status(
            self.address, path, status, body, location=location, credentials=self.credentials
        )


def _recordable(value: Any) -> Any:
    """JSON values without lone surrogates, which no log can hold."""
    if isinstance(value, dict):
        return {_recordable(key): _recordable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_recordable(part) for part in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _session(settings: ServerTable, credentials: Credentials) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.verify = (settings.ca_bundle or True) if settings.tls_verify else False
    if not session.verify:
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # the user knows
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.clear()
    session.headers.update(
        {
            "User-Agent": f"stagewright/{VERSION}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }
    )
    if credentials.header is not None:
        session.headers["Authorization"] = credentials.header
    adapter = FollowedAdapter(pool_connections=1, pool_maxsize=4, max_retries=0)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class _Pieces:
    """A body sent piece by piece, so that the limit on sending is one for each piece."""

    def __init__(self, body: bytes, gone: Arrival) -> None:
        self._body = memoryview(body)
        self._gone = gone

    def __len__(self) -> int:
        return len(self._body)

    def __iter__(self) -> Iterator[memoryview]:
        for start in range(0, len(self._body), _SENT_AT_ONCE):
            piece = self._body[start : start + _SENT_AT_ONCE]
            yield piece
            self._gone(len(piece))
