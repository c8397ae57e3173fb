"""Names and models that a server does not use, and answers 200 all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from stagewright.adapters import open_controller
from stagewright.events import CallCompleted, RunState

from . import webui_faults as faults
from .command_line import stagewright
from .pictures import portrait
from .resuming import only, small
from .webui_server import ScriptedWebUI

HIRES = {"upscaler": "Latent", "scale": 2.0, "denoise": 0.4}


def failure(folder: Path, server: ScriptedWebUI, config: dict[str, Any]) -> str:
    """The error that a run without preflight ends in."""
    config["run"] = {"preflight": False}
    result = open_controller(folder, server.url).start(config).wait(30)
    assert result.error is not None
    return result.error.message


LORAS, EMBEDDINGS = "lora_add_hashes_to_infotext", "textual_inversion_add_hashes_to_infotext"
INK = {"prompt": "<lora:ink:1> <lora:film grain:1>"}
HAND = {"prompt": "a lighthouse", "negative_prompt": "(embedding:badhand:1.2)"}


@pytest.mark.parametrize(
    ("top", "txt2img", "broken", "option", "words"),
    [
        (INK, {}, "ink", LORAS, "LoRA ink was requested, but the server skipped it"),
        (INK, {"hires": HIRES}, "ink", LORAS, "LoRA ink was requested"),
        (
            {"prompt": "<lora:film grain:1>"},
            {"hires": {**HIRES, "prompt": "<lora:ink:1>"}},
            "ink",
            LORAS,
            "LoRA ink was requested",
        ),
        (HAND, {}, "badhand", EMBEDDINGS, "embedding badhand was requested, but the server skip"),
    ],
)
def test_a_lora_or_embedding_that_the_server_could_not_load_is_an_error(
    tmp_path: Path, top: dict[str, str], txt2img: dict[str, Any], broken: str, option: str,
    words: str,
) -> None:  # fmt: skip
    """Where its infotexts name those that it used; where they do not, it cannot be told."""
    config = small("txt2img", images=1) | top
    config["txt2img"] |= txt2img
    with ScriptedWebUI() as server:
        result = open_controller(tmp_path, server.url).start(config).wait(30)
        (call,) = only(result.events, CallCompleted)
        assert {"Lora hashes", "TI hashes"} & set(call.info["extra_generation_params"])
        server.painter.broken = (broken,)
        message = failure(tmp_path, server, config)
        assert words in message
        assert "film grain" not in message.partition("skipped it")[0]
        server.painter.options[option] = False
        result = open_controller(tmp_path, server.url).start(config).wait(30)
    assert result.state is RunState.COMPLETED


@pytest.mark.parametrize(
    ("table", "key", "value", "words"),
    [
        (None, "prompt", "<lora:inc:1>", 'no LoRA "inc" (txt2img.prompt)'),
        (None, "negative_prompt", "embedding:badhnd", 'no embedding "badhnd"'),
        ("txt2img", "hires", {**HIRES, "prompt": "<lora:inc:1>"}, "(txt2img.hires.prompt)"),
        ("txt2img", "styles", ["lost"], 'no LoRA "inc" (txt2img.styles: prompt)'),
        (
            "adetailer",
            "passes",
            [{"model": "face_yolov8n.pt", "prompt": "<lora:inc:1>"}],
            '"inc" (adetailer.passes.0.prompt), and would ignore it; did you mean "ink"?',
        ),
    ],
)
def test_a_lora_or_embedding_that_is_not_there_is_found_without_preflight(
    tmp_path: Path, table: str | None, key: str, value: Any, words: str
) -> None:
    """In every prompt, also in those of which no answer shows the LoRAs."""
    config = small("txt2img", *(["adetailer"] if table == "adetailer" else []), images=1)
    part = config if table is None else config[table]
    part[key] = value
    with ScriptedWebUI() as server:
        server.painter.options |= {LORAS: False, EMBEDDINGS: False}
        assert words in failure(tmp_path, server, config)


@pytest.mark.parametrize("hashes", ["film grain: 1", ""])
def test_a_lora_around_adetailer_is_checked_where_the_answer_shows_any(
    tmp_path: Path, hashes: str
) -> None:
    """The request around a pass has the prompt of the stage."""

    def skip_ink(info: dict[str, Any]) -> None:
        info["extra_generation_params"]["Lora hashes"] = hashes

    config = small("txt2img", "adetailer", images=1) | INK
    with ScriptedWebUI() as server:
        server.on(0, faults.alters_info(skip_ink), stage="adetailer")
        result = open_controller(tmp_path, server.url).start(config).wait(30)
    assert (result.error is not None) is bool(hashes)
    assert result.error is None or "LoRA ink was requested" in result.error.message


@pytest.mark.parametrize("restorer", ["gfpgan", "codeformer"])
@pytest.mark.parametrize("is_loaded", [True, False])
def test_a_face_restorer_that_changed_nothing_is_a_warning(
    tmp_path: Path, restorer: str, is_loaded: bool
) -> None:
    """It found no face or could not be loaded; the pixels are those of a plain resize."""
    picture = tmp_path / "portrait.png"
    portrait().save(picture)
    config = small("upscale", images=1, input_image=str(picture))
    config["upscale"] = {"upscaler": "Lanczos", "factor": 2.0, f"{restorer}_visibility": 1.0}
    with ScriptedWebUI() as server:
        server.painter.broken = () if is_loaded else (restorer,)
        result = open_controller(tmp_path / "runs", server.url).start(config).wait(30)
    assert result.state is RunState.COMPLETED
    (call,) = only(result.events, CallCompleted)
    assert call.info["changed"] is is_loaded
    shown = stagewright("replay", result.run_id, folder=tmp_path).stdout
    words = "1 image came back unchanged: no face was found, or the face restorer could not be load"
    assert (words in shown) is not is_loaded


@pytest.mark.parametrize(
    ("table", "key", "value", "words"),
    [
        ("txt2img", "scheduler", "Karas", "scheduler Karas was requested, but Automatic was used"),
        ("txt2img", "styles", ["nowhere"], 'no style "nowhere" (txt2img.styles)'),
        ("img2img", "styles", ["nowhere"], 'no style "nowhere" (img2img.styles)'),
        ("img2img", "styles", ["lost"], 'no LoRA "inc" (img2img.styles: prompt)'),
        ("adetailer", "passes", [{"model": "eyes.pt"}], 'no detector "eyes.pt"'),
    ],
)
def test_a_fallback_is_found_without_preflight(
    tmp_path: Path, table: str, key: str, value: Any, words: str
) -> None:
    """A name that the server replaces or ignores is an error at the first image."""
    config = small(*dict.fromkeys(("txt2img", table)), images=1)
    config[table] = {**config[table], key: value}
    with ScriptedWebUI() as server:
        assert words in failure(tmp_path, server, config)


def test_an_upscaler_that_could_not_be_loaded_is_an_error(tmp_path: Path) -> None:
    """The server answers with the pixels of a plain resize."""
    picture = tmp_path / "striped.png"
    Image.linear_gradient("L").resize((64, 64)).rotate(30).convert("RGB").save(picture)
    config = small("upscale", images=1, input_image=str(picture))
    with ScriptedWebUI() as server:
        config["upscale"]["upscaler"] = "R-ESRGAN 4x+"
        handle = open_controller(tmp_path / "runs", server.url).start(config)
        assert handle.wait(30).state is RunState.COMPLETED
        config["upscale"]["upscaler"] = "Missing 4x"
        message = failure(tmp_path / "runs", server, config)
    assert "upscaler Missing 4x was requested, but the image was only resized" in message


def test_an_upscaler_is_looked_at_again_after_a_failed_request(tmp_path: Path) -> None:
    """A server that was restarted may lack the model that it had for the first image."""
    (tmp_path / "in").mkdir()
    for turn in (30, 60):
        picture = Image.linear_gradient("L").resize((64, 64)).rotate(turn).convert("RGB")
        picture.save(tmp_path / "in" / f"{turn}.png")
    config = small("upscale", images=1, input_image=str(tmp_path / "in"))
    config["upscale"]["upscaler"] = "R-ESRGAN 4x+"
    with ScriptedWebUI() as server:

        def lose_the_model(exchange: faults.Exchange) -> None:
            server.painter.broken = ("R-ESRGAN 4x+",)
            faults.resets(exchange)

        server.on(1, lose_the_model)
        config["server"] = {"backoff_s": 0.01}
        message = failure(tmp_path / "runs", server, config)
    assert "upscaler R-ESRGAN 4x+ was requested, but the image was only resized" in message


def test_forge_reports_its_vae_as_a_module(tmp_path: Path) -> None:
    """A VAE that it dropped silently is missing there."""
    config = small("txt2img", images=1)
    config["txt2img"]["vae"] = "vae.safetensors"

    def drop(info: dict[str, Any]) -> None:
        info["infotexts"] = [text.replace("Module 1: vae, ", "") for text in info["infotexts"]]

    with ScriptedWebUI(fork="forge") as server:
        server.on(0, faults.alters_info(drop))
        message = failure(tmp_path, server, config)
    assert "vae vae.safetensors was requested, but no module was used" in message
