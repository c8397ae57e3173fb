"""Whole runs on servers of other kinds: Forge, SD.Next, without UI, closed, with lost images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters import open_controller
from stagewright.events import (
    CallCompleted,
    CallFailed,
    CallRequested,
    PipelineRunResult,
    RunOpened,
    RunState,
)

from . import webui_faults as faults
from .command_line import SMALL, stagewright, write_config
from .resuming import only
from .support import document
from .webui_names import Received
from .webui_server import ScriptedWebUI

STAGES = ("txt2img", "img2img", "upscale", "adetailer")
STAGE_IDS = ("00-txt2img", "01-img2img", "02-upscale", "03-adetailer")
ENDPOINTS = ("txt2img", "img2img", "extra-single-image", "adetailer")
IMAGES = 2
QUICK = {"retries": 1, "backoff_s": 0.01, "wait_s": 0, "stall_timeout_s": 1.0}
SCHEMAS = {
    "/sdapi/v1/txt2img": "StableDiffusionProcessingTxt2Img",
    "/sdapi/v1/img2img": "StableDiffusionProcessingImg2Img",
    "/sdapi/v1/extra-single-image": "ExtrasSingleImageRequest",
}


def configured(*stages: str, **top: Any) -> dict[str, Any]:
    """A run of two small images through these stages, with refiner, hires and a VAE."""
    config = document(*stages, **{"images": IMAGES, "server": QUICK, **top})
    config["txt2img"] |= {
        "vae": "vae.safetensors",
        "refiner": {"model": "refiner.safetensors", "switch_at": 0.8},
        "hires": {"upscaler": "Latent", "scale": 1.5, "steps": 2, "denoise": 0.4},
    }
    return config


def run(folder: Path, server: ScriptedWebUI, config: dict[str, Any]) -> PipelineRunResult:
    """Run it to its end, one request at a time."""
    result = open_controller(folder / "runs", server.url).start(config).wait(60)
    assert server.queue.longest <= 1
    return result


def completed(result: PipelineRunResult, *stage_ids: str) -> None:
    """See that each image went through all of these stages at the first attempt."""
    assert (result.state, result.outcome) == (RunState.COMPLETED, "completed"), result.error
    calls = [(one.stage_id, one.image_index) for one in only(result.events, CallRequested)]
    assert calls == [(stage, index) for stage in stage_ids for index in range(IMAGES)]
    assert not only(result.events, CallFailed)
    assert [image.image_index for image in result.images] == list(range(IMAGES))


def only_known_fields(server: ScriptedWebUI) -> None:
    """See that no request has a field that the server's own schema does not show."""
    schemas = server.description["components"]["schemas"]
    for one in server.generating():
        assert set(one.body) <= set(schemas[SCHEMAS[one.path]]["properties"])


def told(server: ScriptedWebUI) -> list[Received]:
    """The interrupts."""
    return [one for one in server.requests if one.path == "/sdapi/v1/interrupt"]


@pytest.mark.parametrize("openapi", [True, False])
def test_a_run_on_forge(tmp_path: Path, openapi: bool) -> None:
    """Its VAE is a module, hires is told which modules it takes; also where it hides its schema."""
    with ScriptedWebUI(fork="forge", openapi=openapi) as server:
        result = run(tmp_path, server, configured(*STAGES))
        completed(result, *STAGE_IDS)
        only_known_fields(server)
        for one in server.generating("txt2img"):
            assert (
                one.body["override_settings"].items()
                >= {
                    "sd_model_checkpoint": "base.safetensors",
                    "forge_additional_modules": ["vae.safetensors"],
                    "eta_noise_seed_delta": 0,
                }.items()
            )
            assert one.body["hr_additional_modules"] == ["Use same choices"]
            assert one.body["hr_checkpoint_name"] == "refiner.safetensors"
        for one in server.generating("img2img"):
            assert "hr_additional_modules" not in one.body
    (opening,) = only(result.events, RunOpened)
    backend = opening.backend
    assert (backend.kind, backend.url, backend.product) == ("webui", server.url, "Forge")


