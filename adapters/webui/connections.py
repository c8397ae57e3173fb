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

_LOOK_EVERY_S = 0.25
_of_thread = threading.local()


class CutOff:
    """Cuts the connection of whatever request its thread is making."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: HTTPConnection | None = None
        self._cut = False

    def follow(self) -> None:
        """From now on it is this thread's request that would be cut."""
        _of_thread.cut_off = self

    def take(self, connection: HTTPConnection) -> None:
        """The request goes over this connection."""
        with self._lock:
            self._connection = connection

    def cut(self) -> None:
        """End the request, now and for good; its thread gets an error. Never raises."""
        with self._lock:
            self._cut = True
            sock = None if self._connection is None else self._connection.sock
        if sock is not None:
            with contextlib.suppress(OSError, ValueError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


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


class _FollowedConnection(HTTPConnection):
    """Tells the ``CutOff`` of its thread that it is in use."""

    def request(self, *args: Any, **kwargs: Any) -> None:
        _tell_of(self)
        super().request(*args, **kwargs)


class _FollowedTlsConnection(HTTPSConnection):
    """Tells the ``CutOff`` of its thread that it is in use."""

    def request(self, *args: Any, **kwargs: Any) -> None:
        _tell_of(self)
        super().request(*args, **kwargs)


def _tell_of(connection: HTTPConnection) -> None:
    cut_off: CutOff | None = getattr(_of_thread, "cut_off", None)
    if cut_off is not None:
        cut_off.take(connection)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _FollowedConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _FollowedTlsConnection


class FollowedAdapter(HTTPAdapter):
    """Sends requests over connections that can be cut off, and tries none twice."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
