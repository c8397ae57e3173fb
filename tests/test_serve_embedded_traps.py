"""``serve-embedded`` sets a WebUI's traps: an ADetailer unheeded, upscalers that are none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from stagewright.statemachine.stages import (
    AdetailerConfig,
    AdetailerPass,
    Img2ImgConfig,
    UpscaleConfig,
)

from .pictures import made, portrait, same_pixels
from .serving import FACE_ARGS, SMALL, Client, detailed, info, pictures, received, sent, serving


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A server whose state no test may change for the next."""
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def face() -> Image.Image:
    """A picture with a face in it."""
    return portrait()


# --- ADetailer


def test_a_proper_skip_shows(client: Client, face: Image.Image) -> None:
    """Size and all but the face stay; the info is of a pass that was thrown away."""
    passes = [FACE_ARGS] * 6
    answer = client.post("img2img", detailed(face, *passes))
    found, picture = info(answer), pictures(answer)[0]
    assert (found["width"], found["height"], found["steps"]) == (128, 128, 1)
    assert found["sampler_name"] == "Euler"
    assert picture.size == face.size
    assert picture.crop((0, 0, 30, 30)).tobytes() == face.crop((0, 0, 30, 30)).tobytes()
    assert not same_pixels(picture, face)
    extra = found["extra_generation_params"]
    assert [key for key in extra if key.startswith("ADetailer model")] == [
        "ADetailer model", "ADetailer model 2nd", "ADetailer model 3rd", "ADetailer model 4th",
    ]  # fmt: skip
    assert extra["ADetailer version"] == "25.3.0"


def repainted(face: Image.Image) -> Image.Image:
    """The whole picture after an img2img at full strength."""
    config = Img2ImgConfig(
        prompt="a lighthouse", seed=5, denoise=1.0, steps=4, sampler="Euler a",
        width=face.width, height=face.height,
    )  # fmt: skip
    return made(config, face, seed=5)


@pytest.mark.parametrize(
    "arguments",
    [
        [False, True, FACE_ARGS],
        [True, True],
        [True, True, {}],
        [True, True, {"ad_model": "None"}],
        [True, True, FACE_ARGS | {"ad_tab_enable": False}],
        [True, True, FACE_ARGS | {"ad_mask_k_largest": 1}],
        [True, True, FACE_ARGS, FACE_ARGS | {"ad_confidence": 30}],
        None,
    ],
)
def test_an_unheeded_adetailer_repaints_everything(
    client: Client, face: Image.Image, arguments: list[Any] | None
) -> None:
    """Without a pass, or with one that fails validation, img2img is not skipped: 200."""
    scripts = {"ADetailer": {"args": arguments}}
    body = detailed(face, denoising_strength=1, alwayson_scripts=scripts)
    answer = client.post("img2img", body)
    assert same_pixels(pictures(answer)[0], repainted(face))
    assert info(answer)["width"] == face.width
    assert not any("ADetailer" in key for key in info(answer)["extra_generation_params"])


@pytest.mark.parametrize("arguments", [[1, 1, FACE_ARGS], [0, 0, FACE_ARGS], [True, FACE_ARGS]])
def test_flags_that_are_no_booleans_skip_nothing(
    client: Client, face: Image.Image, arguments: list[Any]
) -> None:
    """1 and 0 mean: enabled, and the whole picture repainted before its faces."""
    scripts = {"ADetailer": {"args": arguments}}
    body = detailed(face, denoising_strength=1, alwayson_scripts=scripts)
    answer = client.post("img2img", body)
    one = AdetailerPass(model="face_yolov8n.pt")
    config = AdetailerConfig(
        prompt="a lighthouse", seed=5, steps=4, sampler="Euler a", passes=(one,)
    )
    assert same_pixels(pictures(answer)[0], made(config, repainted(face), seed=5))
    assert info(answer)["steps"] == 4
    assert "ADetailer model" in info(answer)["extra_generation_params"]


def test_what_is_not_detected_is_claimed_all_the_same(client: Client, face: Image.Image) -> None:
    """An unknown detector, or nothing to be found, changes no pixel and says it ran."""
    for name in ("no_such.pt", "hand_yolov8n.pt"):
        answer = client.post("img2img", detailed(face, {"ad_model": name}))
        assert same_pixels(pictures(answer)[0], face)
        assert info(answer)["extra_generation_params"]["ADetailer model"] == name


# --- Extras


def test_upscalers_that_are_none(client: Client, face: Image.Image) -> None:
    """Unknown: 500. Listed without a file: Lanczos, under the name asked for."""
    body = {"image": sent(face), "upscaling_resize": 2}
    found = client.post("extra-single-image", body | {"upscaler_1": "no such"}, status=500)
    assert found["error"] == "AssertionError"
    answer = client.post("extra-single-image", body | {"upscaler_1": "LDSR"})
    lanczos = made(UpscaleConfig(upscaler="Lanczos", factor=2.0), face)
    assert same_pixels(received(answer["image"]), lanczos)
    assert "LDSR" in answer["html_info"]
    untouched = client.post("extra-single-image", body)
    assert same_pixels(received(untouched["image"]), face)


def test_a_failed_upscale_leaves_its_state_behind(face: Image.Image) -> None:
    """After an exception job "Upscale" stays at progress 1.0 until the next job."""
    with serving() as client:
        body = {"image": sent(face), "upscaler_1": "Lanczos", "upscaling_resize": 1e6}
        client.post("extra-single-image", body, status=500)
        left = client.get("progress")
        assert (left["state"]["job"], left["progress"]) == ("Upscale", 1.0)
        client.post("txt2img", SMALL)
        assert client.get("progress")["progress"] == 0
