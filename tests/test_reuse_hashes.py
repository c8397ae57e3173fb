"""Images made with other files are not used again, although their requests are equal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import UNSET
from stagewright.adapters import EmbeddedBackend, open_controller
from stagewright.adapters.bootstrap import ConfiguredBackend
from stagewright.events import CallCompleted, RunOpened
from stagewright.statemachine.config.schema import Reuse
from stagewright.statemachine.ports import UNKNOWN_FILES, file_hashes_of
from stagewright.statemachine.stages import (
    AdetailerConfig,
    AdetailerPass,
    HiresConfig,
    StageConfig,
    Txt2ImgConfig,
    UpscaleConfig,
)

from .later_runs import hashes_now, later_run, made
from .resuming import small
from .support import ScriptedBackend
from .webui_faults import alters_info
from .webui_names import Names
from .webui_server import ScriptedWebUI

BASE = sha256(b"base").hexdigest()[:10]
INK = sha256(b"ink").hexdigest()[:10]


@pytest.fixture
def server() -> Iterator[ScriptedWebUI]:
    """A server that has loaded each of its models before, and so knows their hashes."""
    with ScriptedWebUI() as webui:
        webui.painter.hashed.update(webui.painter.names.models)
        yield webui


def config(*stages: str, prompt: str = "a lighthouse", **txt2img: Any) -> dict[str, Any]:
    """A configuration of one image."""
    document = small(*(stages or ("txt2img",)), images=1)
    document["prompt"] = prompt
    document["txt2img"] |= txt2img
    return document


UPSCALER = "R-ESRGAN 4x+"
REFINER = {"model": "refiner.safetensors", "switch_at": 0.5}
HIRES = {"scale": 2.0, "denoise": 0.4, "steps": 2, "upscaler": "Latent", "model": "other"}


@pytest.mark.parametrize(
    ("settings", "key", "swapped"),
    [
        ({}, "model base", "base"),
        ({"prompt": "a <lora:ink:0.5>"}, "LoRA ink", "ink"),
        ({"styles": ["inked"]}, "style inked", "inked"),
        ({"refiner": REFINER}, "model refiner", "refiner"),
        ({"hires": HIRES}, "model other", "other"),
    ],
)
def test_a_file_swapped_under_its_name_is_noticed(
    server: ScriptedWebUI, tmp_path: Path, settings: dict[str, Any], key: str, swapped: str
) -> None:
    """The images are used again as long as the file is the same, and not after it was swapped."""
    first = made(tmp_path, server.url, config(**settings))
    same = later_run(tmp_path, server.url, first)
    assert same.found == {"txt2img": ()}
    assert len(same.reported["txt2img"][key] or "") == 10
    server.painter.contents[swapped] = "<lora:ink:0.5> another" if swapped == "inked" else "another"
    other = later_run(tmp_path, server.url, first)
    assert other.found == {"txt2img": None}
    assert other.reported["txt2img"][key] != same.reported["txt2img"][key]
    assert later_run(tmp_path, server.url, first, mode=Reuse.GROUP).found == {"txt2img": None}


@pytest.mark.parametrize(
    ("settings", "stages", "stage", "names"),
    [
        ({"vae": "vae.safetensors"}, (), "txt2img", ("vae vae",)),
        ({"prompt": "Badhand2, a lighthouse"}, (), "txt2img", ("embedding badhand",)),
        (
            {"hires": HIRES | {"upscaler": "R-ESRGAN 4x+"}},
            (),
            "txt2img",
            ("upscaler R-ESRGAN 4x+",),
        ),
        ({}, ("upscale",), "upscale", ("upscaler R-ESRGAN 4x+",)),
        ({}, ("adetailer",), "adetailer", ("detector face_yolov8n.pt",)),
    ],
)
def test_a_file_without_a_reported_hash_keeps_reuse_within_the_group(
    server: ScriptedWebUI, tmp_path: Path, settings: dict[str, Any], stages: tuple[str, ...],
    stage: str, names: tuple[str, ...],
) -> None:  # fmt: skip
    """A swapped VAE, embedding, upscaler or detector cannot be noticed, so no other run is used."""
    document = config("txt2img", *stages, **settings)
    if "upscale" in document:
        document["upscale"]["upscaler"] = UPSCALER
    first = made(tmp_path, server.url, document)
    assert later_run(tmp_path, server.url, first).found[stage] is None
    near = later_run(tmp_path, server.url, first, mode=Reuse.GROUP).found[stage]
    assert near is not None
    assert set(names) <= set(near)


def test_modules_of_forge_are_not_checked(tmp_path: Path) -> None:
    """Neither those of the plan nor those that the server's options name."""
    with ScriptedWebUI(fork="forge") as server:
        first = made(tmp_path, server.url, config(modules=["vae.safetensors"]))
        assert later_run(tmp_path, server.url, first).found == {"txt2img": None}
        near = later_run(tmp_path, server.url, first, mode=Reuse.GROUP)
        assert near.found == {"txt2img": ("module vae",)}
        server.painter.set_options({"forge_additional_modules": ["vae.safetensors"]})
        first = made(tmp_path, server.url, config())
        assert later_run(tmp_path, server.url, first).found == {"txt2img": None}


