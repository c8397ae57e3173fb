"""``doctor --list``: the names of one list of a server, and what it has loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stagewright.adapters.webui_server import EmbeddedServer

from .command_line import SMALL, stagewright, write_config
from .preflighting import inspected, refusing
from .test_doctor import doctor, doctor_json, unused_url
from .webui_names import Names
from .webui_server import ScriptedWebUI

NAMES = Names()
LISTED = {
    "models": NAMES.models,
    "vaes": NAMES.vaes,
    "samplers": NAMES.samplers,
    "schedulers": NAMES.schedulers,
    "upscalers": NAMES.upscalers,
    "detectors": NAMES.detectors,
    "loras": NAMES.loras,
}
LISTS = (*LISTED, "embeddings", "styles", "modules")


@pytest.mark.parametrize("listed", ["models", "loras"])
def test_a_list_has_one_name_a_line(tmp_path: Path, listed: str) -> None:
    """In the server's order, as a configuration writes them; what is loaded is marked."""
    with ScriptedWebUI() as server:
        lines = doctor(server, "--list", listed, folder=tmp_path).splitlines()
        told = doctor_json(server, "--list", listed, folder=tmp_path)
    assert [line.removesuffix("  (loaded)") for line in lines] == list(LISTED[listed])
    assert told["server"] == server.url
    assert (told["list"], told["names"]) == (listed, list(LISTED[listed]))
    assert told["loaded"] == (["base.safetensors"] if listed == "models" else [])


@pytest.mark.parametrize(
    ("fork", "listed", "options", "loaded"),
    [
        (
            "a1111",
            "checkpoints",
            {"sd_model_checkpoint": "other.safetensors"},
            ["other.safetensors"],
        ),
        (
            "a1111",
            "checkpoints",
            {"sd_model_checkpoint": "refiner.safetensors"},
            ["refiner.safetensors"],
        ),
        ("a1111", "checkpoints", {"sd_model_checkpoint": "gone.safetensors"}, []),
        ("a1111", "checkpoints", {"sd_model_checkpoint": None}, []),
        ("a1111", "vaes", {"sd_vae": "vae.safetensors"}, ["vae.safetensors"]),
        ("a1111", "vaes", {"sd_vae": "Automatic"}, []),
        (
            "forge",
            "modules",
            {"forge_additional_modules": ["/m/vae.safetensors"]},
            ["vae.safetensors"],
        ),
        (
            "forge",
            "vaes",
            {"forge_additional_modules": ["C:\\m\\vae.safetensors"]},
            ["vae.safetensors"],
        ),
        ("forge", "modules", {"forge_additional_modules": []}, []),
        ("forge", "modules", {"forge_additional_modules": None}, []),
        ("a1111", "samplers", {"sd_model_checkpoint": "Euler"}, []),
    ],
)
def test_what_is_loaded_is_known(
    fork: str, listed: str, options: dict[str, object], loaded: list[str]
) -> None:
    """The model by any of its names, the VAE, and the modules of Forge by their files."""
    with ScriptedWebUI(fork=fork) as server:
        server.painter.options.update(options)
        assert list(inspected(server, None).loaded.get(listed, ())) == loaded


@pytest.mark.parametrize("arguments", [["--list"], ["--list", "modles"], ["--list", "Models"]])
def test_without_a_known_list_all_are_named(tmp_path: Path, arguments: list[str]) -> None:
    """Before the server is asked anything."""
    for order in (arguments, [*arguments, "--json"]):
        done = stagewright("doctor", "--server", unused_url(), *order, folder=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.endswith(f"the lists are {', '.join(LISTS)}")
    help_text = stagewright("doctor", "--help", folder=tmp_path).stdout
    assert all(name in help_text for name in LISTS)


def test_a_list_that_the_server_does_not_have_is_said_to_be_missing(tmp_path: Path) -> None:
    """Exit status 2; an empty list is none of these."""
    with ScriptedWebUI(missing_routes=("/sdapi/v1/loras",)) as server:
        for listed in ("loras", "modules"):
            arguments = ("doctor", "--server", server.url, "--list", listed)
            done = stagewright(*arguments, folder=tmp_path)
            assert (done.returncode, done.stdout) == (2, "")
            assert (
                done.stderr == f"stagewright: {server.url}: the server does not list its {listed}\n"
            )
            told = json.loads(stagewright(*arguments, "--json", folder=tmp_path).stdout)
            assert told["names"] is None
    with ScriptedWebUI(names=Names(loras=())) as server:
        assert doctor_json(server, "--list", "loras", folder=tmp_path)["names"] == []


def test_the_server_may_be_that_of_a_configuration(tmp_path: Path) -> None:
    """Whose names are not checked then."""
    with EmbeddedServer() as server:
        config = write_config(tmp_path, f'{SMALL}\n[server]\nurl = "{server.url}"\n')
        done = stagewright("doctor", config, "--list", "detectors", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "face_yolov8n.pt" in done.stdout.splitlines()


def test_a_report_has_the_names_for_programs() -> None:
    """``ServerReport.names``, by list."""
    with ScriptedWebUI() as server:
        names = inspected(server, None).names
    listed = {**LISTED, "checkpoints": LISTED["models"], "latent upscale modes": NAMES.latent_modes}
    del listed["models"]
    assert {name: names[name] for name in listed} == listed


@pytest.mark.parametrize(
    ("path", "status", "command"),
    [
        ("/openapi.json", 401, "doctor"),
        ("/openapi.json", 403, "run --no-preflight"),
        ("/sdapi/v1/options", 401, "doctor --list"),
        ("/sdapi/v1/options", 403, "run"),
    ],
)
def test_a_server_that_hides_its_schema_or_options_alone_is_used(
    tmp_path: Path, status: int, command: str, path: str
) -> None:
    """As one without them; the lists and requests are answered."""
    name, _, option = command.partition(" ")
    config = write_config(tmp_path, SMALL)
    arguments = ["doctor", "--list", "models"] if option == "--list" else [name, config]
    with ScriptedWebUI() as server:
        server.odd = refusing(path, status)
        done = stagewright(
            *arguments,
            *("--server", server.url),
            *(["--no-preflight"] if option == "--no-preflight" else []),
            folder=tmp_path,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    if command == "doctor" and path == "/openapi.json":
        note = f"note: not checked: {server.url}/openapi.json: {status}: not for you"
        assert note in done.stdout
        assert "product: unknown" in done.stdout


def test_a_server_that_refuses_other_routes_is_not_ready(tmp_path: Path) -> None:
    """Credentials are missing or wrong, and the message says so."""
    with ScriptedWebUI() as server:
        server.odd = refusing("/sdapi/v1/sd-models", 403)
        done = stagewright(
            "run", write_config(tmp_path, SMALL), "--server", server.url, folder=tmp_path
        )
    assert done.returncode == 2
    assert "/sdapi/v1/sd-models: 403: not for you" in done.stderr
    assert "STAGEWRIGHT_AUTH" in done.stderr
