"""One server's HTTP: small requests, exchanges that are watched, and complete errors."""

from __future__ import annotations

import json
import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from ....events.version import VERSION
from ....statemachine.config.schema import ServerTable
from ....statemachine.errors import BackendError, ConfigurationError
from ...text import one_line
from .address import ServerAddress
from .connections import Connections
from .credentials import Credentials
from .error_mapping import error_of_status
from .errors import AnswerLostError, ServerError
from .exchange import Exchange

ANSWER_TIMEOUT_S = 10.0
"""The time limit of small requests; ten times the measured time of a busy server."""

certificate_logger = logging.getLogger("stagewright.webui.certificate")
"""Warns once for each client that does not check its server's certificate."""

E = TypeVar("E", bound=BackendError)


class Deadline:
    """Ends a request after ``seconds``, or once ``abandon`` says that its answer is of no use."""

    def __init__(self, seconds: float, abandon: Callable[[], bool] | None = None) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._abandon = abandon

    def tick(self) -> None:
        """Raises TimeoutError."""
        if time.monotonic() > self._end:
            raise TimeoutError(f"it took longer than {self._seconds:g} s")
        if self._abandon is not None and self._abandon():
            raise TimeoutError("it is not waited for any longer")

    def note_bytes(self, count: int) -> None:
        """Bytes that arrive do not make it later."""


class HttpClient:
    """Requests to one server, over connections that are kept. Safe from any thread.

    ``advice`` is added to the message where the server has no such route. Raises
    does not exist.
    """

    def __init__(
        self,
        address: ServerAddress,
        settings: ServerTable | None = None,
        credentials: Credentials | None = None,
        *,
        advice: str = "",
    ) -> None:
        self.address = address
        self.credentials = credentials or Credentials()
        self.settings = settings or ServerTable()
        self.advice = advice
        if self.settings.ca_bundle is not None and address.is_encrypted:
            _check_bundle(self.settings.ca_bundle)
        if address.is_encrypted and not self.settings.tls_verify:
            certificate_logger.warning(
                "%s: its certificate is not checked (server.tls_verify = false)",
                one_line(address.url),
            )
        self.connections = Connections(address, self.settings)
        self.base_path = urlsplit(address.url).path
        self.headers = {
            "User-Agent": f"stagewright/{VERSION}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }
        if address.zoneless_host:
            self.headers["Host"] = address.zoneless_host
        self.headers |= dict(self.credentials.headers)
        if self.credentials.header is not None:
            self.headers["Authorization"] = self.credentials.header

    def close(self) -> None:
        """Close idle connections; new ones are opened on demand."""
        self.connections.close()

    def get(
        self,
        path: str,
        *,
        timeout_s: float = ANSWER_TIMEOUT_S,
        abandon: Callable[[], bool] | None = None,
    ) -> Any:
        """The decoded JSON at ``path``; asked for again if a kept connection was cut.

        Raises ServerError.
        """
        deadline = Deadline(timeout_s, abandon)
        exchange = Exchange(self, path, deadline)
        try:
            exchange.send("GET")
            return self.json_answer(exchange, path)
        except AnswerLostError:
            if not exchange.was_cut:
                raise
        exchange = Exchange(self, path, deadline, fresh=True)
        exchange.send("GET")
        return self.json_answer(exchange, path)

    def post(
        self,
        path: str,
        body: Any,
        *,
        timeout_s: float = ANSWER_TIMEOUT_S,
        abandon: Callable[[], bool] | None = None,
    ) -> Any:
        """The decoded JSON that answers ``body``; None for an empty answer. Raises ServerError."""
        exchange = Exchange(self, path, Deadline(timeout_s, abandon))
        exchange.send("POST", msgspec.json.encode(body))
        answer = exchange.answer()
        return self.decoded(answer, path) if answer else None

    def json_answer(self, exchange: Exchange, path: str) -> Any:
        """The decoded JSON that comes back for an exchange. Raises ServerError."""
        return self.decoded(self.not_empty(exchange.answer(), path), path)

    def not_empty(self, answer: bytes, path: str, *, settled: bool = True) -> bytes:
        """The answer. Raises AnswerLostError if it is empty."""
        if not answer:
            why = "no complete answer came back: it is empty"
            raise self.failure(AnswerLostError, path, why, settled=settled)
        return answer

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
            start = answer[:8000].decode("utf-8", "replace")
            raise error_of_status(self, path, 200, start) from error

    def failure(
        self, kind: type[E], path: str, why: str, *, settled: bool = True, **known: Any
    ) -> E:
        """The error that says ``why`` a request to ``path`` failed, with all that is known of it.

        It is transient if ``[server] transient`` names its kind. ``settled`` says that the server
        does not work on the request.
        """
        transient = issubclass(kind, ServerError) and kind.retry_kind in self.settings.transient
        message = f"{self.address.url}{path}: {why}"
        known.setdefault("endpoint", path)
        return kind(message, settled=settled, transient=transient, **known)


def _check_bundle(bundle: str) -> None:
    """Raise ConfigurationError unless a file with certificates, or a folder of them, is there."""
    why = "" if Path(bundle).exists() else "no such file"
    if Path(bundle).is_file():
        try:
            ssl.create_default_context(cafile=bundle)
        except OSError as error:  # an SSLError is one
            why = f"it holds no certificate: {error.strerror}"
    if why:
        raise ConfigurationError(f"server.ca_bundle = {bundle}: {why}", key="server.ca_bundle")


def _recordable(value: Any) -> Any:
    """JSON values without lone surrogates, which a log cannot hold."""
    if isinstance(value, dict):
        return {_recordable(key): _recordable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_recordable(part) for part in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
