"""The client over real connections: kept, bounded, encrypted, and errors where they break."""

from __future__ import annotations

import gc
import json
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

import pytest
from stagewright.adapters.backends.http.address import ServerAddress
from stagewright.adapters.backends.http.client import HttpClient
from stagewright.adapters.backends.http.errors import (
    AnswerLostError,
    RequestRefusedError,
)
from stagewright.adapters.backends.http.exchange import Exchange
from stagewright.statemachine.config.schema import ServerTable

pytestmark = pytest.mark.lowest

_TLS = b"\x16"
"""What a client sends first that speaks TLS; here it is a request of its own."""


class Wire:
    """One connection, as the server has it, after a request has come in whole."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.head, self.body = b"", b""

    def take(self) -> bool:
        """Read the next request; whether there was one."""
        data = b""
        while b"\r\n\r\n" not in data and not data.startswith(_TLS):
            piece = self.connection.recv(65_536)
            if not piece:
                return False
            data += piece
        self.head, _, self.body = data.partition(b"\r\n\r\n")
        while len(self.body) < int(self.header("Content-Length") or 0):
            self.body += self.connection.recv(65_536)
        return True

    def header(self, name: str) -> str:
        """A header of the request, empty where there is none."""
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return ""

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def answer(self, body: bytes = b"{}", status: str = "200 OK", *headers: str) -> None:
        """A whole answer."""
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
        self.send("\r\n".join([*lines, "", ""]).encode() + body)


Script = Callable[[Wire], object]


class WireServer:
    """A listening socket; ``script`` answers each request, and may send what it likes.

    A script that returns ``False`` closes the connection.
    """

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self._script, self._tls = script, tls
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.connections = 0
        self.closed = threading.Semaphore(0)
        self.ending = threading.Event()
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection = self._socket.accept()[0]
                if self.ending.is_set():
                    connection.close()
                    return
                self.connections += 1
                self._open.append(connection)
                thread = threading.Thread(target=self._serve, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                self._open.append(connection)
            wire = Wire(connection)
            while wire.take() and self._script(wire) is not False:
                pass
        except (OSError, ValueError):
            pass
        finally:
            connection.close()
            self.closed.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port)).close()
        self._socket.close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


@contextmanager
def talking(
    script: Script, path: str = "", tls: ssl.SSLContext | None = None, **settings: Any
) -> Iterator[tuple[HttpClient, WireServer]]:
    """A client of such a server; both are closed afterwards."""
    with WireServer(script, tls) as server:
        client = HttpClient(ServerAddress.parse(server.url + path), ServerTable(**settings))
        try:
            yield client, server
        finally:
            client.close()


def nothing(_count: int) -> None:
    """Nobody wants to know."""


class Counting:
    """Waits for as long as it takes, and hands on how many bytes went or came."""

    def __init__(self, arrived: Callable[[int], None]) -> None:
        self.note_bytes = arrived

    def tick(self) -> None:
        """Go on waiting."""


def exchanged(
    client: HttpClient,
    path: str,
    body: bytes,
    limit: int,
    arrived: Callable[[int], None] = nothing,
) -> bytes:
    """The answer to a generating request, of ``limit`` bytes at most."""
    exchange = Exchange(client, path, Counting(arrived), limit=limit, is_work=True)
    exchange.send("POST", body)
    return client.not_empty(exchange.answer(), path)


def raw(data: bytes) -> Script:
    """Sends these bytes and closes the connection."""

    def script(wire: Wire) -> bool:
        wire.send(data)
        return False

    return script


def reset(wire: Wire) -> bool:
    """Resets the connection."""
    wire.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    return False


def test_many_requests_go_over_one_connection() -> None:
    """Gets and posts, refusals and empty answers among them."""
    answers = iter([("200 OK", b"[1]"), ("404 Not Found", b"{}"), ("200 OK", b"")] * 10)

    def script(wire: Wire) -> None:
        status, body = next(answers)
        wire.answer(body, status)

    with talking(script) as (client, server):
        for _ in range(10):
            assert client.get("/a") == [1]
            with pytest.raises(RequestRefusedError):
                client.get("/b")
            assert client.post("/c", {}) is None
        assert server.connections == 1


def test_what_is_sent_is_ours_and_no_more() -> None:
    """The path behind the address's own; no credentials, cookies or compression."""
    heads = []

    def script(wire: Wire) -> None:
        heads.append((wire.head.decode(), wire.body))
        wire.answer(b"{}", "200 OK", "Set-Cookie: a=b", "WWW-Authenticate: Basic")

    with talking(script, "/base/") as (client, _server):
        client.get("/x?y=1")
        client.post("/z", {"a": "ü"})
    assert heads[0][0].startswith("GET /base/x?y=1 HTTP/1.1\r\n")
    assert heads[1][0].startswith("POST /base/z HTTP/1.1\r\n")
    assert json.loads(heads[1][1]) == {"a": "ü"}
    for head, _body in heads:
        lines = {line.partition(":")[0].lower() for line in head.split("\r\n")[1:]}
        assert lines <= {"host", "accept", "accept-encoding", "user-agent"} | {
            "content-type",
            "content-length",
        }
        assert "Accept-Encoding: identity" in head


