"""Connections to a server that can be aborted while a request is in progress."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError

_LOOK_EVERY_S = 0.25
_thread_state = threading.local()


class AbortHandle:
    """Aborts the request that a thread is making, by closing its connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._aborted = False

    def track_this_thread(self) -> None:
        """Abort the requests of the calling thread from now on."""
        _thread_state.abort_handle = self

    def take(self, connected: socket.socket | None) -> None:
        """Note the socket of the request. Raises OSError if the request was already aborted."""
        with self._lock:
            if self._aborted:
                raise ConnectionAbortedError("the request was aborted")
            # The connection may drop the socket while an answer is still being read from it.
            self._socket = connected

    def abort(self) -> None:
        """Abort the request; its thread gets an error. Never raises."""
        with self._lock:
            self._aborted = True
            connected = self._socket
        if connected is not None:
            with contextlib.suppress(OSError, ValueError):
                socket.socket.shutdown(connected, socket.SHUT_RDWR)


class Deadlines:
    """Aborts requests that exceed a time limit, even while data is still arriving."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[AbortHandle, float] = {}
        self._watching = False

    @contextlib.contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Abort the request that this thread makes in the block after ``seconds``."""
        abort_handle = AbortHandle()
        abort_handle.track_this_thread()
        with self._lock:
            self._open[abort_handle] = time.monotonic() + seconds
            if not self._watching:
                self._watching = True
                threading.Thread(
                    target=self._watch, name="stagewright-deadlines", daemon=True
                ).start()
        try:
            yield
        finally:
            _thread_state.abort_handle = None
            with self._lock:
                del self._open[abort_handle]

    def _watch(self) -> None:
        while True:
            time.sleep(_LOOK_EVERY_S)
            now = time.monotonic()
            with self._lock:
                late = [one for one, deadline in self._open.items() if deadline < now]
                self._watching = bool(self._open)
                if not self._watching:
                    return
            for abort_handle in late:
                abort_handle.abort()


class _AbortableConnection(HTTPConnection):
    """Registers its socket with the ``AbortHandle`` of its thread."""

    def request(self, *args: Any, **kwargs: Any) -> None:
        _register_socket(self.sock)
        super().request(*args, **kwargs)

    def connect(self) -> None:
        try:
            super().connect()
        except (
            TimeoutError
        ) as error:  # in the TLS handshake, where urllib3 would report a read timeout
            raise ConnectTimeoutError(self, f"Connection to {self.host} timed out") from error
        _register_socket(self.sock)

    def send(self, data: Any) -> None:
        if isinstance(data, memoryview) and self.sock.gettimeout() is not None:
            # urllib3 applies the connect timeout to sending. A slow line is no error, and
            # ``Attempt`` notices a body that the server does not accept.
            self.sock.settimeout(None)
        super().send(data)


class _AbortableTlsConnection(_AbortableConnection, HTTPSConnection):
    """An abortable connection over TLS."""


def _register_socket(connected: socket.socket | None) -> None:
    abort_handle: AbortHandle | None = getattr(_thread_state, "abort_handle", None)
    if abort_handle is not None:
        abort_handle.take(connected)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _AbortableConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _AbortableTlsConnection

    def _validate_conn(self, conn: Any) -> None:
        # urllib3 would warn for each unverified connection; the client has warned once.
        if conn.is_closed:
            conn.connect()


class AbortableAdapter(HTTPAdapter):
    """Sends requests over abortable connections, without retries."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
