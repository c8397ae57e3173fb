"""Short passwords: answers are compared as they are, and what is shown holds no password."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from stagewright.adapters.backends.http import errors
from stagewright.adapters.backends.http.address import ServerAddress
from stagewright.adapters.backends.http.client import HttpClient
from stagewright.adapters.backends.http.credentials import credentials_for
from stagewright.adapters.backends.http.error_mapping import error_of_exception, error_of_status
from stagewright.adapters.backends.webui.features import ADVICE
from stagewright.events import CallCompleted, CallFailed, replay

from . import webui_faults as faults
from .command_line import SMALL, stagewright, write_config
from .support import png
from .webui_names import Names
from .webui_server import ScriptedWebUI

PASSWORDS = ("sd", "e")
MODEL = "sd_xl_base_1.0.safetensors"
NAMES = Names(models=(MODEL, "sd_xl_refiner_1.0.safetensors"))
ADDRESS = ServerAddress.parse("http://127.0.0.1:7860")
PATH = "/sdapi/v1/txt2img"


def run(
    folder: Path, server: ScriptedWebUI, *options: str, model: str = MODEL
) -> tuple[int, str, Path | None]:
    """One image on the command line: exit status, standard error and the run's folder."""
    assert server.auth is not None
    env = {**os.environ, "STAGEWRIGHT_AUTH": ":".join(server.auth)}
    config = write_config(folder, SMALL.replace("base.safetensors", model))
    sets = ("--set", "images=1", "--set", "server.retries=0")
    command = ("--server", server.url, *sets, *options)
    done = stagewright("run", config, *command, folder=folder, env=env)
    return done.returncode, done.stderr, next(folder.glob("runs/*/events.jsonl"), None)


def texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from texts(part)


def failure(log: Path | None) -> CallFailed:
    """The failed call of a run."""
    assert log is not None
    (failed,) = [one for one in replay(log.parent).events if isinstance(one, CallFailed)]
    return failed


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_model_that_the_server_did_not_use_is_noticed(tmp_path: Path, password: str) -> None:
    """The password may be a part of the answer's key ``sd_model_name``."""
    with ScriptedWebUI(auth=("x", password), names=NAMES) as server:
        status, told, log = run(tmp_path, server, "--no-preflight", model="missing.safetensors")
    assert (status, failure(log).error.kind) == (1, "SettingsNotUsedError"), told


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_model_whose_name_holds_the_password_is_the_model_asked_for(
    tmp_path: Path, password: str
) -> None:
    """With and without preflight the run completes."""
    with ScriptedWebUI(auth=("sd", password), names=NAMES) as server:
        for options in ((), ("--no-preflight",)):
            status, told, _log = run(tmp_path, server, *options)
            assert status == 0, told


@pytest.mark.parametrize("password", PASSWORDS)
def test_the_recorded_info_has_every_key_and_no_text_with_the_password(
    tmp_path: Path, password: str
) -> None:
    """Keys and numbers are what a reader looks for; texts are the server's own."""
    with ScriptedWebUI(auth=("x", password), names=NAMES) as server:
        server.on(0, faults.alters_info(lambda info: info.update(infotexts=[f"<{password}>"])))
        status, told, log = run(tmp_path, server)
        assert status == 0, told
    assert log is not None
    (made,) = [one for one in replay(log.parent).events if isinstance(one, CallCompleted)]
    assert {"sd_model_name", "all_seeds", "extra_generation_params"} <= set(made.info)
    assert made.info["seed"] == 42
    assert made.info["infotexts"] == ["<***>"]
    assert not [one for one in texts(made.info) if password in one]


