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
_DEEPEST = 100
"""Levels of JSON values; nobody's info has ten."""


class Credentials(msgspec.Struct, frozen=True):
    """The header that a server is sent, or why it is sent none.

    ``secrets`` are texts that must never be recorded or shown. Scrub what a server says where
    it enters a record or a message, and never before it is compared: a short secret can be
    part of any word.
    """

    header: str | None = None
    withheld: str = ""
    secrets: tuple[str, ...] = ()

    def scrub(self, text: str) -> str:
        """``text`` without any of the secrets."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    def scrub_values(self, value: Any) -> Any:
        """JSON without any of the secrets in its texts; keys stay, and too deep values are cut."""
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
    environment: Mapping[str, str] = os.environ,
) -> Credentials:
    """What ``STAGEWRIGHT_AUTH`` gives for this address.

    They go only to a server that the user named himself, on the command line or in
    ``STAGEWRIGHT_AUTH_ORIGIN``. Only if ``insecure`` are they sent in clear text beyond this
    machine, to a server whose certificate ``settings`` (of a configuration or a log) leave
    unchecked, or beyond this machine to one that they have checked by a ``ca_bundle``.
    Raises ConfigurationError for a STAGEWRIGHT_AUTH without a colon.
    """
    given = environment.get(AUTH_VARIABLE, "")
    if not given:
        return Credentials(withheld=f"set {AUTH_VARIABLE}=user:password")
    if ":" not in given:
        raise ConfigurationError(f"{AUTH_VARIABLE} must be user:password; it holds no colon")
    named = named_by_user or _is_named_origin(address, environment.get(ORIGIN_VARIABLE))
    withheld = _why_withheld(address, settings or ServerTable(), named=named, insecure=insecure)
    if withheld:
        return Credentials(withheld=withheld)
    encoded = base64.b64encode(given.encode("utf-8", "surrogateescape")).decode("ascii")
    password = given.partition(":")[2]
    secrets = {encoded} | {form for one in (given, password) if one for form in secret_forms(one)}
    longest_first = tuple(sorted(secrets, key=len, reverse=True))
    return Credentials(header=f"Basic {encoded}", secrets=longest_first)


def _why_withheld(
    address: ServerAddress, settings: ServerTable, *, named: bool, insecure: bool
) -> str:
    """Why an address is sent no credentials; empty where it is sent them."""
    if not named:
        return (
            f"{AUTH_VARIABLE} is not sent to an address that only a configuration or a "
            f"log names; give --server, or set {ORIGIN_VARIABLE} to it"
        )
    if insecure:
        return ""
    if not (address.is_encrypted or address.is_loopback):
        return (
            f"{AUTH_VARIABLE} is only sent over plain http to a loopback "
            "address; use https, or --insecure"
        )
    # Whoever wrote the configuration or the log could stand in for the server.
    is_unverified = address.is_encrypted and not settings.tls_verify
    if is_unverified or (settings.ca_bundle is not None and not address.is_loopback):
        return (
            f"{AUTH_VARIABLE} is not sent, because server.tls_verify or server.ca_bundle changes "
            "the check of the server's certificate; use --insecure to send it"
        )
    return ""


def secret_forms(secret: str) -> tuple[str, ...]:
    """A secret as it stands in texts, JSON, HTML and addresses."""
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
