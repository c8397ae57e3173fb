"""Refuses requests that a foreign web page makes a browser send."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from email.message import Message
from urllib.parse import urlsplit

from ..backends.http.address import is_loopback
from .api_errors import ApiError, validation_error


class Admission:
    """Knows the names of a server that listens on ``host``, a name or an address.

    On loopback these are ``localhost`` and the loopback addresses. Beyond it they are also every
    address, which cannot be made to point elsewhere as a name can, and the name of this machine.
    ``allowed`` are further names; web pages of these may send requests, too.
    """

    def __init__(self, host: str, allowed: Iterable[str]) -> None:
        self._allowed = frozenset(filter(None, map(name_in, allowed)))
        self._names = self._allowed | {"localhost", host.lower()}
        self._beyond_loopback = not is_loopback(host)
        if self._beyond_loopback:
            name = socket.gethostname().lower()
            self._names |= {name, f"{name}.local"}

    def check(self, headers: Message) -> None:
        """Raises ApiError: 400 without one Host, 403 for a foreign Host or Origin."""
        hosts = headers.get_all("Host", [])
        if len(hosts) != 1:
            raise ApiError(400, detail="a request must have one Host header")
        if not self._is_ours(name_in(hosts[0])):
            raise _foreign(f"{hosts[0]} is not a name of this server", hosts[0])
        for origin in headers.get_all("Origin", []):
            authority = origin.partition("://")[2]
            same = authority.lower() == hosts[0].lower()
            if not same and name_in(authority) not in self._allowed:
                raise _foreign(f"pages of {origin} may not send requests to this server", authority)

    def _is_ours(self, name: str) -> bool:
        if name in self._names or is_loopback(name):
            return True
        return self._beyond_loopback and _is_address(name)


def check_content_type(headers: Message) -> None:
    """Raises ApiError, 422, for a body that says to be other than JSON.

    A page can send a form or plain text anywhere, but JSON only to a server that agrees first.
    """
    if "Content-Type" in headers and headers.get_content_type() != "application/json":
        words = "the body must be JSON, sent as Content-Type: application/json"
        raise validation_error(("body",), words)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def name_in(authority: str) -> str:
    """The name in ``name:port`` in lower case; "" if there is none."""
    try:
        return (urlsplit(f"//{authority}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _foreign(why: str, authority: str) -> ApiError:
    name = name_in(authority) or "NAME"
    return ApiError(403, detail=f"{why}; start serve-embedded with --allow-host {name} to allow it")
