"""The HTTP server: threads, sockets and the limits of requests."""

from __future__ import annotations

import io
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any
from urllib.parse import urlsplit

import msgspec

from .admission import Admission, check_content_type
from .api_errors import ApiError
from .application import Application
from .product import DEFAULT_PRODUCT, PRODUCTS

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
    is disconnected. ``product`` is what it behaves as: ``a1111``, ``forge`` or ``neo``. Raises
    OSError where the address cannot be had.
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
        product: str = DEFAULT_PRODUCT,
    ) -> None:
        self._application = Application(
            models, auth=auth, ui=ui, step_delay_s=step_delay_s, product=PRODUCTS[product]
        )
        admission = Admission(host, allowed_hosts)
        self._server = _HttpServer((host, port), self._application, admission, request_timeout_s)
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

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, drop every connection, and wait for the threads to end."""
        self._server.is_closing.set()
        if self._thread.ident is not None:
            self._server.shutdown()
            self._thread.join()
        self._application.close()
        self._server.drop_connections(math.inf)
        self._server.server_close()


class _HttpServer(ThreadingTCPServer):
    daemon_threads = False
    request_queue_size = 128
    # On other systems it would let two servers share a port.
    allow_reuse_address = os.name == "posix"

    def __init__(
        self,
        address: tuple[str, int],
        application: Application,
        admission: Admission,
        request_timeout_s: float,
    ) -> None:
        self.application = application
        self.admission = admission
        self.request_timeout_s = request_timeout_s
        self.is_closing = threading.Event()
        self._deadlines: dict[socket.socket, float] = {}
        self._free = threading.Semaphore(MAX_CONNECTIONS)
        self._held = 0
        self._lock = threading.Lock()
        self.address_family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on its own thread, once one is free."""
        while not self._free.acquire(timeout=_POLL_S):
            self.service_actions()
            if self.is_closing.is_set():
                self.shutdown_request(request)
                return
        self.set_deadline(request, _IDLE_S)
        super().process_request(request, client_address)

    def set_deadline(self, connection: socket.socket, seconds: float) -> None:
        """Disconnect the client ``seconds`` from now, in place of an earlier deadline."""
        with self._lock:
            self._deadlines[connection] = time.monotonic() + seconds

    def service_actions(self) -> None:
        """Disconnect the clients that are too slow; called every ``_POLL_S`` seconds."""
        self.drop_connections(time.monotonic())

    def drop_connections(self, deadline: float) -> None:
        """Disconnect the clients with this or an earlier deadline, which ends their threads."""
        with self._lock:
            for connection, end in self._deadlines.items():
                if end <= deadline:
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)

    def reserve(self, length: int) -> None:
        """Reserve memory for a part of a body, or return it if ``length`` is negative.

        Raises ApiError, 503, above the limit.
        """
        with self._lock:
            if self._held + length > MAX_BODIES:
                raise ApiError(503, detail="too many large bodies at once; try again later")
            self._held += length

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._deadlines.pop(request, None)
        super().shutdown_request(request)
        self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect; print other errors."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _HttpServer
    rfile: io.BufferedReader
    protocol_version = default_request_version = "HTTP/1.1"
    error_content_type = "application/json"
    # The library's own explanation: its message repeats the request, which may hold quotes.
    error_message_format = '{"detail": "%(explain)s"}'
    # The answer is sent in one piece.
    wbufsize = -1
    disable_nagle_algorithm = True

    def handle_one_request(self) -> None:
        self.server.set_deadline(self.connection, _IDLE_S)
        self.rfile.peek(1)
        self.server.set_deadline(self.connection, self.server.request_timeout_s)
        super().handle_one_request()

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        self._unread = self._held = 0
        try:
            path = self._path()
            self.server.admission.check(self.headers)
            self._unread = self._body_length()
            status, document = self.server.application.answer(
                self.command, path, self.headers.get("Authorization"), self._body
            )
            for _piece in self._pieces():
                pass
        except ApiError as error:
            # The body was not read, so the connection cannot be reused.
            self.close_connection = True
            status, document = error.status, msgspec.json.encode(error.body)
        finally:
            self.server.reserve(-self._held)
        self._send(status, document)

    def _path(self) -> str:
        """The path of the request line. Raises ApiError if it is not valid."""
        try:
            return urlsplit(self.path).path
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
        """The body; memory is reserved for received pieces only. Raises ApiError."""
        if self._unread:
            check_content_type(self.headers)
        is_large = self._unread > _SMALL_BODY
        pieces = []
        for piece in self._pieces():
            if is_large:
                self.server.reserve(len(piece))
                self._held += len(piece)
            pieces.append(piece)
        self.server.set_deadline(self.connection, math.inf)
        return b"".join(pieces)

    def _pieces(self) -> Iterator[bytes]:
        """The unread part of the body in pieces."""
        while self._unread > 0:
            piece = self.rfile.read(min(self._unread, _PIECE))
            if not piece:
                raise ConnectionResetError("the client disconnected in the middle of its body")
            self._unread -= len(piece)
            yield piece

    def _send(self, status: int, document: bytes) -> None:
        self.server.set_deadline(self.connection, _ANSWER_S)
        self.send_response(status)
        self.send_header("Content-Type", self.error_content_type)
        self.send_header("Content-Length", str(len(document)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(document)

    def version_string(self) -> str:
        return "stagewright"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Requests are not logged."""
