"""Other people's client, and the command as a user starts it, against ``serve-embedded``."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import webuiapi  # type: ignore[import-untyped]  # it has no type information
from PIL import Image
from stagewright.adapters.webui_server import EmbeddedServer
from stagewright.statemachine.stages import (
    Img2ImgConfig,
    Txt2ImgConfig,
    UpscaleConfig,
)

from .command_line import Start, stagewright, until
from .pictures import made, same_pixels
from .serving import Client, InBackground, ask_in_vain, first_line, serving, url_of

SMALL: dict[str, Any] = {"prompt": "a lighthouse", "seed": 5, "steps": 4}


@pytest.fixture
def api(served: Client) -> Iterator[Any]:
    """The client of the package webuiapi."""
    port = int(served.url.rpartition(":")[2])
    found = webuiapi.WebUIApi(port=port, sampler="Euler a", scheduler="Karras", steps=4)
    yield found
    found.session.close()


def test_webuiapi_generates(api: Any) -> None:
    """Its txt2img, with all the fields that it always sends, looks as in process."""
    result = api.txt2img(**SMALL, width=64, height=96, batch_size=2)
    config = Txt2ImgConfig(
        prompt="a lighthouse", seed=5, steps=4, width=64, height=96, cfg_scale=7.0, styles=(),
        sampler="Euler a", scheduler="Karras", tiling=False, restore_faces=False,
    )  # fmt: skip
    expected = [made(config, seed=5), made(config, seed=6)]
    pairs = zip(result.images, expected, strict=True)
    assert all(same_pixels(one, other) for one, other in pairs)
    assert result.info["all_seeds"] == [5, 6]
    assert result.parameters["prompt"] == "a lighthouse"
    larger = api.txt2img(**SMALL, width=64, height=96, enable_hr=True, hr_scale=2)
    assert larger.image.size == (128, 192)
    with pytest.raises(RuntimeError, match="422"):
        api.txt2img(**SMALL, script_name="no such")


def test_webuiapi_repaints(api: Any, face: Image.Image) -> None:
    """Its img2img looks as in process."""
    result = api.img2img(images=[face], **SMALL, width=96, height=96, denoising_strength=0.5)
    config = Img2ImgConfig(
        prompt="a lighthouse", seed=5, steps=4, denoise=0.5, width=96, height=96, cfg_scale=7.0,
        sampler="Euler a", scheduler="Karras",
    )  # fmt: skip
    assert same_pixels(result.image, made(config, face, seed=5))


def test_webuiapi_enlarges(api: Any, face: Image.Image) -> None:
    """Its two ways to upscale look as in process."""
    upscaler = webuiapi.Upscaler.ESRGAN_4x
    expected = made(UpscaleConfig(upscaler="R-ESRGAN 4x+", factor=1.5), face)
    one = api.extra_single_image(image=face, upscaler_1=upscaler, upscaling_resize=1.5)
    assert same_pixels(one.image, expected)
    assert "R-ESRGAN 4x+" in one.info
    two = api.extra_batch_images(images=[face, face], upscaler_1=upscaler, upscaling_resize=1.5)
    assert [same_pixels(image, expected) for image in two.images] == [True, True]


def test_webuiapi_knows_adetailer_by_a_key_of_old(api: Any, face: Image.Image) -> None:
    """It finds the extension, but its ``ad_mask_k_largest`` makes ADetailer 25.3.0 step aside."""
    assert api.has_adetailer
    detailer = webuiapi.ADetailer(ad_model="face_yolov8n.pt")
    unheeded = api.img2img(images=[face], **SMALL, width=96, height=96, adetailer=[detailer])
    assert unheeded.info["width"] == 96
    assert not any("ADetailer" in key for key in unheeded.info["extra_generation_params"])
    table = detailer.to_dict()
    table.pop("ad_mask_k_largest")
    # Otherwise it would switch ADetailer off, in the place of what is sent here.
    api.has_adetailer = False
    heeded = api.txt2img(
        **SMALL, width=256, height=320, alwayson_scripts={"ADetailer": {"args": [True, table]}}
    )
    extra = heeded.info["extra_generation_params"]
    assert extra["ADetailer model"] == "face_yolov8n.pt"


def test_webuiapi_reads_every_list(api: Any) -> None:
    """All its list methods give what they should."""
    assert any(one.startswith("sd_xl_base_1.0.safetensors [") for one in api.util_get_model_names())
    assert "Euler a" in api.util_get_sampler_names()
    assert "karras" in api.util_get_scheduler_names()
    assert api.get_sd_vae()
    assert api.get_upscalers()
    assert api.get_latent_upscale_modes()
    assert api.get_face_restorers()
    assert api.get_realesrgan_models()
    assert api.get_loras() == api.get_hypernetworks() == api.get_prompt_styles() == []
    assert api.get_embeddings()["loaded"] == {}
    assert api.get_cmd_flags()["api"] is True
    assert api.get_memory()["ram"]
    assert "adetailer" in api.get_scripts()["txt2img"]
    assert api.custom_get("adetailer/v1/version") == {"version": "25.3.0"}


def test_webuiapi_sets_options_and_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    """Its options are kept, and a model is found by its likeness."""
    with serving(models=["anything"]) as client:
        api = webuiapi.WebUIApi(baseurl=f"{client.url}/sdapi/v1")
        try:
            assert api.set_options({"jpeg_quality": 70}) is None
            assert api.get_options()["jpeg_quality"] == 70
            api.util_set_model("anything")
            assert api.util_get_current_model().startswith("anything.safetensors [")
            assert api.refresh_checkpoints() is None
            assert api.util_wait_for_ready() is None
        finally:
            api.session.close()
    assert "model changed" in capsys.readouterr().out


def test_webuiapi_interrupts(face: Image.Image) -> None:
    """Its progress shows the job, its interrupt ends it, its credentials are taken."""
    with EmbeddedServer(auth=("a", "b"), step_delay_s=0.005) as server:
        port = int(server.url.rpartition(":")[2])
        api = webuiapi.WebUIApi(port=port, username="a", password="b")
        client = Client(server.url, ("a", "b"))
        try:
            running = InBackground(client, "txt2img", SMALL | {"steps": 5000})
            until(lambda: api.get_progress()["state"]["sampling_step"] > 0, "steps")
            assert 0 < api.get_progress()["progress"] < 1
            assert api.interrupt() == {}
            assert len(running.answer()["images"]) == 1
            assert api.get_progress()["state"]["interrupted"] is True
            assert api.png_info(face).info == face.info["parameters"]
        finally:
            api.session.close()
            client.close()


# --- The command


def test_the_command_serves_until_it_is_told_to_stop(start: Start, tmp_path: Path) -> None:
    """It says where it listens, takes its options, and ends with status 0, quietly."""
    options = ("--model", "mine", "--no-ui", "--allow-host", "gui.lan", "--allow-host", "b.lan")
    process = start("serve-embedded", "--port", "0", *options, folder=tmp_path)
    url, named = url_of(process), {"Host": "gui.lan"}
    rows = requests.get(f"{url}/sdapi/v1/sd-models", headers=named, timeout=10).json()
    assert "mine" in [row["model_name"] for row in rows]
    assert requests.get(f"{url}/internal/ping", timeout=10).status_code == 404
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "", "")


def test_the_command_ends_in_the_middle_of_a_picture(start: Start, tmp_path: Path) -> None:
    """A request under way, and a client that keeps its connection, hold nothing up."""
    process = start("serve-embedded", "--port=0", "--step-delay", "3600", folder=tmp_path)
    client = Client(url_of(process))
    body = SMALL | {"force_task_id": "mine"}
    asking = threading.Thread(target=ask_in_vain, args=(client.url, body))
    asking.start()
    try:
        until(lambda: client.post("/internal/progress", {"id_task": "mine"})["active"], "the task")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    finally:
        client.close()
        asking.join(30)


def test_the_command_says_that_a_port_is_taken(tmp_path: Path) -> None:
    """One clear line that names the address, and status 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = stagewright("serve-embedded", "--port", str(port), folder=tmp_path)
    assert done.returncode == 2
    assert f"127.0.0.1 port {port}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_command_takes_credentials_from_the_environment_only(tmp_path: Path) -> None:
    """Without them, or with half of them, ``--require-auth`` is wrong usage."""
    for words in ({}, {"STAGEWRIGHT_AUTH": "secret"}):
        env = {**os.environ, **words}
        done = stagewright("serve-embedded", "--require-auth", folder=tmp_path, env=env)
        assert done.returncode == 2
        assert "STAGEWRIGHT_AUTH=user:password" in done.stderr
        assert "secret" not in done.stderr


@pytest.mark.parametrize(("words", "warned"), [(":secret", False), ("user:", False), ("", True)])
def test_the_command_warns_of_an_open_door(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, warned: bool
) -> None:
    """Beyond loopback it warns in one line, unless it asks for credentials; a part may be empty."""
    monkeypatch.setenv("STAGEWRIGHT_AUTH", words)
    options = ("--require-auth",) if words else ()
    process = start("serve-embedded", "--host=0.0.0.0", "--port=0", *options, folder=tmp_path)
    line = first_line(process)
    port = re.search(r":(\d+) ", line)
    assert port is not None
    url = f"http://127.0.0.1:{port[1]}"
    answer = requests.get(f"{url}/sdapi/v1/options", timeout=10)
    assert answer.status_code == (200 if warned else 401)
    if words:
        done = stagewright("doctor", "--server", url, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    process.terminate()
    out, err = process.communicate(timeout=10)
    assert process.returncode == 0
    assert ("warning" in err) is warned
    assert "secret" not in line + out + err
