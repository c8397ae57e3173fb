"""`doctor` as a user meets it: a process that looks at real servers."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from stagewright.adapters import open_controller
from stagewright.adapters.backends.registry import ServerChoice
from stagewright.adapters.backends.report import Verdict
from stagewright.adapters.backends.webui.kind import BACKEND
from stagewright.adapters.webui_server import EmbeddedServer

from .command_line import SMALL, stagewright, write_config
from .webui_names import Names
from .webui_server import ScriptedWebUI

EXAMPLES = Path(__file__).parent.parent / "examples"
API = "/sdapi/v1/"


def doctor(server: ScriptedWebUI, *arguments: str | Path, folder: Path, status: int = 0) -> str:
    """What doctor says of a server on standard output."""
    done = stagewright("doctor", "--server", server.url, *arguments, folder=folder)
    assert done.returncode == status, done.stderr
    assert done.stderr == ""
    return done.stdout


def doctor_json(
    server: ScriptedWebUI, *arguments: str | Path, folder: Path, status: int = 0
) -> dict[str, Any]:
    """The one document that doctor prints."""
    told = doctor(server, *arguments, "--json", folder=folder, status=status)
    document: dict[str, Any] = json.loads(told)
    return document


def unused_url() -> str:
    """An address at which nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


def test_the_embedded_server_is_ready_for_the_examples(tmp_path: Path) -> None:
    """Each name of each example is found on ``serve-embedded``."""
    with EmbeddedServer() as server:
        choice = ServerChoice(url=server.url, named_by_user=True)
        for example in ("portrait.toml", "restyle.toml", "enlarge.toml"):
            plan = open_controller(tmp_path).validate(EXAMPLES / example)
            report = BACKEND.inspect(choice, plan)
            assert {one.verdict for one in report.checks} == {Verdict.FOUND}
            assert report.complaints == ()


def test_a_ready_server_is_described(tmp_path: Path) -> None:
    """Reachable, product, version, routes, each name, and "ready" at the end; no folder made.

    A list that is not offered is not checked, and a note says why.
    """
    with ScriptedWebUI(missing_routes=(API + "prompt-styles", API + "sd-models")) as server:
        lines = doctor(server, write_config(tmp_path), folder=tmp_path).splitlines()
    assert lines[:3] == [
        f"{server.url}: reachable",
        "product: AUTOMATIC1111",
        "version: v1.10.1",
    ]
    assert "  found        /sdapi/v1/txt2img" in lines
    assert "  missing      /sdapi/v1/prompt-styles" in lines
    assert '  not checked  checkpoint: txt2img.model = "base.safetensors"' in lines
    assert any(line.startswith("note: ") and "sd-models" in line for line in lines)
    assert '  found        sampler: txt2img.sampler = "Euler a"' in lines
    assert lines[-1] == "ready"
    assert not (tmp_path / "runs").exists()


def test_a_missing_name_is_shown_with_what_was_perhaps_meant(tmp_path: Path) -> None:
    """``--set`` counts; the last line says what is wrong, and the exit status is 2."""
    with ScriptedWebUI() as server:
        told = doctor(
            server,
            write_config(tmp_path),
            *("--set", "txt2img.model=bas.safetensors"),
            folder=tmp_path,
            status=2,
        )
    wrong = 'txt2img.model = "bas.safetensors"'
    assert f'  missing      checkpoint: {wrong}; did you mean "base.safetensors"' in told
    assert told.splitlines()[-1].startswith(f"not ready: {wrong} is not on the server")


