"""What answers in a server's place: ``run`` and ``doctor`` name it, and say what to do."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from stagewright.adapters.backends.registry import ServerChoice
from stagewright.adapters.backends.webui.kind import BACKEND
from stagewright.statemachine import build_stage_execution_plan
from stagewright.statemachine.errors import PreflightError

from .command_line import SMALL, stagewright, write_config
from .support import document
from .test_webui_client import Wire, WireServer

pytestmark = pytest.mark.lowest


def page(title: str, body: str = "", *, lead: str = "<!DOCTYPE html>\n") -> bytes:
    style = "<style>body {color: red}</style><script>let password = 1;</script>"
    return (
        f"{lead}<html><head><title>{title}</title>{style}</head><body>{body}</body></html>".encode()
    )


FORM = '<form><input name="user"><input type="password"></form>'
HEADERS = 'headers in [servers."{url}".headers] of your settings'
LOGIN = f"a login page answered; use the address of the server itself, or set {HEADERS}"
NGROK = 'the warning page of ngrok answered; set ngrok-skip-browser-warning = "1" as one of the '
CLOUDFLARE = "the warning page of Cloudflare answered, which only a browser passes"
OFFLINE = "reports that its tunnel does not work; start the tunnel again"
NO_WEBUI = "{url}: no route answers like that of a WebUI; is it one, was it started with --api, and"
JSON = "Content-Type: application/json"
COMPRESSED = "the answer is compressed, although the request did not allow it; switch compression"

ANSWERS: dict[str, tuple[str, bytes, list[str], str]] = {
    "login page": ("200 OK", page("Sign in", FORM), [], LOGIN),
    "login page without doctype": ("200 OK", page("Log in", "Log in", lead=" \n"), [], LOGIN),
    "login page behind a comment": ("200 OK", page("x", FORM, lead="<!-- v2 -->\n"), [], LOGIN),
    "login page with 401": ("401 Unauthorized", page("Please log in", FORM), [], LOGIN),
    "login page with 403": ("403 Forbidden", page("Members only", FORM), [], LOGIN),
    "redirect to a login page": (
        *("302 Found", b"", ["Location: /login?next=%2Fsdapi&token=secret"]),
        "redirected to a login page, {url}/login; use the address of the server itself, or set ",
    ),
    "redirect to another login page": (
        *(
            "307 Temporary Redirect",
            page("Found"),
            ["Location: https://auth.example.com/start?rd=x"],
        ),
        "redirected to a login page, https://auth.example.com/start; use the address of the server",
    ),
    "Cloudflare Access": (
        *(
            "302 Found",
            b"",
            ["Location: https://t.cloudflareaccess.com/cdn-cgi/access/login/x?kid=1"],
        ),
        "redirected to a login page, https://t.cloudflareaccess.com/cdn-cgi/access/login/x; use",
    ),
    "redirect to https": (
        *("301 Moved Permanently", page("301"), ["Location: https://127.0.0.1:{port}/sdapi/x"]),
        "redirected to https; use https://127.0.0.1:{port}",
    ),
    "redirect to https on its usual port": (
        *("308 Permanent Redirect", b"", ["Location: https://127.0.0.1/sdapi"]),
        "redirected to https; use https://127.0.0.1",
    ),
    "redirect elsewhere": (
        *("302 Found", b"", ["Location: http://example.com/sd/"]),
        "redirected to http://example.com/sd/; use that address instead",
    ),
    "redirect to nowhere": ("302 Found", b"", ["Location: http://[x/"], "redirected to http://[x/"),
    "redirect without a place": ("302 Found", b"", [], "redirected to {url}/; use that address"),
    "https wanted, nginx": (
        *("400 Bad Request", page("400", "The plain HTTP request was sent to HTTPS port"), []),
        "the server uses https there; use https://127.0.0.1:{port}",
    ),
    "https wanted, Go": (
        *("400 Bad Request", b"Client sent an HTTP request to an HTTPS server.\n", []),
        "the server uses https there; use https://127.0.0.1:{port}",
    ),
    "ngrok": ("200 OK", page("ngrok", "You are about to visit x.ngrok-free.app"), [], NGROK),
    "ngrok, by its code": ("200 OK", page("Visit", "ERR_NGROK_6024"), [], NGROK),
    "ngrok, offline": (
        *("404 Not Found", page("x", "The endpoint is offline. ERR_NGROK_3200"), []),
        f"ngrok {OFFLINE}",
    ),
    "ngrok, no upstream": ("502 Bad Gateway", page("x", "ERR_NGROK_8012"), [], f"ngrok {OFFLINE}"),
    "localtunnel": (
        *("511 Network Authentication Required", page("Friendly reminder", "x.loca.lt"), []),
        'the warning page of localtunnel answered; set bypass-tunnel-reminder = "1" as one of the ',
    ),
    "localtunnel, password": (
        *("401 Unauthorized", page("Tunnel Password", "x.loca.lt"), []),
        'the warning page of localtunnel answered; set bypass-tunnel-reminder = "1" as one of the ',
    ),
    "zrok": (
        *("200 OK", page("zrok", "You are about to visit x.share.zrok.io"), []),
        'the warning page of zrok answered; set skip_zrok_interstitial = "1" as one of the ',
    ),
    "dev tunnels": (
        *("200 OK", page("Microsoft dev tunnels", "x.devtunnels.ms"), []),
        'the warning page of dev tunnels answered; set X-Tunnel-Skip-AntiPhishing-Page = "1" as ',
    ),
    "Pinggy": (
        *("200 OK", page("Pinggy", "x.a.free.pinggy.link"), []),
        'the warning page of Pinggy answered; set X-Pinggy-No-Screen = "1" as one of the ',
    ),
    "Cloudflare": ("403 Forbidden", page("Just a moment...", "Enable JavaScript"), [], CLOUDFLARE),
    "Cloudflare, blocked": ("403 Forbidden", page("Attention Required! | x"), [], CLOUDFLARE),
    "Cloudflare tunnel": ("530 Tunnel", b"error code: 1033", [], f"Cloudflare {OFFLINE}"),
    "an object": ("200 OK", b"{}", [JSON], NO_WEBUI),
    "a list": ("200 OK", b"[]", [JSON], NO_WEBUI),
    "a list of tables": ("200 OK", b'[{"id": 1}, 5]', [JSON], NO_WEBUI),
    "a text": ("200 OK", b'"hello"', [JSON], NO_WEBUI),
    "a status": ("200 OK", b'{"status": "ok", "progress_url": "/"}', [JSON], NO_WEBUI),
    "an error": (
        "400 Bad Request",
        b'{"error": "no"}',
        [JSON],
        "_image=true: 400: no",
    ),
    "no method": ("405 Method Not Allowed", b"{}", [JSON], "?skip_current_image=true: 405"),
    "not understood": ("422 Unprocessable", b'{"detail": []}', [JSON], "_image=true: 422"),
    "proxy": ("407 Proxy Authentication Required", page("Proxy"), [], "_image=true: 407: Proxy"),
    "XML": ("200 OK", b"<?xml version='1.0'?><a/>", [], "the answer is not JSON"),
    "another page": ("200 OK", page("Welcome to nginx!"), [], "a web page answered; is it the"),
    "gzip": ("200 OK", gzip.compress(b"{}"), [JSON, "Content-Encoding: gzip"], COMPRESSED),
    "br": ("200 OK", b"\x0b\x02\x80{}\x03", [JSON, "Content-Encoding: br"], COMPRESSED),
    "compressed page": ("200 OK", gzip.compress(page("x")), ["Content-Encoding: GZIP"], COMPRESSED),
}


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[WireServer]:
    """A server that gives one answer to every request."""
    status, body, headers, _ = ANSWERS[request.param]

    def script(wire: Wire) -> None:
        wire.answer(body, status, *(one.replace("{port}", str(made.port)) for one in headers))

    with WireServer(script) as made:
        yield made


def causes(url: str) -> Iterator[str]:
    """What preflight says, and ``doctor`` with a configuration and without."""
    choice = ServerChoice(url=url, named_by_user=True)
    plan = build_stage_execution_plan(document())
    with closing(BACKEND.make(choice)) as backend, pytest.raises(PreflightError) as refused:
        backend.preflight(plan)
    yield str(refused.value)
    for asked in (plan, None):
        try:
            yield from BACKEND.inspect(choice, asked).complaints
        except PreflightError as error:
            yield str(error)


@pytest.mark.parametrize(
    ("server", "name"), [(name, name) for name in ANSWERS], indirect=["server"]
)
def test_run_and_doctor_name_the_same_cause(server: WireServer, name: str) -> None:
    """With what to do; the API is not blamed."""
    expected = ANSWERS[name][3].replace("{url}", server.url).replace("{port}", str(server.port))
    (cause,) = set(causes(server.url))
    assert expected in cause
    assert expected.endswith(", and") or "--api, and is it ready" not in cause
    assert "secret" not in cause


@pytest.mark.parametrize(
    "server", ["login page", "ngrok", "redirect to https", "gzip"], indirect=True
)
def test_a_run_without_preflight_names_the_cause_too(server: WireServer, tmp_path: Path) -> None:
    """Its first request fails with it."""
    config = write_config(tmp_path, SMALL + "[server]\nretries = 0\nwait_s = 0\n")
    ran = stagewright("run", config, "--server", server.url, "--no-preflight", folder=tmp_path)
    assert ran.returncode == 1
    words = ("login page", "of ngrok", "use https://", "is compressed")
    assert any(word in ran.stderr.splitlines()[-1] for word in words)


@pytest.mark.parametrize(
    "server", ["login page", "redirect to https", "br", "a list"], indirect=True
)
def test_init_writes_nothing_without_the_server_s_names(server: WireServer, tmp_path: Path) -> None:
    """It names the cause instead, as ``doctor --list`` does."""
    for arguments in (["init"], ["doctor", "--list", "models"]):
        done = stagewright(*arguments, "--server", server.url, folder=tmp_path)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert re.search(rf"{server.url}(/sdapi/v1/progress|: no route)", line)
    assert not (tmp_path / "run.toml").exists()


@pytest.mark.parametrize("server", ["redirect to https"], indirect=True)
def test_doctor_with_json_has_the_cause(server: WireServer, tmp_path: Path) -> None:
    """Among what is wrong."""
    done = stagewright("doctor", "--server", server.url, "--json", folder=tmp_path)
    (wrong,) = json.loads(done.stdout)["wrong"]
    assert f"301: redirected to https; use https://127.0.0.1:{server.port}" in wrong