def test_the_words_of_forge_are_told(tmp_path: Path) -> None:
    """It reports an exception as ``{"detail": ...}``, which the run's error repeats."""
    config = configured("txt2img", run={"preflight": False})
    config["txt2img"]["hires"]["upscaler"] = "nowhere"
    with ScriptedWebUI(fork="forge") as server:
        result = run(tmp_path, server, config)
    assert result.state is RunState.ERROR
    assert result.error is not None
    assert result.error.kind == "RequestNotUnderstoodError"
    assert "500: could not find upscaler named nowhere" in result.error.message


def test_a_run_on_sd_next(tmp_path: Path) -> None:
    """The refiner is an option, hires names no model, and no scheduler is sent."""
    with ScriptedWebUI(fork="sdnext") as server:
        result = run(tmp_path, server, configured(*STAGES[:3]))
        completed(result, *STAGE_IDS[:3])
        only_known_fields(server)
        for one in server.generating("txt2img"):
            assert (
                one.body["override_settings"].items()
                >= {
                    "sd_model_checkpoint": "base.safetensors",
                    "sd_vae": "vae.safetensors",
                    "sd_model_refiner": "refiner.safetensors",
                }.items()
            )
            assert one.body["enable_hr"] is True
        for one in server.generating("img2img"):
            assert "sd_model_refiner" not in one.body["override_settings"]
    (opening,) = only(result.events, RunOpened)
    assert (opening.backend.product, opening.backend.version) == ("SD.Next", None)


def test_adetailer_on_sd_next_refuses_the_run(tmp_path: Path) -> None:
    """Exit 2, one line, no run folder, and nothing is generated before it."""
    config = write_config(tmp_path, SMALL + '[[adetailer.passes]]\nmodel = "face_yolov8n.pt"\n')
    with ScriptedWebUI(fork="sdnext") as server:
        done = stagewright("run", config, "--server", server.url, folder=tmp_path)
        assert not server.generating()
    assert done.returncode == 2
    assert "SD.Next has no ADetailer" in done.stderr
    assert done.stderr.count("stagewright: ") == 1
    assert not (tmp_path / "runs").exists()


def cancelled(folder: Path, server: ScriptedWebUI, **settings: Any) -> PipelineRunResult:
    """A run that is cancelled while its second image is made, and what becomes of it."""
    server.on(1, faults.STALLS)
    controller = open_controller(folder / "runs", server.url)
    config = configured("txt2img", server={**QUICK, "stall_timeout_s": 5.0, **settings})
    handle = controller.start(config)
    server.until(lambda: len(server.generating()) == 2)
    server.until_running(step=1)
    controller.cancel(handle.run_id)
    result = handle.wait(60)
    assert result.state is RunState.CANCELLED
    assert [image.image_index for image in result.images] == [0]
    return result


@pytest.mark.parametrize(
    "server", [{"fork": "sdnext"}, {"fork": "forge"}, {"ui": False}, {"openapi": False}]
)
def test_every_kind_of_server_is_interrupted_by_a_cancel(
    tmp_path: Path, server: dict[str, Any]
) -> None:
    """SD.Next answers 204 and no body; without UI there is no task to be asked for."""
    with ScriptedWebUI(**server) as made:
        result = cancelled(tmp_path, made)
        assert made.interrupts(foreign=False) >= 1
        made.until(lambda: not made.queue.line)
    (failed,) = only(result.events, CallFailed)
    assert failed.error.kind == "GenerationInterrupted"


def test_a_run_on_a_server_without_ui(tmp_path: Path) -> None:
    """No ``/internal`` route is asked for."""
    with ScriptedWebUI(ui=False) as server:
        result = run(tmp_path, server, configured(*STAGES))
        internal = [one.path for one in server.requests if one.path.startswith("/internal")]
    completed(result, *STAGE_IDS)
    assert internal == []