def test_json_is_one_document_with_everything(tmp_path: Path) -> None:
    """Product, routes, verdicts and problems for programs; the exit status says the same."""
    config = write_config(tmp_path, SMALL + "[[adetailer.passes]]\nmodel = 'eyes.pt'\n")
    with ScriptedWebUI() as server:
        told = doctor_json(server, config, folder=tmp_path, status=2)
    assert (told["server"], told["reachable"], told["ready"]) == (server.url, True, False)
    assert (told["product"], told["version"]) == ("AUTOMATIC1111", "v1.10.1")
    assert told["routes"]["/sdapi/v1/txt2img"] is True
    verdicts = {check["key"]: check["verdict"] for check in told["checks"]}
    assert verdicts == {
        "txt2img.model": "found",
        "txt2img.sampler": "found",
        "adetailer.passes.0.model": "missing",
    }
    assert len(told["wrong"]) == 1


def test_without_a_configuration_the_lists_are_counted(tmp_path: Path) -> None:
    """How many of each kind there are, and where there is no such list."""
    with ScriptedWebUI(missing_routes=(API + "prompt-styles",)) as server:
        told = doctor_json(server, folder=tmp_path)
        text = doctor(server, folder=tmp_path)
    assert told["offers"] == {
        "checkpoints": 3,
        "vaes": 1,
        "samplers": 4,
        "schedulers": 3,
        "upscalers": 5,
        "latent upscale modes": 2,
        "styles": None,
        "detectors": 3,
        "loras": 2,
        "embeddings": 2,
    }
    assert "  checkpoints           3" in text
    assert "  styles                not offered" in text


def test_the_routes_of_a_hidden_schema_are_found_by_asking(tmp_path: Path) -> None:
    """Only what takes a POST stays open, and nothing that runs is interrupted to learn it."""
    with ScriptedWebUI(openapi=False, missing_routes=(API + "schedulers",)) as server:
        told = doctor_json(server, folder=tmp_path)
        assert {one.method for one in server.requests} == {"GET"}
        assert API + "interrupt" not in [one.path for one in server.requests]
    assert told["product"] is None
    routes = told["routes"]
    assert routes[API + "sd-models"] is True
    assert routes[API + "schedulers"] is False
    assert routes[API + "txt2img"] is None
    assert routes[API + "interrupt"] is None


def test_a_conflict_in_the_configuration_is_not_ready(tmp_path: Path) -> None:
    """A run would end in ERROR, whatever the server has."""
    config = write_config(tmp_path, 'model_name = "other.safetensors"\n' + SMALL)
    with ScriptedWebUI() as server:
        told = doctor(server, config, folder=tmp_path, status=2)
    assert "conflict: " in told.splitlines()[-1]


def test_an_unreachable_server_is_one_line_on_standard_error(tmp_path: Path) -> None:
    """Exit status 2; with --json standard output holds a document that says the same."""
    url = unused_url()
    done = stagewright("doctor", "--server", url, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert url in done.stderr
    done = stagewright("doctor", "--server", url, "--json", folder=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    told = json.loads(done.stdout)
    assert (told["server"], told["reachable"], told["ready"]) == (url, False, False)
    assert "cannot be reached" in told["wrong"][0]


def test_the_configuration_says_how_the_server_is_spoken_to(tmp_path: Path) -> None:
    """``[server]`` settings count, but for the address: that is ``--server``."""
    settings = f'[server]\nurl = "{unused_url()}"\nca_bundle = "{tmp_path / "nothing.pem"}"\n'
    config = write_config(tmp_path, SMALL + settings)
    with ScriptedWebUI() as server:
        assert doctor(server, config, folder=tmp_path).splitlines()[-1] == "ready"
        secure = server.url.replace("http:", "https:")
        done = stagewright("doctor", "--server", secure, config, folder=tmp_path)
    assert done.returncode == 2
    assert "nothing.pem" in done.stderr


def test_the_server_s_words_cannot_steer_the_terminal(tmp_path: Path) -> None:
    """Control characters of suggested names are shown as escapes."""
    names = Names(models=("base\x1b[31m.safetensors",))
    with ScriptedWebUI(names=names) as server:
        told = doctor(server, write_config(tmp_path), folder=tmp_path, status=2)
    assert "\x1b" not in told
    assert "base\\x1b[31m.safetensors" in told
