"""Addresses of servers, and where credentials go: only to a server that the user named."""

from __future__ import annotations

import base64
import os
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv6Address
from pathlib import Path
from socketserver import TCPServer
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stagewright.adapters import open_controller
from stagewright.adapters.backends.http.address import ServerAddress
from stagewright.adapters.backends.http.client import HttpClient
from stagewright.adapters.backends.http.credentials import Credentials, credentials_for
from stagewright.events import PipelineRunResult, RunState
from stagewright.statemachine.errors import ConfigurationError, PreflightError

from . import webui_faults as faults
from .command_line import SMALL, stagewright, write_config
from .support import document
from .webui_server import ScriptedWebUI

USER, PASSWORD = "somebody", "sesame42"
AUTH = {"STAGEWRIGHT_AUTH": f"{USER}:{PASSWORD}"}
ENCODED = base64.b64encode(AUTH["STAGEWRIGHT_AUTH"].encode()).decode()


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1"),
        ("localhost:7860", "http://localhost:7860"),
        ("http://host:7860/", "http://host:7860"),
        ("https://host", "https://host"),
        ("HTTPS://Host:443//", "HTTPS://Host:443"),
        ("host/webui/", "http://host/webui"),
        ("https://host:1/a/b", "https://host:1/a/b"),
        ("[::1]:7860", "http://[::1]:7860"),
        ("http://[2001:db8::1]", "http://[2001:db8::1]"),
        ("http://[fe80::1%25eth0]:7860", "http://[fe80::1%25eth0]:7860"),
        ("http://[fe80::1%eth0]:7860/", "http://[fe80::1%25eth0]:7860"),
        ("[fe80::1%wlan0]/a%20b", "http://[fe80::1%25wlan0]/a%20b"),
        ("https://[fe80::1%3]", "https://[fe80::1%253]"),
    ],
)
def test_an_address_is_http_unless_it_says_so_and_keeps_its_path(text: str, url: str) -> None:
    """A slash at its end is gone, and it is an address itself."""
    address = ServerAddress.parse(text)
    assert address.url == url
    assert ServerAddress.parse(url) == address


def link_local() -> tuple[str, str] | None:
    """A link-local address of this machine and its zone, if it has one."""
    with suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            digits, _, _, _, _, zone = line.split()
            if digits.startswith("fe80"):
                return str(IPv6Address(bytes.fromhex(digits))), zone
    return None


@pytest.mark.skipif(link_local() is None, reason="this machine has no link-local IPv6 address")
@pytest.mark.parametrize("percent", ["%25", "%"])
def test_a_link_local_address_is_reached_in_its_zone(percent: str) -> None:
    """The zone is for this machine alone: the request names its host without it."""
    host, zone = link_local() or ("", "")
    hosts = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hosts.append(self.headers["Host"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"1")

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    place = socket.getaddrinfo(f"{host}%{zone}", 0, type=socket.SOCK_STREAM)[0][4]
    with TCPServer(("", 0), Handler, bind_and_activate=False) as server:
        server.socket.close()
        server.socket = socket.socket(socket.AF_INET6)
        server.socket.bind(place)
        server.server_activate()
        port = server.socket.getsockname()[1]
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        client = HttpClient(ServerAddress.parse(f"http://[{host}{percent}{zone}]:{port}"))
        assert client.get("/") == 1
        client.close()
        thread.join()
    assert hosts == [f"[{host}]:{port}"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has no valid host"),
        ("http://", "has no valid host"),
        ("http:///path", "has no valid host"),
        ("//host", "has no valid host"),
        ("ftp://host", "must be http or https"),
        ("file:///etc/passwd", "must be http or https"),
        ("http://host:port", "not a server address"),
        ("http://host:65536", "not a server address"),
        ("http://[::1", "not a server address"),
        ("::1", "not a server address"),
        ("http://host?a=b", "query or fragment"),
        ("http://host/#a", "query or fragment"),
        ("http://ho st", "not a server address"),
        ("http://host\n", "not a server address"),
        ("http://good\\@evil", "not a server address"),
        ("http://host\x00", "not a server address"),
        pytest.param("http://host/?", "query"),
        pytest.param("http://host/#", "fragment"),
    ],
)
def test_what_is_no_address_is_refused(text: str, why: str) -> None:
    """The key is server.url."""
    with pytest.raises(ConfigurationError, match=f"(?s)^server .*{why}|user") as caught:
        ServerAddress.parse(text)
    assert caught.value.key == "server.url"