def test_without_ui_a_lost_answer_is_waited_for_before_it_is_asked_for_again(
    tmp_path: Path,
) -> None:
    """No task tells of it, so that the server's rest does; never two requests in line."""
    with ScriptedWebUI(ui=False) as server:
        server.on(1, faults.LosesAnswer(0.3), stage="txt2img")
        result = run(tmp_path, server, configured("txt2img"))
        assert len(server.generating()) == IMAGES + 1
    assert result.state is RunState.COMPLETED
    (failed,) = only(result.events, CallFailed)
    assert (failed.error.kind, failed.will_retry) == ("AnswerLostError", True)


def test_without_ui_nothing_is_interrupted_on_a_shared_server(tmp_path: Path) -> None:
    """Whose job it is cannot be told there, so that it is left to finish by itself."""
    with ScriptedWebUI(ui=False) as server:
        result = cancelled(tmp_path, server, shared=True)
        assert told(server) == []
    (failed,) = only(result.events, CallFailed)
    assert failed.error.kind == "GenerationCancelled"


def test_a_run_on_a_server_that_hides_its_schema(tmp_path: Path) -> None:
    """What it is cannot be told; every field is sent, and every stage completes."""
    with ScriptedWebUI(openapi=False) as server:
        result = run(tmp_path, server, configured(*STAGES))
        completed(result, *STAGE_IDS)
        assert server.generating("txt2img")[0].body["refiner_checkpoint"] == "refiner.safetensors"
        assert "hr_additional_modules" not in server.generating("txt2img")[0].body
    (opening,) = only(result.events, RunOpened)
    assert (opening.backend.product, opening.backend.version) == (None, None)


# --- One image of many fails for good

CONTINUE: dict[str, Any] = {"on_image_error": "continue"}


def finished(result: PipelineRunResult) -> dict[int, str]:
    """The furthest stage of each image."""
    return {image.image_index: image.stage_id for image in result.images}


def test_with_continue_the_command_says_what_is_missing(tmp_path: Path) -> None:
    """Exit 1, one line, and a result that names stage, index and error."""
    text = SMALL.replace("images = 2", "images = 3") + '[run]\non_image_error = "continue"\n'
    config = write_config(tmp_path, text)
    with ScriptedWebUI() as server:
        server.on(1, faults.UNPROCESSABLE)
        done = stagewright("run", config, "--json", "--server", server.url, folder=tmp_path)
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert (result["state"], result["outcome"]) == ("ERROR", "partial")
    (missing,) = result["missing"]
    assert (missing["stage_id"], missing["image_index"]) == ("00-txt2img", 1)
    assert missing["error"]["kind"] == "RequestRefusedError"
    assert "body.steps: value is not a valid integer" in missing["error"]["message"]
    assert [image["image_index"] for image in result["images"]] == [0, 2]
    assert "1 of 3 images are missing: 2 (at 00-txt2img)" in done.stderr.splitlines()[-1]


def test_with_continue_a_lost_batch_is_missing_whole(tmp_path: Path) -> None:
    """Both images of the request that failed, and no others."""
    config = configured("txt2img", "upscale", images=5, run=CONTINUE)
    config["txt2img"]["batch_size"] = 2
    with ScriptedWebUI() as server:
        server.on(1, faults.UNPROCESSABLE)
        result = run(tmp_path, server, config)
    assert (result.state, result.outcome) == (RunState.ERROR, "partial")
    assert [(one.stage_id, one.image_index) for one in result.missing] == [
        ("00-txt2img", 2), ("00-txt2img", 3),
    ]  # fmt: skip
    assert finished(result) == dict.fromkeys((0, 1, 4), "01-upscale")


def test_with_continue_a_run_that_finished_nothing_is_an_error(tmp_path: Path) -> None:
    """Every image is missing, the stages failed, and no later stage asks for anything."""
    with ScriptedWebUI() as server:
        server.on(range(100), faults.UNPROCESSABLE, stage="txt2img")
        result = run(tmp_path, server, configured("txt2img", "upscale", run=CONTINUE))
        assert len(server.generating()) == IMAGES
    assert result.state is RunState.ERROR
    assert [one.image_index for one in result.missing] == list(range(IMAGES))
    assert [stage.outcome for stage in result.stages] == ["failed", "failed"]
    assert not only(result.events, CallCompleted)
