"""Connections to one server that can be cut off while a request is under way on them."""

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
_of_thread = threading.local()


class CutOff:
    """Cuts the connection of whatever request its thread is making."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cut = False

    def follow(self) -> None:
        """From now on it is this thread's request that would be cut."""
        _of_thread.cut_off = self

    def take(self, connected: socket.socket | None) -> None:
        """The request goes over this socket. Raises OSError once it was cut."""
        with self._lock:
            if self._cut:
                raise ConnectionAbortedError("the request was given up")
            # The connection may let go of it while an answer is still being read from it.
            self._socket = connected

    def cut(self) -> None:
        """End the request, now and for good; its thread gets an error. Never raises."""
        with self._lock:
            self._cut = True
            connected = self._socket
        if connected is not None:
            with contextlib.suppress(OSError, ValueError):
                socket.socket.shutdown(connected, socket.SHUT_RDWR)


class Deadlines:
    """Cuts requests off that take longer in all than they may, whatever trickles in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[CutOff, float] = {}
        self._watching = False

    @contextlib.contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Cut the request that this thread makes in the block, once it has taken so long."""
        cut_off = CutOff()
        cut_off.follow()
        with self._lock:
            self._open[cut_off] = time.monotonic() + seconds
            if not self._watching:
                self._watching = True
                threading.Thread(
                    target=self._watch, name="stagewright-deadlines", daemon=True
                ).start()
        try:
            yield
        finally:
            _of_thread.cut_off = None
            with self._lock:
                del self._open[cut_off]

    def _watch(self) -> None:
        while True:
            time.sleep(_LOOK_EVERY_S)
            now = time.monotonic()
            with self._lock:
                late = [one for one, deadline in self._open.items() if deadline < now]
                self._watching = bool(self._open)
                if not self._watching:
                    return
            for cut_off in late:
                cut_off.cut()


class _Followed(HTTPConnection):
    """Tells the ``CutOff`` of its thread over which socket it goes."""

    def request(self, *args: Any, **kwargs: Any) -> None:
        _tell_of(self.sock)
        super().request(*args, **kwargs)

    def connect(self) -> None:
        try:
            super().connect()
        except TimeoutError as error:  # in TLS's handshake; urllib3 would take it for an answer's
            raise ConnectTimeoutError(self, f"Connection to {self.host} timed out") from error
        _tell_of(self.sock)

    def send(self, data: Any) -> None:
        if isinstance(data, memoryview) and self.sock.gettimeout() is not None:
            # urllib3 sends under the limit on connecting; a slow line is no reason to give up,
            # and a body that nobody takes is noticed by whoever watches.
            self.sock.settimeout(None)
        super().send(data)


class _FollowedTls(_Followed, HTTPSConnection):
    """The same over TLS."""


def _tell_of(connected: socket.socket | None) -> None:
    cut_off: CutOff | None = getattr(_of_thread, "cut_off", None)
    if cut_off is not None:
        cut_off.take(connected)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Followed


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _FollowedTls

    def _validate_conn(self, conn: Any) -> None:
        # urllib3 would warn of each connection that is not verified; the client has warned once.
        if conn.is_closed:
            conn.connect()


class FollowedAdapter(HTTPAdapter):
    """Sends requests over connections that can be cut off, and tries none twice."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
