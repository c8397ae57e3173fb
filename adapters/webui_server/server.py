"""The HTTP server: threads, sockets and the limits of requests."""

from __future__ import annotations

import io
import os
import socket
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
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

MAX_CONNECTIONS = 128
"""Connections served at once, one thread each; a real WebUI fails with about 45 requests."""

SILENCE_S = 60.0
"""A client that sends nothing, or does not take its answer, for so long is disconnected."""

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
    send requests. ``product`` is what it behaves as: ``a1111``, ``forge`` or ``neo``. Raises
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
        product: str = DEFAULT_PRODUCT,
    ) -> None:
        self._application = Application(
            models, auth=auth, ui=ui, step_delay_s=step_delay_s, product=PRODUCTS[product]
        )
        admission = Admission(host, allowed_hosts)
        self._server = _HttpServer((host, port), self._application, admission)
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
        if self._thread.ident is not None:
            self._server.shutdown()
            self._thread.join()
        self._application.close()
        self._server.server_close()


class _HttpServer(ThreadingTCPServer):
    request_queue_size = 128
    # On other systems it would let two servers share a port.
    allow_reuse_address = os.name == "posix"

    def __init__(
        self, address: tuple[str, int], application: Application, admission: Admission
    ) -> None:
        self.application = application
        self.admission = admission
        self._workers = ThreadPoolExecutor(MAX_CONNECTIONS)
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self.address_family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on one of the threads, once one is free."""
        with self._lock:
            self._connections.add(request)
        self._workers.submit(self.process_request_thread, request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Stop listening, and disconnect every client, which ends the threads."""
        super().server_close()
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._workers.shutdown()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect; print other errors."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _HttpServer
    rfile: io.BufferedReader
    timeout = SILENCE_S
    protocol_version = default_request_version = "HTTP/1.1"
    error_content_type = "application/json"
    # The library's own explanation: its message repeats the request, which may hold quotes.
    error_message_format = '{"detail": "%(explain)s"}'
    # The answer is sent in one piece.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        try:
            unread = self._body_length()
        except ApiError as error:
            # Where the next request begins is not known.
            self.close_connection = True
            self._send(error.status, msgspec.json.encode(error.body))
            return
        try:
            path = self._path()
            self.server.admission.check(self.headers)
            self.server.application.admit(path, self.headers.get("Authorization"))
            if unread:
                check_content_type(self.headers)
            body, unread = self._body(unread), 0
            status, document = 200, self.server.application.answer(self.command, path, body)
        except ApiError as error:
            self._discard(unread)
            status, document = error.status, msgspec.json.encode(error.body)
        self._send(status, document)

    def _path(self) -> str:
        """The path of the request line. Raises ApiError if it is not valid."""
        try:
            return urlsplit(self.path).path
        except ValueError as error:
            raise ApiError(400, detail=f"Bad request target: {error}") from error

    def _body_length(self) -> int:
        """The length of the body. Raises ApiError if it is missing or too large."""
        lengths = set(self.headers.get_all("Content-Length", ["0"]))
        if self.headers.get("Transfer-Encoding"):
            raise ApiError(411, detail="Length Required")
        stated = lengths.pop()
        if lengths or not (stated.isascii() and stated.isdigit()):
            raise ApiError(400, detail="Bad Content-Length")
        if len(stated) > len(str(MAX_BODY)) or int(stated) > MAX_BODY:
            raise ApiError(413, detail=f"a body may have {MAX_BODY} bytes")
        return int(stated)

    def _body(self, length: int) -> bytes:
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionResetError("the client disconnected in the middle of its body")
        return body

    def _discard(self, length: int) -> None:
        """Read past the body of a refused request: the answer is lost if it is left unread."""
        while length > 0 and (piece := self.rfile.read(min(length, _PIECE))):
            length -= len(piece)

    def _send(self, status: int, document: bytes) -> None:
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
