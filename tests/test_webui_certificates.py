"""Who is sent credentials where a configuration changes the check of a server's certificate."""

from __future__ import annotations

import os
import ssl
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
import urllib3
from stagewright.adapters.backends.http.address import ServerAddress
from stagewright.adapters.backends.http.client import HttpClient
from stagewright.statemachine.config.schema import ServerTable

from .command_line import SMALL, stagewright, write_config
from .test_webui_client import Wire, WireServer
from .test_webui_tls import tls_for

AUTHORITY = trustme.CA()
UNCHECKED, OWN_AUTHORITY = "tls_verify=false", 'ca_bundle = "ca.pem"'
FAR, NEAR = "0.0.0.0", "127.0.0.1"
"""Two addresses of this machine; only the second is a loopback address."""
WARNING = "certificate is not checked"


class Impostor:
    """Refuses everybody with 401, and remembers what credentials it was sent."""

    def __init__(self, server: WireServer, sent: list[str]) -> None:
        self._server, self.sent = server, sent

    def url(self, host: str) -> str:
        return self._server.url.replace("127.0.0.1", host)


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[Impostor]:
    AUTHORITY.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    sent: list[str] = []

    def refuse(wire: Wire) -> None:
        sent.append(wire.header("Authorization"))
        wire.answer(b'{"detail": "no"}', "401 Unauthorized")

    with WireServer(refuse, tls_for(FAR, NEAR, authority=AUTHORITY)) as server:
        yield Impostor(server, sent)


def refused(folder: Path, command: str, url: str, settings: str, *options: str) -> str:
    """What a command with ``--server`` says on standard error when it is refused."""
    config = write_config(folder, f"{SMALL}\n[server]\n{settings}\n")
    env = {**os.environ, "STAGEWRIGHT_AUTH": "me:topsecretpw"}
    done = stagewright(command, config, "--server", url, *options, folder=folder, env=env)
    assert done.returncode == 2, done.stderr
    assert "topsecretpw" not in done.stdout + done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("command", "host", "settings", "options", "is_sent"),
    [
        ("run", FAR, UNCHECKED, (), False),
        ("doctor", FAR, UNCHECKED, (), False),
        ("run", FAR, OWN_AUTHORITY, (), False),
        ("run", FAR, "", ("--set", f"server.{UNCHECKED}"), False),
        # Behind a tunnel or another user's program.
        ("run", NEAR, UNCHECKED, (), False),
        # Its certificate is verified, and the file with the authority is on this machine.
        ("run", NEAR, OWN_AUTHORITY, (), True),
        ("run", FAR, UNCHECKED, ("--insecure",), True),
        ("doctor", FAR, OWN_AUTHORITY, ("--insecure",), True),
    ],
)
def test_a_configuration_cannot_give_the_credentials_to_an_impostor(
    impostor: Impostor, tmp_path: Path, command: str, host: str, settings: str,
    options: tuple[str, ...], is_sent: bool,
) -> None:  # fmt: skip
    """The error says how to send them; one line warns of a certificate that is not checked."""
    told = refused(tmp_path, command, impostor.url(host), settings, *options)
    assert impostor.sent
    assert {one.startswith("Basic ") for one in impostor.sent} == {is_sent}
    assert ("server.tls_verify or server.ca_bundle" in told) is not is_sent
    assert ("--insecure" in told) is not is_sent
    warned = int(UNCHECKED in f"{settings} {options}")
    assert told.count(WARNING) == warned
    assert len(told.splitlines()) == 1 + warned


def test_other_code_of_the_process_keeps_its_warnings() -> None:
    """Our client says nothing through urllib3, and switches nothing off for others."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(NEAR).configure_cert(context)
    with WireServer(lambda wire: wire.answer(b"1"), context) as server:
        client = HttpClient(ServerAddress.parse(server.url), ServerTable(tls_verify=False))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert client.get("/") == 1
            assert not caught
            with urllib3.PoolManager(cert_reqs="CERT_NONE") as pool:
                pool.request("GET", server.url)
        client.close()
    assert [one.category for one in caught] == [urllib3.exceptions.InsecureRequestWarning]