PARTS = ["http:", "https://", "//", "/", "\\", "@", ":", "[::1]", "host", "?", "#", "%", "\t", "80"]


@settings(deadline=None)
@given(st.text() | st.lists(st.sampled_from(PARTS) | st.characters(codec=None)).map("".join))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    """With a host, an origin, and no slash at its end."""
    with suppress(ConfigurationError):
        address = ServerAddress.parse(text)
        assert address.origin[0] in ("http", "https")
        assert address.origin[1]
        assert not address.url.endswith("/")
        assert address.is_encrypted is (address.origin[0] == "https")
        assert address.is_loopback in (True, False)


@pytest.mark.parametrize(
    "text",
    [
        *("http://user:secret@host", "https://secret@host:1/path", "user:secret@host"),
        *("ftp://user:secret@host", "http://user:secret@[::1", "http:\\\\user:secret@host"),
        *("user:secret@host:7860/path", "http://user:secret@host?", "//user:secret@host"),
        *(
            pytest.param(text)
            for text in (
                *("http://user:12/secret@host", "http://user:se/secret@host:7860"),
                *("user:secret@host//path", "https:/user:secret@host", "http:///user:secret@h"),
            )
        ),
    ],
)
def test_a_password_in_an_address_is_refused_and_not_repeated(text: str) -> None:
    """The advice is to use the environment."""
    with pytest.raises(ConfigurationError, match="STAGEWRIGHT_AUTH") as caught:
        ServerAddress.parse(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *[(host, True) for host in ("127.0.0.1", "127.0.0.2", "127.255.255.254", "[::1]")],
        *[(host, True) for host in ("localhost", "LocalHost")],
        ("sub.localhost", False),  # a name server may be asked for it
        *[(host, False) for host in ("127.0.0.1.evil.com", "localhost.evil.com", "notlocalhost")],
        *[(host, False) for host in ("0.0.0.0", "192.168.0.1", "[::2]", "127.evil", "[::]")],
    ],
)
def test_loopback_is_this_machine_and_nothing_that_looks_like_it(host: str, loopback: bool) -> None:
    """By every port and scheme."""
    for text in (host, f"https://{host}:7860/path"):
        assert ServerAddress.parse(text).is_loopback is loopback


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://host", "http://host:80/path", True),
        ("https://host:443", "HTTPS://HOST", True),
        ("http://host:443", "https://host:443", False),
        ("http://host", "http://host:7860", False),
        ("http://host", "http://host.evil.com", False),
        ("http://[::1]:7860", "[::1]:7860", True),
    ],
)
def test_origins_are_scheme_host_and_port(one: str, other: str, same: bool) -> None:
    """With the scheme's own port where none is given; the path is no part of it."""
    assert (ServerAddress.parse(one).origin == ServerAddress.parse(other).origin) is same


LOCAL, FAR, FAR_TLS = "http://127.0.0.1:7860", "http://192.0.2.1:7860", "https://192.0.2.1"
ANYWHERE = "only a configuration"


