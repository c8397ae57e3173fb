"""Requests of foreign web pages, which ``serve-embedded`` refuses, and those that it takes."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from .command_line import stagewright
from .serving import SMALL, Client, serving

LOOPBACK = ["127.0.0.1", "127.9.9.9", "localhost", "LOCALHOST", "[::1]"]


def answer(client: Client, **headers: str) -> requests.Response:
    """The answer to a small txt2img with these headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"{client.url}/sdapi/v1/txt2img"
    return requests.post(url, json=SMALL, headers=named, timeout=10)


def assert_refused(found: requests.Response, status: int, words: str) -> None:
    """It has this status and says why as a WebUI does, in ``detail``."""
    assert found.status_code == status, found.text
    assert words in str(found.json()["detail"])


def test_a_server_on_loopback_has_the_names_of_loopback_alone(served: Client) -> None:
    """A name that points at this machine only for now is not believed (DNS rebinding)."""
    for name in LOOPBACK:  # whatever the port, which a tunnel may change
        assert answer(served, Host=f"{name}:9000").status_code == 200, name
    for name in ("evil.example", "localhost.evil.example", "192.168.1.5", "["):
        assert_refused(answer(served, Host=f"{name}:7860"), 403, "--allow-host")


def test_a_server_beyond_loopback_goes_by_addresses_and_the_name_of_its_machine() -> None:
    """No page can have an address as its name; other names are refused."""
    own = socket.gethostname()
    with serving(host="0.0.0.0") as client:
        client.url = f"http://127.0.0.1:{urlsplit(client.url).port}"
        for name in (*LOOPBACK, "192.168.1.5", "[fd00::5]", own, f"{own}.local"):
            assert answer(client, Host=f"{name}:7860").status_code == 200, name
        assert_refused(answer(client, Host="evil.example"), 403, "evil.example")


@pytest.mark.parametrize("heads", ["", "Host: localhost\r\nHost: localhost\r\n"])
def test_a_request_without_one_host_is_refused(served: Client, heads: str) -> None:
    """It is no HTTP/1.1."""
    at = urlsplit(served.url)
    with socket.create_connection((str(at.hostname), at.port or 0), timeout=10) as connection:
        connection.sendall(f"GET /sdapi/v1/progress HTTP/1.1\r\n{heads}\r\n".encode())
        assert connection.recv(2**16).startswith(b"HTTP/1.1 400 ")


def test_a_page_of_another_origin_is_refused(served: Client) -> None:
    """A browser says which page a request is from (cross-site request forgery)."""
    for origin in ("https://evil.example", "null", "http://localhost:1", "http://[", ""):
        assert_refused(answer(served, Origin=origin), 403, "--allow-host")
    for name in ("127.0.0.1", "localhost"):  # a page of the server's own host and port
        host = f"{name}:{urlsplit(served.url).port}"
        assert answer(served, Host=host, Origin=f"http://{host}").status_code == 200


def test_a_name_that_the_user_allows_is_a_host_and_an_origin() -> None:
    """There may be several; a page of such a name may have any port."""
    with serving(allowed_hosts=["gui.lan:7860", "Localhost."]) as client:
        assert answer(client, Host="GUI.lan:80").status_code == 200
        for origin in ("https://gui.lan", "http://localhost:5173"):
            assert answer(client, Origin=origin).status_code == 200
        assert_refused(answer(client, Host="evil.example"), 403, "evil.example")
        assert_refused(answer(client, Origin="http://evil.example"), 403, "evil.example")


def test_a_body_that_is_not_sent_as_json_is_refused(served: Client) -> None:
    """These are what a page may send anywhere without being asked first."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json"):
        assert_refused(answer(served, Content_Type=kind), 422, "application/json")
    for kind in ("application/json; charset=utf-8", "Application/JSON"):
        assert answer(served, Content_Type=kind).status_code == 200
    # An empty body may name a form, as ``curl -d ''`` does.
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    url = f"{served.url}/sdapi/v1/skip"
    assert requests.post(url, headers=form, timeout=10).status_code == 200


@pytest.mark.parametrize("name", ["http://gui.lan", "", ":7860", "[x"])
def test_an_allowed_host_that_is_no_name_is_wrong_usage(tmp_path: Path, name: str) -> None:
    """It could never fit a request: the command says so, and does not start."""
    done = stagewright("serve-embedded", "--port", "0", "--allow-host", name, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--allow-host" in done.stderr
