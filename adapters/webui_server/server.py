"""The HTTP server: threads, sockets and the limits of requests."""

from __future__ import annotations

import io
import os
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from .admission import Admission, check_content_type
from .api_errors import ApiError
from .application import Application, Call
from .body_schema import encode_json

MAX_BODY = 256 * 2**20
"""The largest body in bytes."""

MAX_BODIES = 2 * MAX_BODY
"""Bytes of all bodies held at once: two of the largest; decoded, they take three times as much."""

MAX_CONNECTIONS = 128
"""Connections served at once, one thread each; a real WebUI fails with about 45 requests."""

REQUEST_S = 120.0
"""Seconds in which a request must arrive: the largest body at 2 MiB a second."""

_SMALL_BODY = 2**16
"""Bodies up to this size are always accepted: 128 of them are 8 MiB."""

_IDLE_S = 30.0
"""Seconds that a connection may wait for its next request, as in a WebUI."""

_ANSWER_S = 300.0
"""Seconds in which a client must read its answer."""

_POLL_S = 0.05
_PIECE = 2**16


class EmbeddedServer:
    """The embedded backend as a WebUI on an address of its own.

    It listens from the first; used as a context manager it answers, on threads of its own,
    until the end of the block, and then gives up whatever is under way. ``port`` 0 takes
    any free port. ``models`` are offered beside those of the examples, ``auth`` is the user
    and password that clients must send, ``ui`` whether there are ``/internal`` routes, and
    ``step_delay_s`` seconds are waited in each sampling step. ``allowed_hosts`` are names by
    which clients may call the server, besides those that it knows of, and whose web pages may
    send requests. A client that takes more than ``request_timeout_s`` seconds to send a request
    is disconnected. Raises OSError where the address cannot be had.
    """

    def __init__(
        self,
        models: Iterable[str] = (),
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        auth: tuple[str, str] | None = None,
        ui: bool = True,
        step_delay_s: float = 0.0,
        allowed_hosts: Iterable[str] = (),
        request_timeout_s: float = REQUEST_S,
    ) -> None:
        self._application = Application(models, auth=auth, ui=ui, step_delay_s=step_delay_s)
        self._server = _listening(host, port, self._application)
        self._server.admission = Admission(host, allowed_hosts)
        self._server.request_timeout_s = request_timeout_s
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="serve-embedded"
        )

    @property
    def url(self) -> str:
        """The base address, without a slash at the end."""
        host, port = self._server.server_address[:2]
        name = str(host)
        return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"

    def __enter__(self) -> EmbeddedServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, drop every connection, and wait for the threads to end."""
        self._server.is_closing.set()
        if self._thread.ident is not None:
            self._server.shutdown()
            self._thread.join()
        self._application.close()
        self._server.drop_connections()
        self._server.server_close()


def _listening(host: str, port: int, application: Application) -> _HttpServer:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    kind = _HttpServer if family == socket.AF_INET else _HttpServer6
    return kind((host, port), application)


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128
    # On other systems it would let two servers share a port.
    allow_reuse_address = os.name == "posix"

    admission: Admission
    request_timeout_s: float

    def __init__(self, address: tuple[str, int], application: Application) -> None:
        self.application = application
        self.is_closing = threading.Event()
        self._connections: set[socket.socket] = set()
        self._free = threading.Semaphore(MAX_CONNECTIONS)
        self._held = 0
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer would resolve its own name, which may take seconds.
        TCPServer.server_bind(self)
        host, port = self.server_address[:2]
        self.server_name, self.server_port = str(host), int(port)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on its own thread, once one is free."""
        while not self._free.acquire(timeout=_POLL_S):
            if self.is_closing.is_set():
                self.shutdown_request(request)
                return
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def hold(self, length: int) -> None:
        """Reserve memory for a part of a body. Raises ApiError, 503, above the limit."""
        with self._lock:
            if self._held + length > MAX_BODIES:
                raise ApiError(503, detail="too many large bodies at once; try again later")
            self._held += length

    def release(self, length: int) -> None:
        """Release the memory of a body."""
        with self._lock:
            self._held -= length

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)
        self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect; print other errors."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def drop_connections(self) -> None:
        """Wake the threads that wait for their client's next request."""
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _HttpServer6(_HttpServer):
    address_family = socket.AF_INET6


