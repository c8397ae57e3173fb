"""Maps HTTP statuses and exceptions of libraries to errors of ``webui.errors``."""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

import requests
import urllib3

from ....statemachine.errors import BackendAnswerError, BackendError
from .errors import (
    AnswerLostError,
    AuthenticationError,
    NansError,
    OtherPageError,
    RequestNotUnderstoodError,
    RequestRefusedError,
    RouteMissingError,
    ServerError,
    ServerFailureError,
    ServerNotTrustedError,
    ServerOutOfMemoryError,
    ServerUnavailableError,
    ServerUnreachableError,
)
from .other_pages import page_cause, redirect_cause

if TYPE_CHECKING:
    from .client import HttpClient

_MOST_WORDS = 600
_MOST_LOOKED_AT = 4000
_DEEPEST = 4
_DEEPEST_CAUSE = 8
_BUSY_STATUSES = frozenset([408, 425, 429, 502, 503, 504, *range(520, 531)])
"""Statuses of overloaded servers, and of proxies that timed out waiting for them."""
_WHYS: Mapping[type[ServerError], str] = {
    ServerUnreachableError: "the server cannot be reached",
    ServerNotTrustedError: "the connection is not trusted",
    AnswerLostError: "no complete answer came back",
}
_TRUST = (
    "; server.ca_bundle names the file of the authority to trust, and server.tls_verify = false "
    "switches the check off"
)
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL")
_NEVER = frozenset([501, 505])
"""Statuses of requests that the server never supports."""
_REQUEST_DECIDES = frozenset(
    [
        *("TypeError", "KeyError", "ValueError", "AttributeError", "IndexError"),
        *("AssertionError", "NotImplementedError", "FileNotFoundError"),
    ]
)
"""Exceptions of a server that the same request would raise again."""
_REQUEST_WORDS = (
    "Could not find checkpoint",
    "could not find upscaler",
    "Invalid image format",
)
"""Messages of a failure that the same request would cause again."""
_ADVICE: Mapping[str, str] = {
    "NansException": "use another VAE, or start the server with --no-half or --no-half-vae",
    "Invalid image format": "set samples_format to png in the server's settings",
}
"""What to do, by words in the server's answer."""
_TAGS = re.compile(r"<(script|style)\b.*?</\1>|<[^<>]*>", re.DOTALL | re.IGNORECASE)

TRANSPORT_EXCEPTIONS: tuple[type[Exception], ...] = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    HTTPException,
    OSError,
)
"""What the libraries and the system raise where a request fails; TimeoutError is an OSError."""
CONNECTION_EXCEPTIONS: tuple[type[Exception], ...] = (*TRANSPORT_EXCEPTIONS, ValueError)
"""The same while it connects, where a host name may be none."""
_UNTRUSTED = (requests.exceptions.SSLError, urllib3.exceptions.SSLError, ssl.SSLError)


def error_of_exception(
    client: HttpClient,
    path: str,
    error: BaseException,
    *,
    connected: bool,
    settled: bool = True,
) -> ServerError:
    """The error that stands for what requests, urllib3 or the system raised.

    Once a connection was there, the request may have reached the server. ``settled`` says that
    the server does not work on it even then.
    """
    words = _innermost(error)
    kind: type[ServerError] = AnswerLostError
    if not connected:
        is_untrusted = isinstance(error, _UNTRUSTED)
        kind = ServerNotTrustedError if is_untrusted else ServerUnreachableError
    why = _WHYS[kind]
    if kind is ServerNotTrustedError and any(sign in words for sign in _NO_TLS):
        why = "the server does not use https there; try http"
    elif kind is ServerNotTrustedError and "certificate" in words.casefold():
        words += _TRUST
    shown = client.credentials.scrub(words)
    return client.failure(kind, path, f"{why}: {shown}", settled=settled or not connected)


def _innermost(error: BaseException) -> str:
    """The words of the exception that the others stand for."""
    last = error
    for _ in range(_DEEPEST_CAUSE):
        inner = getattr(last, "reason", None) or (last.args[0] if last.args else None)
        if not isinstance(inner, BaseException):
            break
        last = inner
    # urllib3 puts the object before the message: "<...object at 0x...>: Failed to ...".
    words = re.sub(r"^<?[\w.]*(\(host=[^)]*\)| object at 0x\w+>): ", "", str(last))
    return f"{type(last).__name__}: {words}" if words else type(last).__name__