def test_a_vae_named_like_the_model_counts_as_used(tmp_path: Path) -> None:
    """With VAE Automatic a server loads it by itself."""
    with ScriptedWebUI(names=Names(vaes=("base.vae.pt",))) as server:
        first = made(tmp_path, server.url, config())
        near = later_run(tmp_path, server.url, first, mode=Reuse.GROUP)
        assert near.found == {"txt2img": ("vae base",)}
        assert later_run(tmp_path, server.url, first).found == {"txt2img": None}


def test_a_vae_that_the_server_chose_itself_is_not_checked(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """As by its own preference for a model, which no list shows."""
    server.on(0, alters_info(lambda info: info.update(sd_vae_name="its own.vae.pt")))
    first = made(tmp_path, server.url, config())
    assert later_run(tmp_path, server.url, first).found == {"txt2img": None}
    near = later_run(tmp_path, server.url, first, mode=Reuse.GROUP)
    assert near.found == {"txt2img": ("vae its own",)}


def test_a_hash_of_eight_digits_is_none(server: ScriptedWebUI, tmp_path: Path) -> None:
    """Old releases hash a part of the file, and two files can have the same."""
    first = made(tmp_path, server.url, config())
    hashes = later_run(tmp_path, server.url, first).reported["txt2img"]
    assert hashes == {"model base": BASE}
    assert ConfiguredBackend(server.url).file_hashes.shown(
        Txt2ImgConfig(model="base"), {"sd_model_name": "base", "sd_model_hash": "12345678"}
    ) == {}  # fmt: skip


def test_the_server_looks_at_its_files_again_before_its_hashes_are_believed(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """A list does not see a file that was replaced while the server ran."""
    first = made(tmp_path, server.url, config(prompt="a <lora:ink:1>"))
    server.replaced = {"ink": "another"}
    assert later_run(tmp_path, server.url, first).found == {"txt2img": None}


def test_a_list_that_the_server_does_not_read_again_proves_nothing(tmp_path: Path) -> None:
    """A replaced file would go unnoticed: images of the group alone are used, as not checked."""
    with ScriptedWebUI(missing_routes=("/sdapi/v1/refresh-checkpoints",)) as server:
        server.painter.hashed.update(server.painter.names.models)
        first = made(tmp_path, server.url, config())
        assert later_run(tmp_path, server.url, first).found == {"txt2img": None}
        near = later_run(tmp_path, server.url, first, mode=Reuse.GROUP)
        assert near.found == {"txt2img": ("checkpoints, which the server did not read again",)}
        server.painter.contents["base"] = "another"
        other = later_run(tmp_path, server.url, first, mode=Reuse.GROUP)
        assert other.found == {"txt2img": None}


def test_the_hash_of_a_list_does_not_stand_for_one_that_a_cut_answer_lost(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """The file may have been replaced between the list and the answer."""

    def lengthen(info: dict[str, Any]) -> None:
        info["extra_generation_params"]["long"] = "x" * 1_100_000

    server.on(0, alters_info(lengthen))
    first = made(tmp_path, server.url, config(refiner=REFINER))
    (answer,) = (event for event in first.events if isinstance(event, CallCompleted))
    assert (answer.info["info_cut"], "extra_generation_params" in answer.info) == (True, False)
    assert later_run(tmp_path, server.url, first).found == {"txt2img": None}
    near = later_run(tmp_path, server.url, first, mode=Reuse.GROUP)
    assert near.found == {"txt2img": ("model refiner",)}


@pytest.mark.parametrize(
    ("reported", "found"),
    [("25.3.0", ("detector face_yolov8n.pt",)), ("26.0.0", None),
     (None, ("version of ADetailer", "detector face_yolov8n.pt"))],
)  # fmt: skip
def test_another_version_of_adetailer_makes_its_own_images(
    server: ScriptedWebUI, tmp_path: Path, reported: str | None, found: tuple[str, ...] | None
) -> None:
    """Its answers show the version; a server that does not report it now is not checked."""
    first = made(tmp_path, server.url, config("txt2img", "adetailer"))
    if reported is None:
        server.missing_routes = ("/adetailer/v1/version",)
    else:
        server.painter.detailer_version = reported
    near = later_run(tmp_path, server.url, first, mode=Reuse.GROUP)
    assert near.found == {"txt2img": (), "adetailer": found}


def test_a_swap_within_a_run_is_noticed_by_the_answers(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """From the first answer that shows another hash on, that one counts."""
    controller = open_controller(tmp_path, server.url)
    backend = controller.backend
    assert isinstance(backend, ConfiguredBackend)
    with server.hold():
        handle = controller.start(config())
        server.until_running(step=1)
        before = hashes_now(backend, Txt2ImgConfig(model="base"))
        server.painter.contents["base"] = "another"
    handle.wait(30)
    after = hashes_now(backend, Txt2ImgConfig(model="base"))
    assert before == {"model base": BASE}
    assert after == {"model base": sha256(b"another").hexdigest()[:10]}


@pytest.mark.parametrize(
    ("stage", "files"),
    [
        (Txt2ImgConfig(prompt="a <hypernet:old:1> (Badhand:1.2)"),
         {"hypernet old", "embedding badhand"}),
        (Txt2ImgConfig(negative_prompt="bad hand, inbadhand3"), {"embedding badhand"}),
        (Txt2ImgConfig(negative_prompt="badhands, bad hand"), set()),
        (Txt2ImgConfig(prompt="embedding:badhand"), {"embedding badhand"}),
        (Txt2ImgConfig(alwayson_scripts={"ControlNet": {"args": []}}), {"script ControlNet"}),
        (Txt2ImgConfig(override_settings={"sd_unet": "fast", "sd_lora": "ink"}),
         {"sd_unet fast", "LoRA ink"}),
        (Txt2ImgConfig(restore_faces=True), {"face restorer None"}),
        (Txt2ImgConfig(vae="None", hires=HiresConfig(upscaler="Lanczos", model="other")),
         {"model other"}),
        (AdetailerConfig(passes=(AdetailerPass(
            model="a.pt", checkpoint="other", vae="vae.safetensors", controlnet_model="tile"),)),
         {"detector a.pt", "model other", "vae vae", "ControlNet tile"}),
        (UpscaleConfig(upscaler="Lanczos", upscaler_2="b", gfpgan_visibility=0.5),
         {"upscaler b", "face restorer GFPGAN"}),
    ],
)  # fmt: skip
def test_every_file_that_a_stage_names_is_found(
    server: ScriptedWebUI, stage: StageConfig, files: set[str]
) -> None:
    """And nothing that is no file: names that every server knows, latent upscalers, other words."""
    if not isinstance(stage, UpscaleConfig):
        stage = msgspec.structs.replace(stage, model="base")
        files = {*files, "model base"}
    assert set(hashes_now(ConfiguredBackend(server.url), stage)) == files


def test_a_name_that_two_models_share_has_no_hash() -> None:
    """It is not known which of them the server takes."""
    models = ("one/base.safetensors", "two/base.safetensors", "three/base.ckpt")
    with ScriptedWebUI(names=Names(models=models)) as server:
        backend = ConfiguredBackend(server.url)
        assert hashes_now(backend, Txt2ImgConfig(model="base")) == {"model base": ""}
        found = hashes_now(backend, Txt2ImgConfig(model=models[0]))
        assert found == {"model one/base": BASE}


def test_an_answer_that_shows_one_name_with_two_hashes_shows_none(server: ScriptedWebUI) -> None:
    """As of a refiner in another folder that has the name of the model."""
    info = {
        "sd_model_name": "base", "sd_model_hash": BASE,
        "extra_generation_params": {"Refiner": "base [0123456789]", "Lora hashes": "ink: 12, x: y"},
    }  # fmt: skip
    backend = ConfiguredBackend(server.url)
    shown = backend.file_hashes.shown(Txt2ImgConfig(model="base"), info)
    assert shown == {"LoRA ink": "", "LoRA x": ""}


@pytest.mark.parametrize("asked", ["base", "base.safetensors", f"base.safetensors [{BASE}]", BASE])
def test_a_model_has_one_name_however_it_is_asked_for(server: ScriptedWebUI, asked: str) -> None:
    """By stem, file, title or hash."""
    backend = ConfiguredBackend(server.url)
    assert hashes_now(backend, Txt2ImgConfig(model=asked)) == {"model base": BASE}


def opened(events: Any) -> Mapping[str, str]:
    first = next(iter(events))
    assert isinstance(first, RunOpened)
    files = first.backend.files
    assert isinstance(files, dict)
    return files


def test_a_run_records_the_hashes_that_are_reported(server: ScriptedWebUI, tmp_path: Path) -> None:
    """Those of the files that its plan and the prompts of its images name."""
    document = config(vae="vae.safetensors", refiner=REFINER)
    del document["prompt"]
    document["prompts"] = ["a <lora:ink:1>", "a <lora:film grain:1>"]
    first = made(tmp_path, server.url, document)
    assert opened(first.events) == {
        "LoRA film grain": sha256(b"film grain").hexdigest()[:10],
        "LoRA ink": INK,
        "model base": BASE,
        "model refiner": sha256(b"refiner").hexdigest()[:10],
    }


def test_without_preflight_no_hash_is_recorded_and_reuse_reads_the_lists(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """The answers show the hash of the model."""
    document = config()
    document["run"] = {"preflight": False}
    first = made(tmp_path, server.url, document)
    opening = next(iter(first.events))
    assert isinstance(opening, RunOpened)
    assert opening.backend.files is UNSET
    assert later_run(tmp_path, server.url, first, preflight=False).reported == {
        "txt2img": {"model base": BASE}
    }


def test_a_server_that_is_gone_reports_nothing(server: ScriptedWebUI, tmp_path: Path) -> None:
    """Nothing that was made there before is trusted then."""
    backend = ConfiguredBackend(server.url, runs=tmp_path)
    server.refuse()
    assert hashes_now(backend, Txt2ImgConfig(model="base")) == {"everything": ""}
    server.listen()


def test_the_embedded_backend_uses_no_files(tmp_path: Path) -> None:
    """Its pictures depend on the request alone, and its log says so."""
    first = open_controller(tmp_path).start(config("txt2img", "upscale")).wait(30)
    backend = EmbeddedBackend()
    assert opened(first.events) == {}
    assert backend.description.options == {}
    assert file_hashes_of(backend).reported(UpscaleConfig(upscaler="Lanczos")) == {}
    assert file_hashes_of(ConfiguredBackend()).reported(Txt2ImgConfig(model="x")) == {}


def test_a_backend_that_says_nothing_of_its_files_is_not_checked() -> None:
    """It is one of somebody's own."""
    assert file_hashes_of(ScriptedBackend()) is UNKNOWN_FILES
    assert UNKNOWN_FILES.reported(Txt2ImgConfig()) == {"everything": ""}
