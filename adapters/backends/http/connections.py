"""Connections to one server. The thread that waits on one can watch, and end, its own waiting."""

from __future__ import annotations

import io
import select
import socket
import time
from typing import Any, Protocol

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection

from ....statemachine.config.schema import ServerTable
from .address import ServerAddress

TICK_S = 0.05
"""How soon a cancel or a time limit is noticed while nothing arrives."""
_BUSY_TICK_S = 0.5
"""The same while something arrives: a whole answer that is on its way is rather taken."""
_SENT_AT_ONCE = 1 << 18
_SMALL_BODY_BYTES = 1 << 16


class Patience(Protocol):
    """What a request is made with: it decides how long its thread waits."""

    def tick(self) -> None:
        """Called again and again while the request waits; what it raises ends the request."""
        ...

    def note_bytes(self, count: int) -> None:
        """So many bytes of the request or its answer have been transferred."""
        ...


class WatchedSocket:
    """A connected socket that calls ``patience.tick`` while it waits."""

    def __init__(self, connected: Any) -> None:
        self._socket = connected
        self._socket.settimeout(TICK_S)
        self._ticked = 0.0
        self._held: bytes | None = None
        self.patience: Patience | None = None
        self.is_reused = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def settimeout(self, _seconds: float | None) -> None:
        """Does nothing: ``patience`` limits the wait, so the socket needs no timeout."""

    @property
    def readable(self) -> bool:
        """Whether part of an answer, or the connection's end, is there to be read."""
        return bool(select.select([self._socket], [], [], 0)[0])

    def recv_into(self, buffer: Any) -> int:
        """Receive something, however long that takes; 0 at the connection's end."""
        while True:
            try:
                count = self._socket.recv_into(buffer)
            except TimeoutError:
                self._tick()
            else:
                self._note(count)
                return int(count)

    def hold_head(self, body: bytes | None) -> None:
        """Send what is sent next, the head, together with its body, if that is small.

        Else the server is woken twice, which takes a tenth of a small request's time.
        """
        self._held = b"" if body and len(body) < _SMALL_BODY_BYTES else None

    def sendall(self, data: Any, _flags: int = 0) -> None:
        """Send everything, however long that takes."""
        if self._held == b"":
            self._held = bytes(data)
            return
        rest = memoryview(data if self._held is None else self._held + data)
        self._held = None
        while rest:
            try:
                count = self._socket.send(rest[:_SENT_AT_ONCE])
            except TimeoutError:
                self._tick()
            else:
                rest = rest[count:]
                self._note(count)

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        """What an answer is read from."""
        return io.BufferedReader(_Reader(self, self._socket.makefile("rb", buffering=0)))

    def _note(self, count: int) -> None:
        if self.patience is not None:
            self.patience.note_bytes(count)
        if time.monotonic() - self._ticked > _BUSY_TICK_S:
            self._tick()

    def _tick(self) -> None:
        self._ticked = time.monotonic()
        if self.patience is not None:
            self.patience.tick()


class _Reader(io.RawIOBase):
    """Reads through a watched socket; ``held`` keeps the socket open until it is closed."""

    def __init__(self, watched: WatchedSocket, held: socket.SocketIO) -> None:
        self._watched = watched
        self._held = held

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._watched.recv_into(buffer)

    def close(self) -> None:
        self._held.close()
        super().close()


class _Pool(HTTPConnectionPool):
    """Lends its connections, for requests whose answer is awaited later."""

    take = HTTPConnectionPool._get_conn  # noqa: SLF001 - urllib3 has no public way
    give_back = HTTPConnectionPool._put_conn  # noqa: SLF001 - the same


class _TlsPool(HTTPSConnectionPool):
    """The same over TLS."""

    take = HTTPSConnectionPool._get_conn  # noqa: SLF001 - see above
    give_back = HTTPSConnectionPool._put_conn  # noqa: SLF001 - see above


class Connections:
    """The connections to one server: idle ones are used again. Safe from any thread.

    They and their TLS are those of a requests adapter: no redirects, no netrc, no proxies and no
    cookies, which its Session would add.
    """

    def __init__(self, address: ServerAddress, settings: ServerTable) -> None:
        self._address = address
        self._settings = settings
        self._adapter = HTTPAdapter(pool_connections=1, pool_maxsize=4, max_retries=0)
        self._adapter.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
        self._pool: _Pool | _TlsPool | None = None

    def take(self, *, fresh: bool = False) -> HTTPConnection:
        """A connection that is established; a new one, if it must be ``fresh``.

        Raises what requests, urllib3 or the system raises.
        """
        if self._pool is None:
            self._pool = self._new_pool()
        connection = self._pool.take()
        assert isinstance(connection, HTTPConnection)
        if fresh:
            connection.close()
        if connection.sock is None:
            connection.timeout = self._settings.connect_timeout_s
            # A system's name of a zone follows a bare %, which addresses escape.
            connection.host = connection.host.replace("%25", "%")
            try:
                connection.connect()
            except BaseException:
                connection.close()
                raise
            connection.sock = WatchedSocket(connection.sock)
        elif isinstance(connection.sock, WatchedSocket):
            connection.sock.is_reused = True
        return connection

    def give_back(self, connection: HTTPConnection) -> None:
        """Keep a connection whose answer was read to its end."""
        watched: Any = connection.sock
        if watched is not None and self._pool is not None:
            watched.patience = None
            self._pool.give_back(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close idle connections; new ones are opened on demand."""
        self._pool = None
        self._adapter.close()

    def _new_pool(self) -> _Pool | _TlsPool:
        settings = self._settings
        verify = (settings.ca_bundle or True) if settings.tls_verify else False
        pool = self._adapter.get_connection_with_tls_context(
            requests.Request("GET", self._address.url).prepare(), verify=verify
        )
        # Without this the certificates of the system would be trusted.
        self._adapter.cert_verify(  # type: ignore[no-untyped-call]  # types-requests lacks it
            pool, self._address.url, verify, None
        )
        assert isinstance(pool, _Pool | _TlsPool)
        return pool
