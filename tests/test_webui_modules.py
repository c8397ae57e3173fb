"""VAEs and text encoders of Forge: a run leaves those behind that were there before it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from stagewright.adapters import open_controller
from stagewright.adapters.backends.http.address import ServerAddress
from stagewright.adapters.backends.http.client import HttpClient
from stagewright.adapters.backends.registry import RunPreparation
from stagewright.adapters.backends.webui.options import PinnedOptions
from stagewright.adapters.backends.webui.payload import Payload
from stagewright.adapters.backends.webui.server import Server
from stagewright.events import RunState, replay

from . import webui_faults as faults
from .command_line import Start, stagewright, until
from .resuming import small
from .serving import Client, serving
from .webui_resuming import kill
from .webui_server import ScriptedWebUI

MODULES = "forge_additional_modules"
FLUX = {"model": "flux1-dev-fp8.safetensors", "cfg_scale": 1.0}
SET = ["t5xxl_fp8_e4m3fn", "clip_l.safetensors", "ae.safetensors"]
"""Neither in the order in which a server reports them, nor all by their file names."""
BEFORE = ["models/VAE/qwen_image_vae.safetensors"]


@pytest.fixture
def client() -> Iterator[Client]:
    """A client of a server that has loaded modules."""
    with serving(step_delay_s=0.01, product="neo") as client:
        client.post("options", {MODULES: BEFORE})
        yield client


def written(folder: Path, name: str, images: int, **txt2img: Any) -> Path:
    """A configuration file."""
    config = small("txt2img", images=images, name=name)
    config["txt2img"] |= {**FLUX, "steps": 8, **txt2img}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def pixels(runs: Path, name: str) -> list[bytes]:
    """The pixels of the only run of this name, which has completed."""
    (folder,) = (log.parent for log in runs.glob(f"*-{name}-*/events.jsonl"))
    result = replay(folder)
    assert result.state is RunState.COMPLETED, result.error
    return [Image.open(folder / one.path).convert("RGB").tobytes() for one in result.images]


def finished(folder: Path, name: str) -> int:
    """How many images a run has finished so far."""
    logs = (folder / "runs").glob(f"*-{name}-*/events.jsonl")
    return sum(log.read_text(encoding="utf-8").count('"CallCompleted"') for log in logs)


def killed(folder: Path, client: Client, start: Start, **txt2img: Any) -> None:
    """kill -9 of a run with other modules, which a server leaves as the run had set them."""
    config = written(folder, "killed", 40, **txt2img)
    process = start("run", config, "--server", client.url, folder=folder)
    until(lambda: finished(folder, "killed") > 1, "images of the run")
    kill(process)
    client.post("interrupt")
    until(lambda: not client.get("progress")["state"]["job"], "the end of the job")
    assert client.get("options")[MODULES] != BEFORE


@pytest.mark.parametrize("txt2img", [{"modules": SET}, {"vae": "None"}])
def test_the_next_run_puts_back_what_a_killed_one_left(
    tmp_path: Path, client: Client, start: Start, txt2img: dict[str, Any]
) -> None:
    """Before it reads the options that it pins for its own images."""
    killed(tmp_path, client, start, **txt2img)
    config = written(tmp_path, "next", 1)
    done = stagewright("run", config, "--server", client.url, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert client.get("options")[MODULES] == BEFORE


def test_a_resume_puts_back_what_the_killed_run_found(
    tmp_path: Path, client: Client, start: Start
) -> None:
    """And makes the rest with the modules of the plan."""
    killed(tmp_path, client, start, modules=SET)
    done = stagewright("resume", "last", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert client.get("options")[MODULES] == BEFORE
    assert stagewright("verify", "last", folder=tmp_path).returncode == 0


def test_no_module_is_a_choice(tmp_path: Path, client: Client) -> None:
    """An empty list takes those within the checkpoint; the pictures are those made in process."""
    hires = {"scale": 1.5, "denoise": 0.4, "modules": [], "cfg_scale": 1.0}
    path = written(tmp_path, "none", 2, modules=[], hires=hires)

    for place in ("there", "here"):
        controller = open_controller(tmp_path / place, client.url if place == "there" else None)
        result = controller.start(path).wait(30)
        assert result.state is RunState.COMPLETED, result.error
    assert pixels(tmp_path / "there", "none") == pixels(tmp_path / "here", "none")
    assert client.get("options")[MODULES] == BEFORE


@pytest.mark.parametrize(
    ("option", "before", "one"),
    [
        (MODULES, ["/models/VAE/ae.pt"], {"ad_use_modules": True, "ad_modules": SET}),
        ("CLIP_stop_at_last_layers", 3, {"ad_use_clip_skip": True, "ad_clip_skip": 2}),
    ],
)
def test_what_a_pass_of_adetailer_left_is_put_back(
    tmp_path: Path, option: str, before: Any, one: Mapping[str, Any]
) -> None:
    """A server that restores no options has those of the pass afterwards."""
    plan = open_controller(tmp_path).validate(small("txt2img"))
    args = {"args": [True, True, {"ad_model": "face_yolov8n.pt", **one}]}
    payload = Payload("/sdapi/v1/img2img", {"alwayson_scripts": {"ADetailer": args}})
    with ScriptedWebUI(fork="forge") as server:
        server.painter.options[option] = before
        server.refused_posts = 1
        options = PinnedOptions(Server(HttpClient(ServerAddress.parse(server.url))))
        options.pin(
            RunPreparation(plan=plan, recorded=None, preflight=False, earlier=lambda _url: ())
        )
        options.note_overrides(payload)
        server.painter.set_options({option: [*one.values()][-1]})
        options.restore()
        assert server.painter.options[option] == before


def test_a_run_does_not_take_the_modules_of_another_run_for_the_servers(tmp_path: Path) -> None:
    """Between two requests of the other, the server shows them as its own."""
    with ScriptedWebUI(fork="forge") as server:
        server.on(1, faults.server_error("RuntimeError", "the GPU fell off"))
        other = small("txt2img", images=2, server={"backoff_s": 60.0})
        other["txt2img"]["modules"] = ["vae.safetensors"]
        controller = open_controller(tmp_path, server.url)
        handle = controller.start(other)
        server.until(lambda: len(server.generating()) == 2 and not server.queue.line)
        assert server.painter.options[MODULES]
        left = server.painter.options[MODULES]
        for _ in range(2):  # Also after a run that has ended meanwhile.
            server.painter.options[MODULES] = left
            plain = open_controller(tmp_path, server.url).start(small("txt2img", images=1))
            assert plain.wait(30).state is RunState.COMPLETED
            assert server.generating()[-1].body["override_settings"][MODULES] == []
        controller.cancel(handle.run_id)
        assert handle.wait(30).state is RunState.CANCELLED
        assert server.painter.options[MODULES] == []
