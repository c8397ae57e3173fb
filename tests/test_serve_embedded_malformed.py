"""``serve-embedded`` under requests that are no HTTP: an answer or a closed connection, quietly."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
import requests

from .serving import serving

POST = b"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: localhost\r\n"
GET = b"GET /sdapi/v1/progress HTTP/1.1\r\nHost: localhost\r\n"

ANSWERED: dict[bytes, int] = {
    b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n": 400,
    b"GET //[/sdapi HTTP/1.1\r\nHost: localhost\r\n\r\n": 404,
    b"POST http://\xe2\x84\x80/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}": 404,
    b"GET\r\n\r\n": 400,
    b"GET /a b c HTTP/1.1\r\n\r\n": 400,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n": 400,
    b"GET / HTTP/9.9\r\n\r\n": 505,
    b"GET / HTTP/\xb2.1\r\n\r\n": 400,
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n": 414,
    b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n": 404,
    b"DELETE /sdapi/v1/options HTTP/1.1\r\nHost: localhost\r\n\r\n": 501,
    b"\xff\xfe /sdapi HTTP/1.1\r\nHost: localhost\r\n\r\n": 501,
    GET + b"X: " + b"a" * 70_000 + b"\r\n\r\n": 431,
    GET + b"X: a\r\n" * 200 + b"\r\n": 431,
    GET + b"\x00: \x00\r\n\r\n": 200,
    GET + b"Authorization: Basic \xff\xfe\r\n\r\n": 200,
    b"GET /sdapi/v1/progress?skip_current_image=%FF&%00 HTTP/1.1\r\nHost: localhost\r\n\r\n": 200,
    POST + b"Content-Length: -1\r\n\r\n": 400,
    POST + b"Content-Length: 1e3\r\n\r\n": 400,
    POST + b"Content-Length: \xb2\r\n\r\n": 400,
    POST + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n": 413,
    POST + b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}": 400,
    POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n": 411,
    POST + b"Content-Type: \xff/\x00;=\r\nContent-Length: 2\r\n\r\n{}": 422,
    POST + b"Content-Length: 1\r\n\r\n\xff": 422,
}
"""Requests, and the status of each answer."""

CLOSED = [
    b"",
    b"\x00",
    b"GET /sdapi/v1/progress\r\n",
    b"GET /sdapi/v1/progress HTTP/1.1\r\nHost: loc",
    POST + b"Content-Length: 100\r\n\r\n{}",
]
"""Beginnings of requests, after which the client sends no more."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of a server."""
    with serving() as client:
        yield client.url


def answer(url: str, request: bytes) -> bytes:
    """All that the server sends until it closes the connection, once the client sends no more."""
    at = urlsplit(url)
    pieces = []
    with socket.create_connection((str(at.hostname), at.port or 0), timeout=10) as connection:
        # The server may have answered and left before it has read everything.
        with suppress(ConnectionError):
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while piece := connection.recv(2**16):
                pieces.append(piece)
    return b"".join(pieces)


@pytest.mark.parametrize(("words", "status"), ANSWERED.items(), ids=range(len(ANSWERED)))
def test_a_malformed_request_is_answered(
    url: str, words: bytes, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The status says what is wrong, in the form of a WebUI's errors; no traceback is printed."""
    found = answer(url, words)
    assert found.startswith(f"HTTP/1.1 {status} ".encode()), found[:200]
    assert b"\r\nContent-Type: application/json\r\n" in found
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("words", CLOSED)
def test_half_a_request_is_no_error(
    url: str, words: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server prints nothing, closes the connection and goes on."""
    assert answer(url, words)[:9] in (b"", b"HTTP/1.1 ")
    assert capsys.readouterr() == ("", "")
    assert requests.get(f"{url}/sdapi/v1/progress", timeout=10).status_code == 200
