"""A proxy before a WebUI that keeps every request and answer, and changes none of them."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from .webui_names import Received

NOT_PASSED_ON = frozenset(["connection", "transfer-encoding", "content-length", "host"])


@dataclass(frozen=True)
class Exchanged:
    """One request and what it was answered with; ``answer`` is decoded JSON, None if empty."""

    request: Received
    status: int
    answer: Any


class Recorder:
    """The proxy; a context manager.

    ``exchanges`` are in the order of their answers, ``requests`` in the order in which they
    came. ``longest`` is the most generating requests that were ever under way at once.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.requests: list[Received] = []
        self.exchanges: list[Exchanged] = []
        self.longest = 0
        self._under_way = 0
        self._lock = threading.Lock()
        self._server = _Listener(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._server.shutdown()
        self._thread.join()
        self._server.drop_connections()
        self._server.server_close()

    def generating(self, stage: str | None = None) -> list[Exchanged]:
        """The generating requests that were answered; of one stage or of all."""
        with self._lock:
            exchanges = list(self.exchanges)
        return [
            one for one in exchanges if one.request.stage and stage in (None, one.request.stage)
        ]

    def asked(self, path: str) -> list[Received]:
        """The requests to one path, in the order in which they came."""
        with self._lock:
            return [one for one in self.requests if one.path == path]

    def came(self, request: Received) -> None:
        """A request is to be passed on."""
        with self._lock:
            self.requests.append(request)
            self._under_way += request.stage is not None
            self.longest = max(self.longest, self._under_way)

    def went(self, request: Received, status: int, data: bytes) -> None:
        """Its answer is there."""
        answer = json.loads(data) if data else None
        with self._lock:
            self.exchanges.append(Exchanged(request, status, answer))
            self._under_way -= request.stage is not None


class _Listener(ThreadingHTTPServer):
    """The listening socket; each connection has a thread, which ends with the proxy."""

    daemon_threads = False
    request_queue_size = 64

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Keep the connection, to be able to end it."""
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client or a server that leaves is what it sees; the test says what was expected."""

    def drop_connections(self) -> None:
        """Wake the threads that wait for their client's next request."""
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """Passes the requests of one connection on, over a connection of its own."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def setup(self) -> None:
        """Connect to the server behind."""
        super().setup()
        address = urlsplit(self.server.recorder.upstream)
        self._behind = HTTPConnection(str(address.hostname), address.port, timeout=60)

    def finish(self) -> None:
        """Leave the server behind."""
        self._behind.close()
        super().finish()

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Pass a GET on."""
        self._pass_on(None)

    def do_POST(self) -> None:
        """Pass a POST on."""
        self._pass_on(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _pass_on(self, data: bytes | None) -> None:
        recorder = self.server.recorder
        path, _, query = self.path.partition("?")
        body = json.loads(data) if data else None
        received = Received(self.command, path, query, dict(self.headers), body)
        recorder.came(received)
        headers = {
            name: value for name, value in self.headers.items() if name.lower() not in NOT_PASSED_ON
        }
        self._behind.request(self.command, self.path, body=data, headers=headers)
        answer = self._behind.getresponse()
        content = answer.read()
        recorder.went(received, answer.status, content)
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in (*NOT_PASSED_ON, "server", "date"):
                self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
