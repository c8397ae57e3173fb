"""Models asked for by hash, title or path, where no preflight has asked for the server's list."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters import open_controller
from stagewright.adapters.webui_server import EmbeddedServer
from stagewright.events import CallFailed, PipelineRunResult, RunState

from .support import document
from .webui_names import Names
from .webui_recorder import Recorder
from .webui_server import ScriptedWebUI

BASE, REFINER = "sd_xl_base_1.0.safetensors", "sd_xl_refiner_1.0.safetensors"
MODELS, OPENAPI, MODULES = "/sdapi/v1/sd-models", "/openapi.json", "/sdapi/v1/sd-modules"


def digest(name: str) -> str:
    """The digest that serve-embedded gives a model."""
    return sha256(name.encode()).hexdigest()


NAMES: dict[str, Callable[[str], str]] = {
    "hash": lambda name: digest(name)[:10],
    "sha256": digest,
    "title": lambda name: f"{name} [{digest(name)[:10]}]",
    "stem": lambda name: name.removesuffix(".safetensors"),
}


def ran(folder: Path, url: str, images: int = 1, **txt2img: Any) -> PipelineRunResult:
    """A run without preflight, with these keys of txt2img."""
    config = document("txt2img", images=images, run={"preflight": False}, server={"retries": 0})
    config["txt2img"] |= {"model": BASE, **txt2img}
    return open_controller(folder / "runs", url).start(config).wait(60)


def failures(result: PipelineRunResult) -> list[str]:
    """The messages of the calls that failed."""
    return [one.error.message for one in result.events if isinstance(one, CallFailed)]


@pytest.mark.parametrize("form", NAMES)
def test_a_model_is_the_one_asked_for_by_any_of_its_names(tmp_path: Path, form: str) -> None:
    """The answer names it by its stem."""
    with EmbeddedServer() as server:
        result = ran(tmp_path, server.url, model=NAMES[form](BASE))
    assert (failures(result), result.state) == ([], RunState.COMPLETED)


@pytest.mark.parametrize("form", ["hash", "title"])
def test_a_refiner_and_a_hires_model_are_those_asked_for_by_any_of_their_names(
    tmp_path: Path, form: str
) -> None:
    """The evidence of each pass names the model by its stem and hash."""
    name = NAMES[form]
    hires = {"scale": 2.0, "denoise": 0.5, "upscaler": "Latent", "model": name(BASE)}
    refiner = {"model": name(REFINER), "switch_at": 0.5}
    with EmbeddedServer() as server:
        result = ran(tmp_path, server.url, model=REFINER, hires=hires, refiner=refiner)
        assert (failures(result), result.state) == ([], RunState.COMPLETED)
        result = ran(tmp_path, server.url, refiner=refiner)
        assert (failures(result), result.state) == ([], RunState.COMPLETED)


def test_another_model_than_that_of_the_hash_is_refused(tmp_path: Path) -> None:
    """A hash that the server does not know leaves its current model at work."""
    with EmbeddedServer() as server:
        (message,) = failures(ran(tmp_path, server.url, model="0123456789"))
    assert "model 0123456789 was requested, but sd_xl_base_1.0 was used" in message


def test_the_list_of_models_is_asked_for_only_where_the_names_differ(tmp_path: Path) -> None:
    """Once in a run of several images, and never for a file's name."""
    with EmbeddedServer() as server, Recorder(server.url) as recorder:
        ran(tmp_path, recorder.url, images=3)
        assert not recorder.asked(MODELS)
        ran(tmp_path, recorder.url, images=3, model=digest(BASE)[:10])
        assert len(recorder.asked(MODELS)) == 1


def test_a_server_without_a_list_of_models_leaves_the_difference(tmp_path: Path) -> None:
    """Nothing tells whose hash it is."""
    with ScriptedWebUI(names=Names(models=(BASE,)), missing_routes=(MODELS,)) as server:
        (message,) = failures(ran(tmp_path, server.url, model="0123456789"))
    assert "model 0123456789 was requested, but sd_xl_base_1.0 was used" in message