class _TimedInput(io.RawIOBase):
    """The input of a connection; raises TimeoutError after a deadline."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._end = 0.0

    def give(self, seconds: float) -> None:
        """Set the deadline to ``seconds`` from now."""
        self._end = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the client is too slow")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    server: _HttpServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._input = _TimedInput(self.connection)
        self.rfile = self._reader = io.BufferedReader(self._input)

    def handle_one_request(self) -> None:
        self._input.give(_IDLE_S)
        self._reader.peek(1)
        self._input.give(self.server.request_timeout_s)
        super().handle_one_request()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        self._unread = self._held = 0
        try:
            address = self._target()
            self.server.admission.check(self.headers)
            self._unread = self._body_length()
            status, document = self.server.application.answer(
                self.command,
                address.path,
                self.headers.get("Authorization"),
                lambda: Call(self._body(), dict(parse_qsl(address.query))),
            )
            self._discard_body()
        except ApiError as error:
            # The body was not read, so the connection cannot be reused.
            self.close_connection = True
            status, document = error.status, encode_json(error.body)
        finally:
            self.server.release(self._held)
        self._send(status, document)

    def _target(self) -> SplitResult:
        """The target of the request line. Raises ApiError if it is not valid."""
        try:
            return urlsplit(self.path)
        except ValueError as error:
            raise ApiError(400, detail=f"Bad request target: {error}") from error

    def _body_length(self) -> int:
        """The length of the body. Raises ApiError if it is missing or too large."""
        lengths = set(self.headers.get_all("Content-Length", []))
        if self.headers.get("Transfer-Encoding"):
            raise ApiError(411, detail="Length Required")
        if not lengths:
            return 0
        stated = lengths.pop()
        if lengths or not (stated.isascii() and stated.isdigit()):
            raise ApiError(400, detail="Bad Content-Length")
        if len(stated) > len(str(MAX_BODY)) or int(stated) > MAX_BODY:
            raise ApiError(413, detail=f"a body may have {MAX_BODY} bytes")
        return int(stated)

    def _body(self) -> bytes:
        if self._unread:
            check_content_type(self.headers)
        return b"".join(self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        """The body in pieces; memory is reserved for received pieces only."""
        is_large = self._unread > _SMALL_BODY
        while self._unread > 0:
            piece = self.rfile.read(min(self._unread, _PIECE))
            if not piece:
                raise ConnectionResetError("the client disconnected in the middle of its body")
            self._unread -= len(piece)
            if is_large:
                self.server.hold(len(piece))
                self._held += len(piece)
            yield piece

    def _discard_body(self) -> None:
        while self._unread > 0:
            piece = self.rfile.read(min(self._unread, _PIECE))
            if not piece:
                raise ConnectionResetError("the client disconnected in the middle of its body")
            self._unread -= len(piece)

    def _send(self, status: int, document: bytes) -> None:
        """Send the answer in one piece."""
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            f"Date: {self.date_time_string()}",
            "Server: stagewright",
            "Content-Type: application/json",
            f"Content-Length: {len(document)}",
        ]
        if self.close_connection:
            lines.append("Connection: close")
        head = "\r\n".join([*lines, "", ""]).encode("ascii")
        self.connection.settimeout(_ANSWER_S)
        self.wfile.write(head + document)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer errors that the library detects: invalid HTTP, or an unknown method."""
        del explain
        self.close_connection = True
        words = message or HTTPStatus(code).phrase
        self._send(code, encode_json({"detail": words}))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Requests are not logged."""
