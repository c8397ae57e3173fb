"""Certificates of servers: which are trusted, where the bundle is, and what to do about others."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trustme
from stagewright.adapters.backends.http.address import ServerAddress
from stagewright.adapters.backends.http.client import HttpClient
from stagewright.adapters.backends.http.errors import AnswerLostError, ServerNotTrustedError
from stagewright.events import RunOpened, RunState
from stagewright.statemachine import BackendError, CancelToken, GenerateRequest, StageExecutionPlan
from stagewright.statemachine.config.schema import ServerTable
from stagewright.statemachine.errors import ConfigurationError

from .command_line import SMALL, stagewright, write_config
from .support import ScriptedBackend, controller, document
from .test_webui_client import BROKEN, Wire, WireServer, raw, talking

pytestmark = pytest.mark.lowest

ADVICE = (
    "; server.ca_bundle names the file of the authority to trust, and server.tls_verify = false "
    "switches the check off"
)
AUTHORITY = trustme.CA()


def tls_for(*hosts: str, authority: trustme.CA = AUTHORITY) -> ssl.SSLContext:
    """What a server for these hosts shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*hosts).configure_cert(context)
    return context


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    """A file with the authority's certificate."""
    AUTHORITY.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return str(tmp_path / "ca.pem")


def test_a_certificate_of_an_unknown_authority_is_refused(bundle: str) -> None:
    """Until the user gives its certificate, or says that none is to be looked at."""
    tls = tls_for("127.0.0.1")

    def script(wire: Wire) -> None:
        wire.answer(b"1")

    with talking(script, tls=tls) as (client, server):
        with pytest.raises(ServerNotTrustedError, match="the connection is not trusted") as caught:
            client.get("/")
        assert server.url in str(caught.value)
        assert str(caught.value).endswith(ADVICE)
    with talking(script, tls=tls, ca_bundle=bundle) as (client, server):
        assert [client.get("/") for _ in range(5)] == [1] * 5
        assert server.connections == 1
    with talking(script, tls=tls, tls_verify=False) as (client, _server):
        assert client.get("/") == 1


def test_a_certificate_of_another_host_or_authority_is_refused(bundle: str) -> None:
    """With a ca_bundle as without one; nothing is sent."""
    taken: list[Wire] = []
    others = trustme.CA()
    for tls in (tls_for("example.org"), tls_for("127.0.0.1", authority=others)):
        spoken = talking(taken.append, tls=tls, ca_bundle=bundle)
        with spoken as (client, _server), pytest.raises(ServerNotTrustedError) as caught:
            client.get("/")
        assert str(caught.value).endswith(ADVICE)
    assert not taken


def test_a_client_without_verification_does_not_spoil_another() -> None:
    """Each has a pool and settings of its own."""
    with WireServer(lambda wire: wire.answer(b"1"), tls_for("127.0.0.1")) as server:
        address = ServerAddress.parse(server.url)
        careless = HttpClient(address, ServerTable(tls_verify=False))
        careful = HttpClient(address)
        assert careless.get("/") == 1
        with pytest.raises(ServerNotTrustedError):
            careful.get("/")
        careless.close()
        careful.close()


def test_a_server_that_speaks_no_tls_is_not_trusted() -> None:
    """http behind an https address; the other way round no HTTP comes back."""
    with talking(lambda wire: wire.answer(b"1")) as (_client, server):
        client = HttpClient(ServerAddress.parse(server.url.replace("http:", "https:")))
        with pytest.raises(ServerNotTrustedError):
            client.get("/")
        client.close()
    with talking(lambda wire: wire.answer(b"1"), tls=tls_for("127.0.0.1")) as (_client, server):
        client = HttpClient(ServerAddress.parse(server.url.replace("https:", "http:")))
        with pytest.raises(AnswerLostError):
            client.get("/")
        client.close()


@pytest.mark.parametrize("how", ["nothing", "no body", "half a body", "half a chunk"])
def test_an_encrypted_answer_that_breaks_off_is_lost(how: str, bundle: str) -> None:
    """As one in clear text is."""
    spoken = talking(raw(BROKEN[how]), tls=tls_for("127.0.0.1"), ca_bundle=bundle)
    with spoken as (client, _server), pytest.raises(AnswerLostError):
        client.get("/")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b"", "it holds no certificate: "),
        (b"no certificate", "it holds no certificate: "),
        (b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n", "it holds no cert"),
        (bytes(range(256)), "it holds no certificate: "),
    ],
)
def test_a_bundle_that_is_none_is_told(tmp_path: Path, content: bytes | None, words: str) -> None:
    """At once, by its key; over plain http it is not looked at."""
    bundle = tmp_path / "other.pem"
    if content is not None:
        bundle.write_bytes(content)
    settings = ServerTable(ca_bundle=str(bundle))
    with pytest.raises(ConfigurationError) as error:
        HttpClient(ServerAddress.parse("https://127.0.0.1:1"), settings)
    assert str(error.value).startswith(f"server.ca_bundle = {bundle}: {words}")
    HttpClient(ServerAddress.parse("http://127.0.0.1:1"), settings).close()