def test_the_html_of_an_upscale_is_recorded_without_the_credentials(tmp_path: Path) -> None:
    """The password, and both together as they are sent."""
    (tmp_path / "input.png").write_bytes(png(1))
    upscale = 'input_image = "input.png"\n[upscale]\nupscaler = "Lanczos"\nfactor = 2.0\n'
    config = write_config(tmp_path, upscale)

    def repeats(exchange: faults.Exchange) -> None:
        document = {**exchange.generate(), "html_info": f"<p>e {exchange.authorization()}</p>"}
        exchange.send(200, faults.encoded(document), faults.JSON_TYPE)

    with ScriptedWebUI(auth=("x", "e")) as server:
        server.on(0, repeats)
        env = {**os.environ, "STAGEWRIGHT_AUTH": "x:e"}
        done = stagewright("run", config, "--server", server.url, folder=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
    (log,) = tmp_path.glob("runs/*/events.jsonl")
    (made,) = [one for one in replay(log.parent).events if isinstance(one, CallCompleted)]
    assert made.info == {"html_info": "<p>*** Basic *** ***</p>"}


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_difference_is_told_in_readable_words_without_the_password(
    tmp_path: Path, password: str
) -> None:
    """Our own words stay whole; only what the server says is changed."""
    with ScriptedWebUI(auth=("x", password), names=NAMES) as server:
        server.on(0, faults.alters_info(lambda info: info.update(sd_model_name=f"<{password}>")))
        _status, told, log = run(tmp_path, server)
    error = failure(log).error
    ignored = "the server ignored settings of the request"
    words = f"{ignored}: model {MODEL} was requested, but <***> was used"
    assert error.message == f"{server.url}{PATH}: {words}"
    assert words in told
    assert not [one for one in texts(json.loads(error.detail)) if password in one]


def test_every_server_value_in_a_difference_is_shown_without_the_password(tmp_path: Path) -> None:
    """Seeds, sampler, schedule and clip skip as well as models."""
    secret = "zq"

    def spoil(info: dict[str, Any]) -> None:
        told = {"Schedule type": f"{secret}3"}
        info.update(all_seeds=[f"{secret}1"], sampler_name=f"{secret}2", clip_skip=f"{secret}4")
        info["extra_generation_params"] = told

    with ScriptedWebUI(auth=("x", secret), names=NAMES) as server:
        server.on(0, faults.alters_info(spoil))
        sets = ("--set", "txt2img.scheduler=Karras", "--set", "txt2img.clip_skip=2")
        _status, told, log = run(tmp_path, server, *sets)
    message = failure(log).error.message
    assert all(f"***{place}" in message for place in range(1, 5))
    assert secret not in message + told


@pytest.mark.parametrize("password", ["error", "memory", "e"])
def test_the_kind_of_a_failure_does_not_depend_on_the_password(
    tmp_path: Path, password: str
) -> None:
    """Out of memory is recognised in the server's own words."""
    with ScriptedWebUI(auth=("x", password), names=NAMES) as server:
        server.on(0, faults.OUT_OF_MEMORY)
        _status, told, log = run(tmp_path, server)
    error = failure(log).error
    assert error.kind == "ServerOutOfMemoryError", told
    assert error.message.startswith(f"{server.url}{PATH}: 500: ")
    assert not [one for one in texts(json.loads(error.detail)) if password in one]


def client(password: str) -> HttpClient:
    """A client with this password that sends nothing."""
    environment = {"STAGEWRIGHT_AUTH": f"x:{password}"}
    credentials = credentials_for(ADDRESS, named_by_user=True, environment=environment)
    return HttpClient(ADDRESS, None, credentials, advice=ADVICE)


def test_a_missing_route_is_explained_whatever_the_password_is() -> None:
    """The advice comes for "Not Found", which may hold the password."""
    error = error_of_status(client("Not"), PATH, 404, '{"detail": "Not Found"}')
    assert "was it started with --api?" in str(error)


@pytest.mark.parametrize(
    ("cause", "password", "kind", "words"),
    [
        (TimeoutError("_ssl.c: The handshake operation timed out"), "hand", "unreachable", "***"),
        (urllib3.exceptions.SSLError("WRONG_VERSION_NUMBER"), "WRONG", "untrusted", "try http"),
    ],
)
def test_the_cause_of_a_lost_connection_does_not_depend_on_the_password(
    cause: Exception, password: str, kind: str, words: str
) -> None:
    """Libraries' words decide what is told, and are shown without the password."""
    kinds = {
        "unreachable": errors.ServerUnreachableError,
        "untrusted": errors.ServerNotTrustedError,
    }
    error = error_of_exception(client(password), PATH, cause, connected=False)
    assert type(error) is kinds[kind]
    assert words in str(error)
    assert password not in str(error)


@pytest.mark.parametrize("command", ["run", "doctor"])
def test_what_a_server_offers_is_shown_without_the_password(tmp_path: Path, command: str) -> None:
    """The nearest names, and the version that it tells of itself."""
    secret = "zq"
    names = Names(models=(f"base-{secret}.safetensors",))
    more = {"/internal/sysinfo": {"Version": f"v1.10.1-{secret}"}}
    with ScriptedWebUI(more=more, auth=("x", secret), names=names) as server:
        env = {**os.environ, "STAGEWRIGHT_AUTH": f"x:{secret}"}
        config = write_config(tmp_path, SMALL.replace("base.saf", "bose.saf"))
        done = stagewright(command, config, "--server", server.url, folder=tmp_path, env=env)
        assert done.returncode == 2
        told = done.stdout + done.stderr
        assert 'txt2img.model = "bose.safetensors" is not on the server' in told
        assert 'did you mean "base-***.safetensors"?' in told
        assert secret not in told
        assert "v1.10.1-***" in told or command == "run"
