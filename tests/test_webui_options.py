"""A run pins the options of its server, and changes no picture of anybody else."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from stagewright.adapters import open_controller
from stagewright.events import CallCompleted, PipelineRunResult, RunOpened, RunResumed, RunState

from . import webui_faults as faults
from .resuming import only, small
from .webui_names import MODULES, Received
from .webui_resuming import configured, kill
from .webui_server import ScriptedWebUI

CLIP_SKIP = "CLIP_stop_at_last_layers"
pytestmark = pytest.mark.lowest


@pytest.fixture(params=["a1111", "forge"])
def server(request: pytest.FixtureRequest) -> Iterator[ScriptedWebUI]:
    """A fresh server, which restores nothing of what it has not saved."""
    with ScriptedWebUI(fork=request.param) as webui:
        yield webui


def run(folder: Path, server: ScriptedWebUI, **txt2img: Any) -> PipelineRunResult:
    """A run of two images that completes."""
    config = small("txt2img", images=2)
    config["txt2img"] |= txt2img
    result = open_controller(folder, server.url).start(config).wait(30)
    assert result.state is RunState.COMPLETED, result.error
    return result


def written(folder: Path, images: int, **txt2img: Any) -> Path:
    """A configuration file with these keys of txt2img."""
    config = configured(folder, "txt2img", images=images)
    document = json.loads(config.read_text(encoding="utf-8"))
    document["txt2img"] |= txt2img
    config.write_text(json.dumps(document), encoding="utf-8")
    return config


def pixels(folder: Path, result: PipelineRunResult) -> list[bytes]:
    """The pixels of a run's images."""
    return [
        Image.open(folder / result.run_id / one.path).convert("RGB").tobytes()
        for one in result.images
    ]


def post_options(server: ScriptedWebUI, **options: Any) -> None:
    """What a person does on the server's page."""
    data = json.dumps(options).encode()
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{server.url}/sdapi/v1/options", data, headers)
    with urllib.request.urlopen(asked, timeout=10) as answer:
        answer.read()