def test_no_advice_on_certificates_where_there_is_no_tls(bundle: str) -> None:
    """Another certificate would not help."""
    with talking(lambda wire: wire.answer(b"1")) as (_client, server):
        client = HttpClient(
            ServerAddress.parse(server.url.replace("http:", "https:")),
            ServerTable(ca_bundle=bundle),
        )
        with pytest.raises(ServerNotTrustedError, match="does not use https there") as caught:
            client.get("/")
        client.close()
    assert "tls_verify" not in str(caught.value)


def test_no_advice_on_certificates_where_the_ciphers_differ(bundle: str) -> None:
    """Nor would it help where client and server have no protocol in common."""
    tls = tls_for("127.0.0.1")
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    tls.set_ciphers("NULL-SHA256:@SECLEVEL=0")
    spoken = talking(lambda wire: wire.answer(b"1"), tls=tls, ca_bundle=bundle)
    with spoken as (client, _server), pytest.raises(ServerNotTrustedError) as caught:
        client.get("/")
    assert "tls_verify" not in str(caught.value)


CONFIGURED: dict[str, tuple[str, list[str]]] = {
    'ca_bundle = "../configs/ca.pem"': ("configs", []),
    'ca_bundle = "~/configs/ca.pem"': ("configs", []),
    "": ("configs", ["--set", "server.ca_bundle=configs/ca.pem"]),
    'ca_bundle = "none.pem"': ("configs", ["--set", "server.ca_bundle=configs/ca.pem"]),
}


@pytest.mark.parametrize("settings", CONFIGURED)
def test_a_bundle_is_relative_to_the_configuration(tmp_path: Path, settings: str) -> None:
    """One on the command line to the working folder."""
    place, options = CONFIGURED[settings]
    (tmp_path / place).mkdir()
    AUTHORITY.cert_pem.write_to_path(str(tmp_path / place / "ca.pem"))
    config = write_config(tmp_path / place, f"{SMALL}\n[server]\n{settings}\n")
    env = {**os.environ, "HOME": str(tmp_path)}
    with WireServer(lambda wire: wire.answer(b"[]"), tls_for("127.0.0.1")) as server:
        where = ("--server", server.url, *options)
        done = stagewright("doctor", config, *where, folder=tmp_path, env=env)
    assert "certificate" not in done.stdout + done.stderr
    assert f"{server.url}: reachable" in done.stdout


class PreparedBackend(ScriptedBackend):
    """Remembers the bundle with which each run is prepared; fails at first."""

    bundles: ClassVar[list[str | None]] = []

    def prepare(self, _plan: StageExecutionPlan, server: ServerTable, **_others: Any) -> None:
        """See ``PreparableBackend``."""
        self.bundles.append(server.ca_bundle)

    def release(self) -> None:
        """Nothing is held."""


def test_a_bundle_is_kept_over_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From any working folder: the log has its path, beside the configuration as written."""

    def fail(_request: GenerateRequest, _cancel: CancelToken) -> None:
        raise BackendError("no")

    PreparedBackend.bundles.clear()
    (tmp_path / "elsewhere").mkdir()
    settings = '[server]\nca_bundle = "ca.pem"\nretries = 0\n'
    config = write_config(tmp_path, f"{SMALL}\n{settings}")
    handle = controller(tmp_path / "runs", PreparedBackend(fail)).start(config)
    assert handle.wait(60).state is RunState.ERROR
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = controller(tmp_path / "runs", PreparedBackend()).resume(handle.run_id)
    assert again.wait(60).state is RunState.COMPLETED
    assert PreparedBackend.bundles == [str(tmp_path / "ca.pem")] * 2
    opened = next(iter(again.wait(60).events))
    assert isinstance(opened, RunOpened)
    assert opened.config["server"]["ca_bundle"] == "ca.pem"


def test_a_run_without_a_relative_bundle_records_no_path(tmp_path: Path) -> None:
    """Its log has the fields that it always had."""
    handle = controller(tmp_path, PreparedBackend()).start(document("txt2img"))
    handle.wait(60)
    assert b"ca_bundle" not in (handle.folder / "events.jsonl").read_bytes()