def error_of_status(
    client: HttpClient,
    path: str,
    status: int,
    body: str,
    *,
    location: str = "",
    retry_after: str = "",
    is_work: bool = False,
) -> BackendError:
    """The error for a status, or for an answer of status 200 that is not JSON.

    ``location`` and ``retry_after`` are the headers of that name. ``is_work`` says that the server
    may work on the request though a proxy has answered in its place.
    """
    credentials = client.credentials
    document = _decoded(body)
    cause = page_cause(client.address.url, status, body) if document is None else ""
    kind = _kind(status, document, body)
    if cause and kind in (RequestRefusedError, RouteMissingError):
        kind = OtherPageError
    is_bare = message_in(body if document is None else document) in ("", "Not Found")
    shown = credentials.scrub_values(document)
    body = credentials.scrub(body) if document is None else json.dumps(shown, ensure_ascii=False)
    words = message_in(body if document is None else shown)
    if 300 <= status < 400:
        place = credentials.scrub(location)[:_MOST_WORDS]
        why = redirect_cause(client.address.url, place)
    elif cause:
        why = f"{cause} ({words})" if words else cause
    elif kind is AuthenticationError:
        advice = credentials.withheld or "the server rejected the user and password"
        why = f"{words} ({advice})"
    else:
        is_missing = kind is RouteMissingError and is_bare
        why = f"no such route{client.advice}" if is_missing else words
    what = "the answer is not JSON" if status == 200 else str(status)
    why = f"{what}: {why}" if why else what
    if status >= 500:
        why += "".join(f"; {advice}" for words, advice in _ADVICE.items() if words in body)
    seconds = _seconds_of(retry_after)
    if seconds:
        why += f"; the server asks to wait {seconds:.0f} s"
    settled = not (is_work and issubclass(kind, ServerError) and kind.unanswered)
    error = client.failure(kind, path, why, detail=body, retry_after_s=seconds, settled=settled)
    if isinstance(error, ServerError):
        error.status = status
    return error


def _seconds_of(retry_after: str) -> float | None:
    """The seconds of a Retry-After header, which holds them or a date; None for anything else."""
    if re.fullmatch(r"[0-9]{1,9}", retry_after.strip()):
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, IndexError, OSError):
        return None


def _kind(status: int, document: Any, body: str) -> type[BackendError]:
    if status == 200:
        return BackendAnswerError
    if status in _BUSY_STATUSES:
        return ServerUnavailableError
    if status >= 500 and status not in _NEVER:
        name = str(document.get("error", "")) if isinstance(document, Mapping) else ""
        if "OutOfMemoryError" in body or "out of memory" in body:
            return ServerOutOfMemoryError
        if name == "NansException" or "NansException" in body:
            return NansError
        decided = name in _REQUEST_DECIDES or any(words in body for words in _REQUEST_WORDS)
        return RequestNotUnderstoodError if decided else ServerFailureError
    refusals = {401: AuthenticationError, 403: AuthenticationError, 404: RouteMissingError}
    return refusals.get(status, RequestRefusedError)


def _decoded(body: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def message_in(document: Any) -> str:
    """The error message in a server's answer of any form, as one line of bounded length."""
    text = " ".join(part for part in _parts(document) if part)[:_MOST_LOOKED_AT]
    text = " ".join(_TAGS.sub(" ", text).split())
    return text if len(text) <= _MOST_WORDS else f"{text[:_MOST_WORDS]} ..."


def _parts(document: Any, depth: int = 0) -> list[str]:
    if depth > _DEEPEST:
        return ["..."]
    if isinstance(document, Mapping):
        if "msg" in document:
            loc = document.get("loc")
            where = ".".join(map(str, loc[:9])) if isinstance(loc, list) else ""
            words = str(document["msg"])[:_MOST_LOOKED_AT]
            return [f"{where}: {words};" if where else f"{words};"]
        named = [
            document.get("error"),
            document.get("detail"),
            document.get("errors"),
            document.get("message"),
        ]
        return [part for one in named if one for part in _parts(one, depth + 1)]
    if isinstance(document, list):
        return [part for one in document[:20] for part in _parts(one, depth + 1)]
    return [str(document)[:_MOST_LOOKED_AT]]