def test_a_run_with_a_vae_changes_no_later_run_and_no_option(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """The same plain run before and after it makes the same pictures."""
    options = dict(server.painter.options)
    before = run(tmp_path, server)
    other = run(tmp_path, server, vae="vae.safetensors", clip_skip=2)
    assert server.painter.options == options
    after = run(tmp_path, server)
    assert pixels(tmp_path, after) == pixels(tmp_path, before) != pixels(tmp_path, other)


def test_a_run_that_was_killed_changes_no_later_run(
    server: ScriptedWebUI, start: Any, tmp_path: Path
) -> None:
    """kill -9 of a run with a VAE, never resumed: the next plain run undoes what it left."""
    before = run(tmp_path / "runs", server)
    config = written(tmp_path, 3, vae="VAE", clip_skip=2)
    server.on(4, faults.Generates(stands_at=0))
    process = start("run", config, "--server", server.url, folder=tmp_path)
    server.until(lambda: len(server.generating()) == 5 and bool(server.queue.line))
    kill(process)
    server.queue.interrupt("interrupted")
    server.until(lambda: not server.queue.line)
    after = run(tmp_path / "runs", server)
    assert pixels(tmp_path / "runs", after) == pixels(tmp_path / "runs", before)


def test_options_changed_by_a_person_after_a_kill_are_left_alone(
    start: Any, tmp_path: Path
) -> None:
    """Modules of a dead run are undone only while they are as it had set them."""
    with ScriptedWebUI(fork="forge") as server:
        config = written(tmp_path, 2, vae="vae.safetensors")
        server.on(1, faults.Generates(stands_at=0))
        process = start("run", config, "--server", server.url, folder=tmp_path)
        server.until(lambda: len(server.generating()) == 2 and bool(server.queue.line))
        kill(process)
        server.queue.interrupt("interrupted")
        server.until(lambda: not server.queue.line)
        post_options(server, **{MODULES: ["other.safetensors"]})
        run(tmp_path / "runs", server)
        assert server.painter.options[MODULES] == ["/models/VAE/other.safetensors"]


def test_a_restart_with_other_options_changes_no_image_of_a_run_or_its_resume(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """The options were recorded when the run began, and every request carries them."""
    expected = pixels(tmp_path / "whole", run(tmp_path / "whole", server))

    def restart(exchange: faults.Exchange) -> None:
        exchange.refuse(0.05)
        server.painter.options |= {CLIP_SKIP: 3, "eta_noise_seed_delta": 31337}

    server.on(2, restart)
    server.on(4, faults.server_error("KeyError", "broken"))
    config = small("txt2img", images=2, server={"retries": 1, "backoff_s": 0.01})
    controller = open_controller(tmp_path / "runs", server.url)
    handle = controller.start(config)
    assert handle.wait(30).state is RunState.ERROR
    result = controller.resume(handle.run_id).wait(30)
    assert pixels(tmp_path / "runs", result) == expected
    (opened,), (resumed,) = only(result.events, RunOpened), only(result.events, RunResumed)
    assert resumed.backend.options == opened.backend.options
    assert server.painter.options["eta_noise_seed_delta"] == 31337


def test_a_person_who_posts_options_during_two_runs_loses_none(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """Two runs with other clip skips at once: at the end the options are the person's."""
    server.queue.steps_per_second = 200
    results: list[PipelineRunResult] = []

    def work(clip_skip: int) -> None:
        results.append(run(tmp_path, server, clip_skip=clip_skip, vae="vae.safetensors"))

    threads = [threading.Thread(target=work, args=(skip,)) for skip in (2, 3)]
    for thread in threads:
        thread.start()
    server.until(lambda: len(server.generating()) > 1)
    post_options(server, eta_noise_seed_delta=7)
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert server.painter.options["eta_noise_seed_delta"] == 7
    assert server.painter.options[CLIP_SKIP] == 1
    assert server.painter.options["sd_vae"] == "Automatic"
    assert server.painter.options.get(MODULES, []) == []


def test_a_change_between_reading_and_storing_the_options_is_kept(tmp_path: Path) -> None:
    """They are read again before they are stored, and the run uses the person's."""
    reads: list[Received] = []
    with ScriptedWebUI() as server:

        def change(one: Received) -> None:
            if (one.method, one.path) == ("GET", "/sdapi/v1/options"):
                reads.append(one)
                if len(reads) == 2:
                    server.painter.set_options({CLIP_SKIP: 3})

        server.odd = change
        result = run(tmp_path, server)
        assert server.painter.options[CLIP_SKIP] == 3
    (opened,) = only(result.events, RunOpened)
    assert isinstance(opened.backend.options, Mapping)
    assert opened.backend.options[CLIP_SKIP] == 3


@pytest.mark.parametrize(
    ("stages", "lists"), [(("txt2img",), 2), (("txt2img", "img2img", "upscale", "adetailer"), 6)]
)
def test_the_options_take_four_small_requests_at_the_start(
    server: ScriptedWebUI, tmp_path: Path, stages: tuple[str, ...], lists: int
) -> None:
    """Beside one progress, the schema, the lists of names, and one look before the run."""
    config = small(*stages, images=1)
    assert open_controller(tmp_path, server.url).start(config).wait(30).error is None
    paths = [one.path.rpartition("/")[2] for one in server.requests]
    before = paths[: paths.index("txt2img")]
    assert before[:2] == ["progress", "openapi.json"]
    assert before[2 + lists :] == ["progress", "options", "progress", "options", "options"]


def test_where_options_cannot_be_stored_the_run_restores_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The refusal is reported, and what lingered is put back as soon as it can be."""
    with ScriptedWebUI() as server:
        server.refused_posts = 1
        run(tmp_path, server, clip_skip=2)
        assert "does not store its options, so the run restores them at its end" in caplog.text
        assert server.painter.options[CLIP_SKIP] == 1


def test_a_stage_whose_images_differ_in_a_setting_fails(tmp_path: Path) -> None:
    """A VAE that nobody asked for, from the second image on, ends the run."""
    with ScriptedWebUI() as server:
        server.on(1, faults.alters_info(lambda info: info.update(sd_vae_name="vae.safetensors")))
        handle = open_controller(tmp_path, server.url).start(small("txt2img", images=2))
        result = handle.wait(30)
    assert result.error is not None
    assert "image 2 was made with vae vae.safetensors, image 1 of this stage" in (
        result.error.message
    )


@pytest.mark.parametrize("same_server", [True, False])
def test_a_resume_compares_with_the_images_of_earlier_epochs(
    tmp_path: Path, same_server: bool
) -> None:
    """A setting that differs from the first image ends it; another server may name it otherwise."""
    config = small("txt2img", images=2)
    with ScriptedWebUI() as server, ScriptedWebUI() as other:
        server.on(1, faults.server_error("KeyError", "broken"))
        handle = open_controller(tmp_path, server.url).start(config)
        assert handle.wait(30).state is RunState.ERROR
        second = server if same_server else other
        fault = faults.alters_info(lambda info: info.update(clip_skip=1, sd_model_hash="other"))
        second.on(range(3), fault)
        result = open_controller(tmp_path, second.url).resume(handle.run_id).wait(30)
    assert (result.error is not None) is same_server
    if result.error is not None:
        assert "image 2 was made with model hash other, image 1 of this stage with" in (
            result.error.message
        )


def test_a_server_without_options_is_used_as_before(tmp_path: Path) -> None:
    """Nothing is pinned or restored."""
    with ScriptedWebUI(missing_routes=("/sdapi/v1/options",)) as server:
        result = run(tmp_path, server, clip_skip=2)
        assert set(server.generating()[0].body["override_settings"]) == {
            "sd_model_checkpoint",
            CLIP_SKIP,
        }
    (opened,) = only(result.events, RunOpened)
    assert opened.backend.options == {}


@pytest.mark.parametrize(
    ("given", "sent", "in_the_evidence"),
    [(None, "first pass", True), ("both", "both passes", True), ("second", "second pass", False)],
)
def test_the_refiner_acts_in_the_pass_that_the_plan_names(
    tmp_path: Path, given: str | None, sent: str, in_the_evidence: bool
) -> None:
    """Beside a hires pass it acts in the first by default; the second has its model already."""
    refiner = {"model": "refiner", "switch_at": 0.8} | ({"pass": given} if given else {})
    hires = {"upscaler": "Latent", "scale": 2.0, "denoise": 0.4}
    with ScriptedWebUI() as server:
        result = run(tmp_path, server, refiner=refiner, hires=hires)
        for one in server.generating():
            assert one.body["override_settings"]["hires_fix_refiner_pass"] == sent
    assert result.plan["stages"][0]["config"]["refiner"]["pass"] == (given or "first")
    for call in only(result.events, CallCompleted):
        assert ("Refiner" in call.info["extra_generation_params"]) is in_the_evidence


def test_a_refiner_in_another_pass_is_an_error(tmp_path: Path) -> None:
    """The pass that the server reports is compared with the plan's."""

    def alter(info: dict[str, Any]) -> None:
        info["extra_generation_params"]["Hires refiner"] = "both passes"

    config = small("txt2img", images=1)
    config["txt2img"] |= {
        "refiner": {"model": "refiner", "switch_at": 0.8},
        "hires": {"upscaler": "Latent", "scale": 2.0, "denoise": 0.4},
    }
    with ScriptedWebUI() as server:
        server.on(0, faults.alters_info(alter))
        result = open_controller(tmp_path, server.url).start(config).wait(30)
    assert result.error is not None
    assert "refiner pass first pass was requested, but both passes was used" in result.error.message


@pytest.mark.parametrize(("given", "sent"), [({}, 7.0), ({"cfg_scale": 4.5}, 4.5)])
def test_forge_is_sent_the_cfg_scale_of_the_hires_pass(
    tmp_path: Path, given: dict[str, float], sent: float
) -> None:
    """The stage's own unless hires has one; Forge would use 1."""
    hires = {"upscaler": "Latent", "scale": 2.0, "denoise": 0.4} | given
    with ScriptedWebUI(fork="forge") as server:
        result = run(tmp_path, server, cfg_scale=7.0, hires=hires)
    for call in only(result.events, CallCompleted):
        assert call.info["extra_generation_params"]["Hires CFG Scale"] == sent


def test_a_resume_without_recorded_options_sends_what_the_run_sent(tmp_path: Path) -> None:
    """A server that shows no options is no log of an older release, which sent no hires CFG."""
    config = small("txt2img", images=2, server={"retries": 0})
    config["txt2img"]["hires"] = {"upscaler": "Latent", "scale": 2.0, "denoise": 0.4}
    with ScriptedWebUI(fork="forge", missing_routes=("/sdapi/v1/options",)) as server:
        server.on(1, faults.server_error("KeyError", "broken"))
        controller = open_controller(tmp_path, server.url)
        handle = controller.start(config)
        assert handle.wait(30).state is RunState.ERROR
        assert controller.resume(handle.run_id).wait(30).state is RunState.COMPLETED
        sent = [one.body["hr_cfg"] for one in server.generating()]
    assert sent == [config["txt2img"]["cfg_scale"]] * 3


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("Hires CFG Scale", 1.0, "hires CFG scale 7.0 was sent, but 1.0 was used"),
        ("clip_skip", 5, "clip skip 1 was sent, but 5 was used"),
    ],
)
def test_a_value_that_forge_did_not_use_is_an_error(
    tmp_path: Path, name: str, value: float, message: str
) -> None:
    """What was sent for the server's own choice is compared with the answer too."""

    def alter(info: dict[str, Any]) -> None:
        table = info if name in info else info["extra_generation_params"]
        table[name] = value

    config = small("txt2img", images=1)
    config["txt2img"] |= {
        "cfg_scale": 7.0,
        "hires": {"upscaler": "Latent", "scale": 2.0, "denoise": 0.4},
    }
    with ScriptedWebUI(fork="forge") as server:
        server.on(0, faults.alters_info(alter))
        result = open_controller(tmp_path, server.url).start(config).wait(30)
    assert result.error is not None
    assert message in result.error.message


@pytest.mark.parametrize("image_format", ["jpg", "webp"])
def test_pngs_are_requested_from_a_server_that_answers_otherwise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, image_format: str
) -> None:
    """With a warning; the server's own format is as before afterwards."""
    with ScriptedWebUI() as server:
        server.painter.options["samples_format"] = image_format
        result = run(tmp_path, server)
        assert server.painter.options["samples_format"] == image_format
    assert {one.media_type for one in result.images} == {"image/png"}
    assert f"answers in {image_format} (samples_format)" in caplog.text


def test_a_format_that_the_server_cannot_give_is_named(tmp_path: Path) -> None:
    """The error names the option, and nothing is tried again."""
    with ScriptedWebUI() as server:
        server.on(0, faults.server_error("HTTPException", "Invalid image format"))
        result = open_controller(tmp_path, server.url).start(small("txt2img", images=1)).wait(30)
        assert len(server.generating()) == 1
    assert result.error is not None
    message = result.error.message
    assert "set samples_format to png in the server's settings" in message


def test_an_appended_mask_and_a_huge_info_break_no_run(tmp_path: Path) -> None:
    """``return_mask`` appends images; the largest values of an info are left out."""
    with ScriptedWebUI() as server:
        server.on(0, faults.TOO_MANY)
        server.on(1, faults.alters_info(lambda info: info.update(huge="x" * (1 << 20))))
        result = run(tmp_path, server)
    assert len(result.images) == 2
    infos = [call.info for call in only(result.events, CallCompleted)]
    assert ["info_cut" in info for info in infos] == [False, True]
    assert "huge" not in infos[1]
    assert infos[1]["seed"] == infos[0]["seed"] + 1
