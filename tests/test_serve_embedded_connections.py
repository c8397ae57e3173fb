"""Malformed requests to ``serve-embedded``, and limits of the time and memory for a client."""

from __future__ import annotations

import base64
import io
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from PIL import Image

from .command_line import Start, until
from .serving import SMALL, Client, InBackground, serving, url_of


@pytest.fixture
def client(start: Start, tmp_path: Path) -> Iterator[Client]:
    """A client of a server in a process of its own, which is killed at the end of the test."""
    found = Client(url_of(start("serve-embedded", "--port", "0", folder=tmp_path)))
    yield found
    found.close()


def test_a_long_name_of_a_model_is_answered_and_blocks_no_other_request(client: Client) -> None:
    """A refiner's name of a megabyte of opening brackets is looked up in linear time."""
    asking = InBackground(client, "txt2img", SMALL | {"refiner_checkpoint": " [" * 500_000}, 500)
    assert client.get("progress")["state"]["sampling_step"] == 0
    assert "Could not find checkpoint" in asking.answer()["errors"]


# --- Connections


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


def test_at_most_128_connections_are_served_at_once_and_slow_ones_make_room() -> None:
    """A request behind 200 clients that send half a request is answered all the same."""
    before = threading.active_count()
    with serving(request_timeout_s=1.0) as client, ExitStack() as stack:
        for _ in range(200):
            connection = stack.enter_context(socket.create_connection(address(client), timeout=10))
            connection.sendall(b"GET /sdapi")
        assert client.get("progress")["progress"] == 0
        # The server's own thread is one more.
        assert threading.active_count() - before <= 128 + 1


def test_a_client_that_sends_its_body_too_slowly_is_disconnected() -> None:
    """The limit is one on the whole request: a byte now and then does not extend it."""
    body = b"POST /sdapi/v1/skip HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n"
    with (
        serving(request_timeout_s=0.5) as client,
        socket.create_connection(address(client), timeout=0.05) as connection,
    ):
        connection.sendall(body)

        def is_closed() -> bool:
            try:
                connection.sendall(b" ")
                return not connection.recv(1)
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        until(is_closed, "the end of the connection")


def test_a_server_whose_connections_are_all_taken_closes_at_once() -> None:
    """No connection that waits to be served delays the end."""
    with ExitStack() as stack, serving() as client:
        for _ in range(130):
            connection = stack.enter_context(socket.create_connection(address(client), timeout=10))
            connection.sendall(b"GET /sdapi")
        until(lambda: threading.active_count() >= 128, "the threads")


# --- Memory


def test_large_bodies_beyond_half_a_gigabyte_are_refused_for_the_time_being(
    client: Client,
) -> None:
    """What was sent counts, not what was announced; small bodies are always taken."""
    announced = 268_435_456
    head = (
        b"POST /sdapi/v1/skip HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % announced
    )
    large = b" " * 200_000 + b"{}"

    def status() -> int:
        return requests.post(f"{client.url}/sdapi/v1/options", data=large, timeout=10).status_code

    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(address(client), timeout=30))
            for _ in range(2)
        ]
        for connection in clients:
            connection.sendall(head)
        assert status() == 200
        for connection in clients:
            connection.sendall(b" " * (announced - 1))
        until(lambda: status() == 503, "the refusal of a large body")
        assert client.post("options", {}) is None
    until(lambda: status() == 200, "the end of the large bodies")


def test_a_body_of_too_many_values_is_refused(client: Client) -> None:
    """Each value takes up to 20 times as much memory as its text."""
    body = b'{"script_args": [' + b"[]," * 1_100_000 + b"[]]}"
    answer = requests.post(f"{client.url}/sdapi/v1/txt2img", data=body, timeout=10)
    assert answer.status_code == 413
    assert "1000000" in answer.json()["detail"]


@pytest.mark.linux
def test_pictures_are_decoded_one_at_a_time(start: Start, tmp_path: Path) -> None:
    """Four requests with a picture of 64 million pixels take the memory of one of them."""
    server = start("serve-embedded", "--port", "0", folder=tmp_path)
    client, file = Client(url_of(server)), io.BytesIO()
    Image.new("L", (8192, 8192)).save(file, "PNG")
    body = {"image": base64.b64encode(file.getvalue()).decode()}
    for reading in [InBackground(client, "png-info", body) for _ in range(4)]:
        assert reading.answer()["info"] == ""
    status = Path(f"/proc/{server.pid}/status").read_text(encoding="ascii")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak is not None
    assert int(peak[1]) < 700_000


def test_a_task_id_has_at_most_a_thousand_characters(client: Client) -> None:
    """A longer one is refused, and the field is named."""
    found = client.post("txt2img", SMALL | {"force_task_id": "x" * 1001}, status=422)
    assert found["detail"][0]["loc"] == ["body", "force_task_id"]
    client.post("txt2img", SMALL | {"force_task_id": "x" * 1000})


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
