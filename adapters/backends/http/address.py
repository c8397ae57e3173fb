"""The address of a server."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

import msgspec

from ....statemachine.config.validation import refuse_userinfo
from ....statemachine.errors import ConfigurationError

_PORTS = {"http": 80, "https": 443}
_PLAIN_ZONE = re.compile(r"^([a-z]+://\[[^\]/%]+)%(?!25)", re.IGNORECASE)
_NOT_IN_URLS = re.compile(r"[\x00-\x20\x7f\\]")


class ServerAddress(msgspec.Struct, frozen=True):
    """A server's base address without a slash at its end: ``http://127.0.0.1:7860``."""

    url: str

    @classmethod
    def parse(cls, text: str) -> ServerAddress:
        """The address in ``text``; without a scheme it is http. Raises ConfigurationError."""
        refuse_userinfo(text)
        url = text if "://" in text else f"http://{text}"
        # The zone of a link-local address, as systems show it: [fe80::1%eth0].
        url = _PLAIN_ZONE.sub(r"\1%25", url)
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError as error:
            raise _bad_address(text, str(error)) from error
        if parts.scheme not in _PORTS:
            raise _bad_address(text, "the scheme must be http or https")
        if not parts.hostname or _NOT_IN_URLS.search(url):
            raise _bad_address(text, "it has no valid host")
        if "?" in url or "#" in url:
            raise _bad_address(text, "a query or fragment is not allowed")
        return cls(url.rstrip("/"))

    @property
    def is_loopback(self) -> bool:
        """Whether the address is this machine."""
        return is_loopback(urlsplit(self.url).hostname or "")

    @property
    def zoneless_host(self) -> str:
        """Host and port without the zone of a link-local address; "" for an address without zone.

        Only this machine knows the zone, so a request does not name it.
        """
        host, zone, rest = urlsplit(self.url).netloc.partition("%")
        return f"{host}]{rest.partition(']')[2]}" if zone and host.startswith("[") else ""

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection uses TLS."""
        return self.url.lower().startswith("https:")

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port."""
        return _origin(urlsplit(self.url))


def is_loopback(host: str) -> bool:
    """Whether a host name or IP address is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)


def _bad_address(text: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"server {text}: not a server address: {why}", key="server.url")