@pytest.mark.parametrize(
    ("url", "named", "insecure", "origin", "withheld"),
    [
        (LOCAL, True, False, None, ""),
        (LOCAL, False, False, None, ANYWHERE),
        (LOCAL, False, True, None, ANYWHERE),
        (LOCAL, False, False, "127.0.0.1:7860/path", ""),
        (LOCAL, False, False, "http://127.0.0.1:7861", ANYWHERE),
        (LOCAL, False, False, "https://127.0.0.1:7860", ANYWHERE),
        (LOCAL, False, False, "http://x@127.0.0.1:7860", ANYWHERE),
        (LOCAL, False, False, "no address", ANYWHERE),
        (LOCAL, False, False, "", ANYWHERE),
        (LOCAL, True, False, "http://elsewhere", ""),
        (FAR, True, False, None, "plain http"),
        (FAR, True, True, None, ""),
        (FAR, False, False, FAR, "plain http"),
        (FAR, False, True, FAR, ""),
        (FAR, False, True, None, ANYWHERE),
        (FAR_TLS, True, False, None, ""),
        (FAR_TLS, False, False, "https://192.0.2.1:443", ""),
        (FAR_TLS, False, False, "http://192.0.2.1", ANYWHERE),
        (FAR_TLS, False, False, None, ANYWHERE),
    ],
)
def test_credentials_go_where_the_user_said(
    url: str, named: bool, insecure: bool, origin: str | None, withheld: str
) -> None:
    """To --server and the named origin, in clear text to this machine; else it says why not."""
    environment = AUTH if origin is None else {**AUTH, "STAGEWRIGHT_AUTH_ORIGIN": origin}
    given = credentials_for(
        ServerAddress.parse(url), named_by_user=named, insecure=insecure, environment=environment
    )
    assert given.header == (None if withheld else f"Basic {ENCODED}")
    assert withheld in given.withheld
    assert bool(given.withheld) is bool(withheld)
    assert PASSWORD not in given.withheld + repr(given) + str(given)
    assert ENCODED not in repr(given)


@pytest.mark.parametrize(
    "auth",
    [
        "a:b",
        "a:",
        ":b",
        "a:b:c",
        "ü:pässwörd",
        "a:\U0001f511",
        "a:b c",
        "a:\udcff",
        "a:" + "x" * 99,
    ],
)
def test_what_is_sent_is_the_variable_s_bytes(auth: str) -> None:
    """In UTF-8, or whatever bytes they were; none of it is left in a text."""
    found = credentials_for(
        ServerAddress.parse(LOCAL), named_by_user=True, environment={"STAGEWRIGHT_AUTH": auth}
    )
    assert found.header is not None
    sent = base64.b64decode(found.header.removeprefix("Basic "))
    assert sent == auth.encode("utf-8", "surrogateescape")
    assert found.scrub(f"<{auth}> <{found.header}>") == "<***> <Basic ***>"


def test_without_a_colon_it_is_no_user_and_password() -> None:
    """The error does not repeat it; without the variable nothing is sent."""
    address = ServerAddress.parse(LOCAL)
    for named in (True, False):
        with pytest.raises(ConfigurationError, match="STAGEWRIGHT_AUTH must be") as caught:
            credentials_for(address, named_by_user=named, environment={"STAGEWRIGHT_AUTH": "word"})
        assert "word" not in str(caught.value).replace("password", "")
        for environment in ({}, {"STAGEWRIGHT_AUTH": ""}):
            found = credentials_for(address, named_by_user=named, environment=environment)
            assert found == Credentials(withheld="set STAGEWRIGHT_AUTH=user:password")


def test_scrub_takes_out_every_secret_wherever_it_is() -> None:
    """Both together, the password alone, and what is sent; the user's name is none."""
    given = credentials_for(ServerAddress.parse(LOCAL), named_by_user=True, environment=AUTH)
    text = f"{USER}:{PASSWORD} {PASSWORD}{PASSWORD} {ENCODED} {USER}"
    assert given.scrub(text) == f"*** ****** *** {USER}"
    assert Credentials().scrub(text) == text


def authorizations(server: ScriptedWebUI) -> set[str | None]:
    """What the requests of a server carried."""
    assert server.requests
    return {one.headers.get("Authorization") for one in server.requests}


