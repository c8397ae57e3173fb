"""Malformed requests to ``serve-embedded``, and limits of the connections and bodies of clients."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from .command_line import until
from .serving import SMALL, Client, InBackground, serving


def test_a_long_name_of_a_model_is_answered_and_blocks_no_other_request(served: Client) -> None:
    """A refiner's name of a megabyte of opening brackets is looked up in linear time."""
    asking = InBackground(served, "txt2img", SMALL | {"refiner_checkpoint": " [" * 500_000}, 500)
    assert served.get("progress")["state"]["sampling_step"] == 0
    assert "Could not find checkpoint" in asking.answer()["errors"]


def address(client: Client) -> tuple[str, int]:
    """Where to connect to."""
    at = urlsplit(client.url)
    return str(at.hostname), at.port or 0


def test_a_connection_is_kept_for_further_requests(served: Client) -> None:
    """HTTP/1.1: also after an answer without a look at the body."""
    with closing(HTTPConnection(*address(served), timeout=10)) as connection:
        connection.connect()
        first = connection.sock
        for path in ("/sdapi/v1/skip", "/no-such", "/sdapi/v1/progress"):
            connection.request("POST", path, b" " * 100_000)
            assert connection.getresponse().read()
            assert connection.sock is first


def test_at_most_128_connections_are_served_at_once() -> None:
    """The others wait until one is free, and none of them holds up the end of the server."""
    before = threading.active_count()
    with ExitStack() as stack, serving() as client:

        def connect() -> socket.socket:
            connection = stack.enter_context(socket.create_connection(address(client), timeout=10))
            connection.sendall(b"GET /sdapi")
            return connection

        opened = [connect() for _ in range(140)]
        until(lambda: threading.active_count() - before >= 128 + 1, "the threads")
        asking = InBackground(client, "skip", {})
        # The server's own thread and that of the request are two more.
        assert threading.active_count() - before == 128 + 2
        assert asking.waits
        for connection in opened[:20]:
            connection.close()
        assert asking.answer() is None


def test_a_task_id_has_at_most_a_thousand_characters(served: Client) -> None:
    """A longer one is refused, and the field is named."""
    found = served.post("txt2img", SMALL | {"force_task_id": "x" * 1001}, status=422)
    assert found["detail"][0]["loc"] == ["body", "force_task_id"]
    served.post("txt2img", SMALL | {"force_task_id": "x" * 1000})


# --- Malformed requests

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


def answer_to_bytes(client: Client, request: bytes) -> bytes:
    """All that the server sends until it closes the connection, once the client sends no more."""
    pieces = []
    with socket.create_connection(address(client), timeout=10) as connection:
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
    served: Client, words: bytes, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The status says what is wrong, in the form of a WebUI's errors; no traceback is printed."""
    found = answer_to_bytes(served, words)
    assert found.startswith(f"HTTP/1.1 {status} ".encode()), found[:200]
    assert b"\r\nContent-Type: application/json\r\n" in found
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("words", CLOSED)
def test_half_a_request_is_no_error(
    served: Client, words: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server prints nothing, closes the connection and goes on."""
    assert answer_to_bytes(served, words)[:9] in (b"", b"HTTP/1.1 ")
    assert capsys.readouterr() == ("", "")
    assert served.get("progress")["progress"] == 0
