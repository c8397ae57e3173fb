"""Addresses of a farm's processes, and whether they may be used without TLS."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from ....statemachine.config.validation import refuse_userinfo
from ....statemachine.errors import ConfigurationError
from ..http.address import ServerAddress, is_loopback

PLAIN, ENCRYPTED = "tcp", "tls"
DEFAULT_PORT = 8786


def scheduler_address(text: str) -> str:
    """The address of a scheduler as it is recorded: ``tls://render:8786``.

    Without a scheme it is one with TLS if Dask's settings have certificates. Raises
    ConfigurationError.
    """
    refuse_userinfo(text)
    url = text
    if "://" not in text:
        from .dask_settings import default_scheme  # noqa: PLC0415 - a queue may name a farm without Dask

        url = f"{default_scheme('client')}://{text}"
    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORT
    except ValueError as error:
        raise _bad_address(text, str(error)) from error
    if parts.scheme not in (PLAIN, ENCRYPTED):
        raise _bad_address(text, "the scheme must be tls or tcp")
    if not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise _bad_address(text, "give a host and a port, for example render:8786")
    return f"{parts.scheme}://{bracketed(parts.hostname)}:{port}"


def refuse_open(address: str, *, insecure: bool) -> None:
    """Refuse an address beyond this machine without TLS. Raises ConfigurationError."""
    parts = urlsplit(address)
    if parts.scheme == ENCRYPTED or insecure or is_loopback(parts.hostname or ""):
        return
    raise ConfigurationError(
        f"{address} is not this machine, and the connection has no TLS: make certificates with "
        "`stagewright farm certificates DIR` and use a tls:// address, or give --insecure on a "
        "network in which you trust every machine"
    )


def loopback_host(address: str) -> str | None:
    """The host of a process' address if it is this machine alone."""
    host = urlsplit(address).hostname or ""
    return host if is_loopback(host) else None


def bracketed(host: str) -> str:
    """A host as it is written in an address: IPv6 has brackets."""
    return f"[{host}]" if ":" in host else host


def member_url(server: str) -> str:
    """The address of a worker's server as logs have it: one that no other machine's has.

    For a server that its worker reaches as this machine, it has the machine's name.
    """
    if not ServerAddress.parse(server).is_loopback:
        return server
    parts = urlsplit(server)
    port = f":{parts.port}" if parts.port else ""
    return parts._replace(netloc=f"{socket.gethostname()}{port}").geturl()


def _bad_address(text: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"farm {text}: not the address of a scheduler: {why}")