def run(folder: Path, address: str | None, **tables: Any) -> PipelineRunResult:
    """One small image."""
    return open_controller(folder / "runs", address).start(document(**tables)).wait(60)


@pytest.mark.parametrize("origin", [False, True])
def test_a_configuration_s_server_is_sent_credentials_only_if_the_user_named_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: bool
) -> None:
    """No request to it carries any, and the server's 401 says how to send them."""
    monkeypatch.setenv("STAGEWRIGHT_AUTH", AUTH["STAGEWRIGHT_AUTH"])
    with ScriptedWebUI(auth=(USER, PASSWORD)) as server:
        if origin:
            monkeypatch.setenv("STAGEWRIGHT_AUTH_ORIGIN", server.url)
            assert run(tmp_path, None, server={"url": server.url}).state is RunState.COMPLETED
        else:
            with pytest.raises(PreflightError, match=r"401.*STAGEWRIGHT_AUTH_ORIGIN"):
                run(tmp_path, None, server={"url": server.url})
            settings = {"url": server.url, "retries": 0}
            result = run(tmp_path, None, server=settings, run={"preflight": False})
            assert result.error is not None
            assert result.error.kind == "AuthenticationError"
        assert authorizations(server) == {f"Basic {ENCODED}" if origin else None}


def test_a_redirect_is_not_followed_and_credentials_are_not_sent_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other server hears nothing at all."""
    monkeypatch.setenv("STAGEWRIGHT_AUTH", AUTH["STAGEWRIGHT_AUTH"])
    with ScriptedWebUI() as other, ScriptedWebUI() as server:
        for place, status in enumerate((301, 302, 307, 308)):
            there = (("Location", f"{other.url}/sdapi/v1/txt2img"),)
            server.on(place, faults.Replies(status, b"", there))
            result = run(tmp_path, server.url, run={"preflight": False})
            assert result.error is not None
            assert f"{status}: redirected to {other.url}" in result.error.message
        assert authorizations(server) == {f"Basic {ENCODED}"}
        assert not other.requests


def test_on_the_command_line_nothing_but_the_variable_counts(tmp_path: Path) -> None:
    """No netrc and no proxy of the environment; the secret is in no output and no file."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login netrc password of-netrc\n")
    netrc.chmod(0o600)
    dead = "http://127.0.0.1:9"
    names = ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY")
    env = {**os.environ, **dict.fromkeys(names, dead), "HOME": str(tmp_path), "NETRC": str(netrc)}
    env |= {"no_proxy": "", "NO_PROXY": ""}
    config = write_config(tmp_path, SMALL)
    with ScriptedWebUI() as server:
        done = stagewright("run", config, "--server", server.url, folder=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        assert authorizations(server) == {None}
    with ScriptedWebUI(auth=(USER, PASSWORD)) as server:
        arguments = ("run", config, "--server", server.url, "--json")
        done = stagewright(*arguments, folder=tmp_path, env={**env, **AUTH})
        assert done.returncode == 0, done.stderr
        assert authorizations(server) == {f"Basic {ENCODED}"}
    kept = b"".join(one.read_bytes() for one in (tmp_path / "runs").rglob("*") if one.is_file())
    told = (done.stdout + done.stderr).encode() + kept
    assert server.url.encode() in told
    for secret in (PASSWORD, ENCODED, "of-netrc"):
        assert secret.encode() not in told


def test_a_secret_that_a_server_repeats_is_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the log nor in the result."""
    monkeypatch.setenv("STAGEWRIGHT_AUTH", AUTH["STAGEWRIGHT_AUTH"])
    with ScriptedWebUI(auth=(USER, PASSWORD)) as server:
        server.on(0, faults.alters_info(lambda info: info.update(infotexts=[f"by {PASSWORD}"])))
        result = run(tmp_path, server.url)
    assert result.state is RunState.COMPLETED
    (log,) = tmp_path.glob("runs/*/events.jsonl")
    assert PASSWORD not in log.read_text(encoding="utf-8")
