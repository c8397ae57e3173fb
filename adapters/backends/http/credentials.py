"""The user and password of a server: whether they may be sent, and texts without them."""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from ....statemachine.config.schema import ServerTable
from ....statemachine.errors import ConfigurationError
from .address import ServerAddress

AUTH_VARIABLE = "STAGEWRIGHT_AUTH"
ORIGIN_VARIABLE = "STAGEWRIGHT_AUTH_ORIGIN"
_NOT_NAMED = (
    f"{AUTH_VARIABLE} is not sent to an address that only a configuration or a "
    f"log names; use --server, or set {ORIGIN_VARIABLE} to it"
)
_DEEPEST = 100
"""The deepest nesting of JSON values that is scrubbed."""


class Credentials(msgspec.Struct, frozen=True):
    """The credentials header for a server, or the reason why none is sent (``withheld``).

    ``headers`` are those that the user's settings have for it; they may be as secret.
    ``secrets`` must never be recorded or shown. Scrub a server's texts when they enter a record
    or a message, but never before a comparison: a short secret may be part of any word.
    """

    header: str | None = None
    withheld: str = ""
    secrets: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()

    def scrub(self, text: str) -> str:
        """``text`` without any of the secrets."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    def scrub_values(self, value: Any) -> Any:
        """JSON without the secrets in its strings; keys are kept, very deep values are dropped."""
        return self._scrubbed(value, _DEEPEST) if self.secrets else value

    def _scrubbed(self, value: Any, deepest: int) -> Any:
        if isinstance(value, str):
            return self.scrub(value)
        if not isinstance(value, dict | list):
            return value
        if not deepest:
            return None
        if isinstance(value, dict):
            return {key: self._scrubbed(part, deepest - 1) for key, part in value.items()}
        return [self._scrubbed(part, deepest - 1) for part in value]

    def __repr__(self) -> str:
        return f"Credentials(given={self.header is not None})"


def credentials_for(
    address: ServerAddress,
    *,
    named_by_user: bool,
    settings: ServerTable | None = None,
    insecure: bool = False,
    headers: Mapping[str, Mapping[str, str]] = {},
    environment: Mapping[str, str] = os.environ,
) -> Credentials:
    """The credentials of ``STAGEWRIGHT_AUTH`` for this address, and its ``headers``.

    ``headers`` are by the address of the server that they are for, and sent to its origin alone,
    under the same rules.
    They are sent only to a server that the user named, on the command line or in
    ``STAGEWRIGHT_AUTH_ORIGIN``. Without ``insecure`` they are not sent over plain http beyond
    this machine, nor where ``settings`` (of a configuration or log) turn the check of the
    certificate off or change it by a ``ca_bundle``. Raises ConfigurationError if
    STAGEWRIGHT_AUTH has no colon.
    """
    given = environment.get(AUTH_VARIABLE, "")
    if given and ":" not in given:
        raise ConfigurationError(f"{AUTH_VARIABLE} must be user:password, but has no colon")
    unsafe = "" if insecure else _why_unsafe(address, settings or ServerTable())
    withheld = unsafe
    if not given:
        withheld = f"set {AUTH_VARIABLE}=user:password"
    elif not (named_by_user or _is_named_origin(address, environment.get(ORIGIN_VARIABLE))):
        withheld = _NOT_NAMED
    own = {
        name: value
        for origin, table in ({} if unsafe else headers).items()
        if _is_named_origin(address, origin)
        for name, value in table.items()
    }
    secrets = {form for value in own.values() if value for form in secret_forms(value)}
    encoded = base64.b64encode(given.encode("utf-8", "surrogateescape")).decode("ascii")
    if not withheld:
        parts = filter(None, (given, given.partition(":")[2]))
        secrets |= {encoded, *(form for one in parts for form in secret_forms(one))}
    return Credentials(
        header=None if withheld else f"Basic {encoded}",
        withheld=withheld,
        headers=tuple(own.items()),
        secrets=tuple(sorted(secrets, key=len, reverse=True)),
    )


def _why_unsafe(address: ServerAddress, settings: ServerTable) -> str:
    """Why credentials could be read by others on their way to an address; "" if they cannot."""
    if not (address.is_encrypted or address.is_loopback):
        return (
            f"{AUTH_VARIABLE} is only sent over plain http to a loopback "
            "address; use https, or --insecure"
        )
    # The author of the configuration or log could impersonate the server.
    is_unverified = address.is_encrypted and not settings.tls_verify
    if is_unverified or (settings.ca_bundle is not None and not address.is_loopback):
        return (
            f"{AUTH_VARIABLE} is not sent, because server.tls_verify or server.ca_bundle changes "
            "the check of the server's certificate; use --insecure to send it"
        )
    return ""


def secret_forms(secret: str) -> tuple[str, ...]:
    """The forms of a secret in plain text, JSON, HTML and URLs."""
    encodable = secret.encode("utf-8", "replace").decode()
    return (
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        html.escape(secret),
        quote(encodable, safe=""),
    )


def _is_named_origin(address: ServerAddress, origin: str | None) -> bool:
    if not origin:
        return False
    try:
        return ServerAddress.parse(origin).origin == address.origin
    except ConfigurationError:
        return False
