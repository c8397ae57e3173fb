"""Models of today on Forge and Forge Neo: what is sent, what is refused, what is detected."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from stagewright.adapters import open_controller
from stagewright.adapters.webui_server import EmbeddedServer
from stagewright.events import CallRequested, PipelineRunResult, iterate
from stagewright.statemachine.config.document import apply_overrides
from stagewright.statemachine.config.layers import merge_layers, read_layers
from stagewright.statemachine.errors import PreflightError

from .resuming import cut_before
from .support import TXT2IMG, document
from .webui_recorder import Recorder

EXAMPLES = Path(__file__).parent.parent / "examples"
BASE = TXT2IMG | {"model": "flux1-dev-fp8.safetensors", "cfg_scale": 1.0}
MODULES = ["clip_l.safetensors", "ae.safetensors", "t5xxl_fp8_e4m3fn.safetensors"]
MODELS = {
    "flux": "flux1-dev-fp8.safetensors",
    "z": "z_image_turbo_bf16.safetensors",
}
GENERATING = {
    "/sdapi/v1/txt2img": "StableDiffusionProcessingTxt2Img",
    "/sdapi/v1/img2img": "StableDiffusionProcessingImg2Img",
}


@pytest.fixture(scope="module", params=["forge", "neo"])
def product(request: pytest.FixtureRequest) -> str:
    """The server to behave as."""
    return str(request.param)


@pytest.fixture
def server(product: str) -> Iterator[Recorder]:
    """A server of that kind, which records what it is sent."""
    with EmbeddedServer(product=product) as upstream, Recorder(upstream.url) as recorder:
        yield recorder


@pytest.fixture
def neo() -> Iterator[Recorder]:
    """Forge Neo."""
    with EmbeddedServer(product="neo") as upstream, Recorder(upstream.url) as recorder:
        yield recorder


def ran(runs: Path, server: Recorder, config: Any, **run: Any) -> PipelineRunResult:
    """The result of a run on the server."""
    given = {**config, "run": run, "server": {"retries": 0}}
    return open_controller(runs, server=server.url).start(given).wait(60)


def with_passes(*passes: dict[str, Any], **txt2img: Any) -> dict[str, Any]:
    """A configuration with these passes of ADetailer, on a picture with a face."""
    table = BASE | {"width": 256, "height": 320} | txt2img
    return document("txt2img", txt2img=table, adetailer={"passes": list(passes)})


@pytest.mark.parametrize(
    "path", sorted((EXAMPLES / "models").glob("*.toml")), ids=lambda path: path.stem
)
def test_every_example_runs_and_resumes(tmp_path: Path, neo: Recorder, path: Path) -> None:
    """On Neo; a resume asks for the very same pictures."""
    given = apply_overrides(merge_layers(read_layers(path)), ["images=2"])
    given |= {"name": path.stem}
    if "input_image" in given:
        given["input_image"] = str(path.parent / given["input_image"])
    result = ran(tmp_path, neo, given)
    assert result.state == "COMPLETED", result.error
    folder = tmp_path / result.run_id
    digests = [one.sha256 for one in result.images]
    cut_before(folder, CallRequested, 1)
    again = open_controller(tmp_path, server=neo.url).resume(result.run_id).wait(60)
    assert [one.sha256 for one in again.images] == digests
    bodies = [one.request.body for one in neo.generating()]
    assert bodies[-1] | {"force_task_id": ""} == bodies[1] | {"force_task_id": ""}


def test_bodies_hold_what_the_schema_knows(tmp_path: Path, server: Recorder) -> None:
    """No field, option or key of a pass is sent that the server would drop."""
    hires = {"scale": 1.5, "denoise": 0.4, "modules": MODULES[:1], "distilled_cfg_scale": 2.0}
    config = with_passes(
        {"model": "face_yolov8n.pt"}, modules=MODULES, distilled_cfg_scale=3.0, hires=hires,
        subseed=3, subseed_strength=0.5, eta=0.5, s_noise=1.01,
    )  # fmt: skip
    assert ran(tmp_path, server, config).state == "COMPLETED"
    schema = requests.get(f"{server.url}/openapi.json", timeout=10).json()
    options = requests.get(f"{server.url}/sdapi/v1/options", timeout=10).json()
    for one in server.generating():
        name = GENERATING[one.request.path]
        known = schema["components"]["schemas"][name]["properties"]
        assert one.request.body.keys() <= known.keys()
        assert one.request.body["override_settings"].keys() <= options.keys()
    first = server.generating()[0].request.body
    assert first["override_settings"]["forge_additional_modules"] == MODULES
    assert (first["distilled_cfg_scale"], first["hr_distilled_cfg"], first["hr_cfg"]) == (3, 2, 1)
    assert first["hr_additional_modules"] == MODULES[:1]
    detailing = server.generating()[-1].request.body
    assert detailing["override_settings"]["forge_additional_modules"] == MODULES


def test_a_pass_is_translated_for_neo(tmp_path: Path, neo: Recorder) -> None:
    """One pair of guidance numbers, and modules of its own."""
    one = {
        "model": "face_yolov8n.pt", "controlnet_guidance_end": 0.5, "modules": MODULES[:1],
    }  # fmt: skip
    assert ran(tmp_path, neo, with_passes(one)).state == "COMPLETED"
    sent = neo.generating()[-1].request.body["alwayson_scripts"]["ADetailer"]["args"][2]
    assert sent["ad_controlnet_guidance_start_end"] == [0.0, 0.5]
    assert (sent["ad_use_modules"], sent["ad_modules"]) == (True, MODULES[:1])


@pytest.mark.parametrize("preflight", [True, False])
def test_a_key_that_adetailer_does_not_take_is_refused(
    tmp_path: Path, neo: Recorder, *, preflight: bool
) -> None:
    """The extension would drop the pass silently."""
    config = with_passes({"model": "face_yolov8n.pt", "clip_skip": 2})
    words = r"takes no clip_skip; remove it from adetailer\.passes\.0"
    if preflight:
        with pytest.raises(PreflightError, match=words):
            ran(tmp_path, neo, config)
        assert neo.generating() == []
    else:
        error = ran(tmp_path, neo, config, preflight=False).error
        assert error is not None
        assert "takes no clip_skip" in error.message


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"modules": [*MODULES[:2], "t5xxl_lost"]}, "modules .*t5xxl_lost were requested"),
        ({"model": "lost.safetensors"}, "model lost.safetensors was requested"),
        ({"sampler": "Lost"}, "sampler Lost was requested"),
        ({"scheduler": "Lost"}, "scheduler Lost was requested"),
    ],
)
def test_what_neo_drops_silently_is_detected(
    tmp_path: Path, neo: Recorder, table: dict[str, Any], words: str
) -> None:
    """Without preflight the answer shows it; no image is kept."""
    result = ran(tmp_path, neo, document(txt2img=BASE | table), preflight=False)
    assert result.error is not None
    assert result.error.kind == "SettingsNotUsedError"
    assert re.search(words, result.error.message)
    assert result.images == ()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"model": "flux", "shift": 9.0}, r"shift 9\.0 .* used it as its Distilled CFG Scale"),
        ({"model": "z", "distilled_cfg_scale": 3.5}, "distilled_cfg_scale 3.5 .* as its Shift"),
    ],
)
def test_a_scale_that_the_model_takes_for_the_other_is_an_error(
    tmp_path: Path, neo: Recorder, table: dict[str, Any], words: str
) -> None:
    """The server takes one field for both."""
    config = document(txt2img=BASE | table | {"model": MODELS[table["model"]]})
    error = ran(tmp_path, neo, config).error
    assert error is not None
    assert re.search(words, error.message)


def test_neo_applies_no_refiner_beside_hires(tmp_path: Path, neo: Recorder) -> None:
    """It has no option for the pass, and would fail; without hires the refiner is used."""
    refiner = {"model": MODELS["z"], "switch_at": 0.8}
    hires = {"scale": 1.5, "denoise": 0.4}
    config = document(txt2img=BASE | {"refiner": refiner, "hires": hires})
    with pytest.raises(PreflightError, match=r"txt2img\.refiner: the server applies none beside"):
        ran(tmp_path, neo, config)
    config = document(txt2img=BASE | {"refiner": refiner})
    assert ran(tmp_path, neo, config).state == "COMPLETED"


def test_a_vae_of_a_pass_is_refused_on_forge(tmp_path: Path, server: Recorder) -> None:
    """Forge loads modules, and would ignore it."""
    config = with_passes({"model": "face_yolov8n.pt", "vae": "ae.safetensors"})
    with pytest.raises(PreflightError, match=r"takes no vae; remove it from adetailer\.passes\.0"):
        ran(tmp_path, server, config)


def test_a_plain_webui_takes_no_modules(tmp_path: Path) -> None:
    """It would ignore them, so the message names the key to use."""
    with EmbeddedServer() as upstream, Recorder(upstream.url) as recorder:
        config = document(txt2img=BASE | {"modules": MODULES})
        with pytest.raises(PreflightError, match=r"only Forge servers take modules.*txt2img\.vae"):
            ran(tmp_path, recorder, config)
        config = document(txt2img=BASE | {"distilled_cfg_scale": 3.5})
        with pytest.raises(PreflightError, match="takes no distilled_cfg_scale"):
            ran(tmp_path, recorder, config)
        assert recorder.generating() == []


def test_digests_do_not_depend_on_the_server(tmp_path: Path, server: Recorder) -> None:
    """A request is the same in process and on any server."""
    config = document(txt2img=BASE | {"modules": MODULES, "distilled_cfg_scale": 3.0}, images=2)
    there = ran(tmp_path / "there", server, config)
    here = open_controller(tmp_path / "here").start(config).wait(30)

    def digests(result: PipelineRunResult, runs: Path) -> list[str]:
        events = iterate(runs / result.run_id)
        return [one.request_sha256 for one in events if isinstance(one, CallRequested)]

    assert digests(there, tmp_path / "there") == digests(here, tmp_path / "here")