def test_a_connection_that_the_server_closed_is_replaced() -> None:
    """It was idle, so that nothing is lost."""

    def script(wire: Wire) -> bool:
        wire.answer(b"1")
        return False

    with talking(script) as (client, server):
        for _ in range(3):
            assert client.get("/") == 1
            assert server.closed.acquire(timeout=5)
        assert server.connections == 3


def cut_on_reuse(how: str, times: int) -> tuple[Script, list[bytes]]:
    """Answers the first request of a connection, and ends the connection at its second.

    So it does ``times``; the first lines of the requests come with it.
    """
    seen: list[tuple[Wire, bytes]] = []
    cuts = iter(range(times))

    def script(wire: Wire) -> bool | None:
        is_first = all(wire is not one for one, _ in seen)
        seen.append((wire, wire.head.split(b"\r\n")[0]))
        lines.append(seen[-1][1])
        if is_first or next(cuts, None) is None:
            wire.answer(b"1")
            return None
        return reset(wire) if how == "reset" else False

    lines: list[bytes] = []
    return script, lines


@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_get_whose_kept_connection_is_cut_is_tried_once_more(how: str) -> None:
    """On a new connection, with nobody the wiser."""
    script, lines = cut_on_reuse(how, 1)
    with talking(script) as (client, server):
        assert client.get("/a") == 1
        assert client.get("/b") == 1
        assert server.connections == 2
    assert [line.split()[1] for line in lines] == [b"/a", b"/b", b"/b"]


@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_post_whose_kept_connection_is_cut_is_lost(how: str) -> None:
    """The server may have begun to work on it; only the runner may send it again."""
    script, lines = cut_on_reuse(how, 1)
    with talking(script) as (client, _server):
        assert client.post("/a", {}) == 1
        with pytest.raises(AnswerLostError):
            client.post("/b", {})
    assert len(lines) == 2


def test_a_get_that_is_cut_on_a_new_connection_is_lost() -> None:
    """Nothing says that it was idle, so it is not repeated; nor is a half answer or a time-out."""
    tried: list[bytes] = []

    def script(wire: Wire) -> bool:
        tried.append(wire.head)
        return False

    with talking(script) as (client, _server), pytest.raises(AnswerLostError):
        client.get("/")
    assert len(tried) == 1


@pytest.mark.parametrize("path", ["/half", "/late"])
def test_what_is_no_cut_is_not_repeated(path: str) -> None:
    """An answer that has begun, or one that takes too long, on a kept connection."""
    tried: list[bytes] = []

    def script(wire: Wire) -> bool | None:
        tried.append(wire.head)
        if len(tried) == 1:
            wire.answer(b"1")
        elif path == "/half":
            wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1")
            return False
        return None

    with talking(script) as (client, _server):
        client.get("/")
        with pytest.raises(AnswerLostError):
            client.get(path, timeout_s=0.3)
    assert len(tried) == 2


def test_a_closed_client_can_be_used_again() -> None:
    """With new connections; to close it twice does no harm."""
    with talking(lambda wire: wire.answer(b"1")) as (client, server):
        for _ in range(3):
            assert client.get("/") == 1
            client.close()
            client.close()
        assert server.connections == 3


def test_threads_share_a_client() -> None:
    """Each gets its own answers, over four kept connections at most."""
    with talking(lambda wire: wire.answer(wire.body)) as (client, server):
        wrong: list[int] = []

        def ask(number: int) -> None:
            wrong.extend(one for one in range(25) if client.post("/", [number, one])[1] != one)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert server.connections <= 4


OK = b"HTTP/1.1 200 OK\r\n"
BROKEN = {
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "no body": OK + b"Content-Length: 10\r\n\r\n",
    "half a body": OK + b"Content-Length: 10\r\n\r\n12345",
    "half a chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n[1",
    "no last chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\n[1]\r\n",
    "no chunk": OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n[1]\r\n",
    "many headers": OK + b"A: b\r\n" * 1000 + b"\r\n",
    "a long line": OK + b"A: " + b"b" * 100_000 + b"\r\n\r\n",
    "half an error": b"HTTP/1.1 500 Oops\r\nContent-Length: 10\r\n\r\n12345",
}


@pytest.mark.parametrize("how", [*BROKEN, "reset"])
def test_an_answer_that_does_not_come_whole_is_lost(how: str) -> None:
    """Wherever it breaks off; and the next request goes through."""
    broken = iter([reset if how == "reset" else raw(BROKEN[how])])

    def script(wire: Wire) -> object:
        return next(broken, lambda wire: wire.answer(b"1"))(wire)

    with talking(script) as (client, server):
        with pytest.raises(AnswerLostError) as caught:
            client.get("/x")
        assert str(caught.value).startswith(f"{server.url}/x: ")
        assert client.get("/") == 1


def test_an_answer_that_ends_in_its_head_is_lost() -> None:
    """It is no empty answer."""
    with talking(raw(OK + b"Content-")) as (client, _server), pytest.raises(AnswerLostError):
        client.get("/")


def test_failures_leave_no_socket_behind() -> None:
    """Python would warn of one that is forgotten."""

    def ask(data: bytes) -> None:
        with talking(raw(data)) as (client, _server), pytest.raises(AnswerLostError):
            client.get("/")

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for data in BROKEN.values():
            ask(data)
        gc.collect()
    assert not warned
