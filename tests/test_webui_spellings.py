"""Names in another case, with other separators or without a suffix are those of the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters import open_controller
from stagewright.events import RunState

from .preflighting import API, HIRES, refusal, with_pass, with_txt2img
from .resuming import small
from .support import document
from .test_preflight_servers import without_fields
from .webui_names import MODULES, Names
from .webui_server import ScriptedWebUI

OLD = Names(samplers=("DPM++ 2M", "DPM++ 2M Karras", "Euler a", "DPM3 Karras"))
"""Names of a server before 1.9."""


def bodies(folder: Path, server: ScriptedWebUI, config: dict[str, Any]) -> list[dict[str, Any]]:
    """The generating requests of a run that completes."""
    result = open_controller(folder, server.url).start(config).wait(30)
    assert result.state is RunState.COMPLETED, result.error and result.error.message[:400]
    return [one.body for one in server.generating()]


def test_every_name_is_sent_as_the_server_spells_it(tmp_path: Path) -> None:
    """Models, VAEs, samplers, schedulers, upscalers and detectors; the answers agree with them."""
    names = Names(
        models=("sdxl/Base_One.safetensors", "Refiner.safetensors"), vaes=("Anime.vae.pt",)
    )
    config = small("txt2img", "upscale", "adetailer", images=1)
    config["txt2img"] |= {
        "model": "SDXL\\base one.safetensors",
        "vae": "anime",
        "sampler": "dpm++_2m",
        "scheduler": "KARRAS",
        "refiner": {"model": "refiner", "switch_at": 0.5},
        "hires": {**HIRES, "upscaler": "r-esrgan 4x+", "sampler": "ddim"},
    }
    config["upscale"]["upscaler"] = "r esrgan-4x+"
    config["adetailer"]["passes"] = [{"model": "Face-YOLOv8n.pt", "checkpoint": "REFINER"}]
    with ScriptedWebUI(names=names) as server:
        first, upscale, detail = bodies(tmp_path, server, config)
    assert first["override_settings"]["sd_model_checkpoint"] == "sdxl/Base_One.safetensors"
    assert first["override_settings"]["sd_vae"] == "Anime.vae.pt"
    assert (first["sampler_name"], first["scheduler"]) == ("DPM++ 2M", "Karras")
    assert first["refiner_checkpoint"] == "Refiner.safetensors"
    assert (first["hr_upscaler"], first["hr_sampler_name"]) == ("R-ESRGAN 4x+", "DDIM")
    assert upscale["upscaler_1"] == "R-ESRGAN 4x+"
    (one,) = (arg for arg in detail["alwayson_scripts"]["ADetailer"]["args"] if arg is not True)
    assert (one["ad_model"], one["ad_checkpoint"]) == ("face_yolov8n.pt", "Refiner.safetensors")


def test_forge_is_sent_the_file_of_a_vae_that_is_named_by_its_stem(tmp_path: Path) -> None:
    """As a module, which it lists with its suffixes; at the end it is put back."""
    config = small("txt2img", images=1)
    config["txt2img"]["vae"] = "ANIME"
    with ScriptedWebUI(fork="forge", names=Names(vaes=("anime.vae.pt",))) as server:
        (body,) = bodies(tmp_path, server, config)
        assert body["override_settings"][MODULES] == ["anime.vae.pt"]
        assert server.painter.options[MODULES] == []


@pytest.mark.parametrize(
    ("key", "name", "like"),
    [
        ("vae", "anime", ("anime.vae.pt", "anime.safetensors")),
        ("model", "my-Model", ("my_model.safetensors", "My Model.safetensors")),
    ],
)
def test_a_name_that_may_be_either_of_two_is_refused(
    key: str, name: str, like: tuple[str, str]
) -> None:
    """The message gives both."""
    with ScriptedWebUI(names=Names(**{f"{key}s": ("base.safetensors", *like)})) as server:
        words = refusal(server, with_txt2img(**{key: name}))
    assert all(f'"{one}"' in words for one in like)


def test_a_lora_is_refused_in_another_case() -> None:
    """The prompt is sent as it was written, and the server would skip it."""
    with ScriptedWebUI() as server:
        words = refusal(server, document("txt2img") | {"prompt": "<lora:Ink:1>"})
    assert 'no LoRA "Ink"; did you mean "ink"?' in words


@pytest.mark.parametrize(
    ("keys", "sent"),
    [
        ({"sampler": "dpm++ 2m", "scheduler": "karras"}, "DPM++ 2M Karras"),
        ({"sampler": "dpm3", "scheduler": "KARRAS"}, "DPM3 Karras"),
        ({"sampler": "DPM++_2M karras"}, "DPM++ 2M Karras"),
    ],
)
def test_an_old_server_is_sent_its_one_name_of_a_pair(
    tmp_path: Path, keys: dict[str, str], sent: str
) -> None:
    """In its own spelling, whatever the plan's."""
    config = small("txt2img", images=1)
    config["txt2img"] |= keys
    with ScriptedWebUI(names=OLD) as server:
        without_fields(server, "scheduler", "hr_scheduler")
        (body,) = bodies(tmp_path, server, config)
    assert body["sampler_name"] == sent


PAIR = {"sampler": "DPM++ 2M", "scheduler": "Karras"}


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (with_txt2img(hires={**HIRES, **PAIR}), "txt2img.hires.sampler"),
        (with_pass({"model": "face_yolov8n.pt", **PAIR}), "adetailer.passes.0.sampler"),
    ],
)
def test_the_one_name_of_a_pair_is_suggested_where_a_part_has_its_own(
    config: dict[str, Any], key: str
) -> None:
    """A hires pass and a pass of ADetailer have no scheduler on an old server."""
    with ScriptedWebUI(names=OLD) as server:
        without_fields(server, "scheduler", "hr_scheduler")
        words = refusal(server, config)
    assert f'{key} = "DPM++ 2M" is not on the server; did you mean "DPM++ 2M Karras"?' in words


def test_the_one_name_of_a_pair_is_suggested_where_the_schema_is_hidden() -> None:
    """The server may take no scheduler, and would ignore it silently."""
    with ScriptedWebUI(names=OLD, openapi=False, missing_routes=(API + "schedulers",)) as server:
        words = refusal(server, with_txt2img(**PAIR))
    assert 'txt2img.sampler = "DPM++ 2M" is not on the server; did you mean "DPM++ 2M K' in words
