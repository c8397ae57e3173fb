"""``serve-embedded`` makes the pictures of the backend in process, and sets a WebUI's traps."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from PIL import Image
from stagewright.adapters.bootstrap import ConfiguredBackend
from stagewright.statemachine import CancelToken
from stagewright.statemachine.stages import (
    AdetailerConfig,
    AdetailerPass,
    HiresConfig,
    Img2ImgConfig,
    RefinerConfig,
    StageConfig,
    Txt2ImgConfig,
    UpscaleConfig,
)

from .pictures import Steps, made, opened, request, same_pixels, source
from .serving import (
    BASE,
    FACE_ARGS,
    REFINER,
    SMALL,
    VAE,
    Client,
    detailed,
    info,
    pictures,
    received,
    sent,
    serving,
)

RICH = Txt2ImgConfig(
    prompt="portrait of an astronaut", negative_prompt="blurry", seed=42, model=BASE, vae=VAE,
    clip_skip=2, sampler="Euler a", scheduler="Karras", steps=6, cfg_scale=7.0, width=96,
    height=128, tiling=False, restore_faces=True,
    refiner=RefinerConfig(model=REFINER, switch_at=0.5),
    hires=HiresConfig(
        upscaler="R-ESRGAN 4x+", scale=1.5, steps=3, denoise=0.4, sampler="DPM++ 2M",
        scheduler="Exponential", model=REFINER, prompt="fine lines", negative_prompt="grain",
    ),
)  # fmt: skip
FIRST, BOTH = (
    replace(RICH, refiner=RefinerConfig(model=REFINER, switch_at=0.5, acts_in=one))
    for one in ("first", "both")
)
REPAINTED = Img2ImgConfig(
    prompt="woodcut", negative_prompt="grey", seed=7, denoise=0.5, steps=5, model=REFINER,
    vae=VAE, clip_skip=1, sampler="DPM++ 2M", scheduler="karras", cfg_scale=6.5, width=128,
    height=96, resize_mode=2, refiner=RefinerConfig(model=BASE, switch_at=0.25),
)  # fmt: skip
DETAILED = AdetailerConfig(
    prompt="a lighthouse", negative_prompt="fog", seed=5, model=BASE, vae=VAE, clip_skip=2,
    sampler="Euler a", scheduler="Karras", steps=4, cfg_scale=6.0,
    passes=(
        AdetailerPass(
            model="face_yolov8s.pt", classes="face", prompt="a smile", negative_prompt="teeth",
            confidence=0.2, denoise=0.6, mask_filter="Confidence", mask_k=2, mask_min_ratio=0.001,
            mask_max_ratio=0.9, dilate_erode=2, x_offset=1, y_offset=-1, merge="Merge",
            mask_blur=3, only_masked=False, padding=16, width=256, height=320, steps=3,
            cfg_scale=5.5, sampler="Heun", scheduler="Karras", checkpoint=REFINER, vae=VAE,
            noise_multiplier=1.1, clip_skip=2, restore_face=True,
        ),
        AdetailerPass(model="face_yolov8n.pt", denoise=0.4),
    ),
)  # fmt: skip
TWO_UPSCALERS = UpscaleConfig(
    upscaler="R-ESRGAN 4x+", factor=2.0, upscaler_2="Nearest", upscaler_2_visibility=0.25,
    gfpgan_visibility=0.5, codeformer_visibility=0.25, codeformer_weight=0.75, upscale_first=True,
)  # fmt: skip


def hires(**fields: Any) -> Txt2ImgConfig:
    """A txt2img with hardly any settings but these of its second pass."""
    second = HiresConfig(denoise=0.5, **fields)
    return Txt2ImgConfig(prompt="x", seed=3, steps=2, width=96, height=128, hires=second)


@pytest.mark.parametrize(
    "config",
    [
        RICH,
        FIRST,
        BOTH,
        hires(scale=1.25),
        hires(resize_x=144),
        hires(resize_x=144, resize_y=144),
        REPAINTED,
        UpscaleConfig(upscaler="R-ESRGAN 4x+", factor=1.5),
        TWO_UPSCALERS,
        UpscaleConfig(upscaler="SwinIR_4x", width=400, height=400),
        UpscaleConfig(upscaler="SwinIR_4x", width=400, height=400, crop=False),
        UpscaleConfig(gfpgan_visibility=1.0),
        DETAILED,
    ],
)
def test_the_pixels_are_those_of_the_backend_in_process(
    served: Client, face: Image.Image, config: StageConfig
) -> None:
    """What our served asks for over HTTP looks as in process, with every setting or hardly any."""
    inputs = () if isinstance(config, Txt2ImgConfig) else (face,)
    mask = Image.linear_gradient("L").resize(face.size) if config is REPAINTED else None
    sources = [replace(source(one), width=one.width, height=one.height) for one in inputs]
    asked = request(config, *sources, seed=5, mask=source(mask) if mask else None)
    backend = ConfiguredBackend(served.url)
    answer = backend.generate_images(asked, cancel=CancelToken(), on_step=Steps())
    backend.release()
    assert same_pixels(opened(answer), made(config, *inputs, seed=5, mask=mask))


def test_styles_that_no_list_has_decorate_all_the_same(served: Client) -> None:
    """A body may name any style, which our own client refuses to send."""
    answer = served.post("txt2img", SMALL | {"styles": ["ink"]})
    config = Txt2ImgConfig(
        prompt="a lighthouse", seed=5, steps=4, width=64, height=64, styles=("ink",)
    )
    assert same_pixels(pictures(answer)[0], made(config, seed=5))


def test_each_image_of_each_batch_has_its_seed(served: Client) -> None:
    """Two batches of two are four images with seeds in order."""
    answer = served.post("txt2img", SMALL | {"batch_size": 2, "n_iter": 2})
    assert info(answer)["all_seeds"] == [5, 6, 7, 8]
    config = Txt2ImgConfig(prompt="a lighthouse", seed=5, steps=4, width=64, height=64)
    for place, picture in enumerate(pictures(answer)):
        assert same_pixels(picture, made(config, seed=5 + place))


def test_a_picture_may_be_sent_as_a_data_url(served: Client, face: Image.Image) -> None:
    """With the prefix or without, it is the same picture; the answer does not repeat it."""
    bodies = [
        SMALL | {"init_images": [prefix + sent(face)]} for prefix in ("", "data:image/png;base64,")
    ]
    plain, prefixed = (served.post("img2img", body) for body in bodies)
    assert plain["images"] == prefixed["images"]
    assert plain["parameters"]["init_images"] is None


def test_adetailer_after_txt2img_works_on_its_picture(served: Client) -> None:
    """With txt2img, ADetailer details what was generated; the info stays txt2img's."""
    body = SMALL | {"width": 256, "height": 320}
    base = Txt2ImgConfig(prompt="a lighthouse", seed=5, steps=4, width=256, height=320)
    before = made(base, seed=5)
    one = AdetailerPass(model="face_yolov8n.pt")
    after = AdetailerConfig(prompt="a lighthouse", seed=5, steps=4, passes=(one,))
    scripts = {"adetailer": {"args": [True, FACE_ARGS]}}
    answer = served.post("txt2img", body | {"alwayson_scripts": scripts})
    assert same_pixels(pictures(answer)[0], made(after, before, seed=5))
    assert info(answer)["width"] == 256
    assert "ADetailer model" in info(answer)["extra_generation_params"]


# --- Traps of ADetailer


def test_a_proper_skip_shows(served: Client, face: Image.Image) -> None:
    """Size and all but the face stay; the info is of a pass that was thrown away."""
    passes = [FACE_ARGS] * 6
    answer = served.post("img2img", detailed(face, *passes))
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


def test_an_unheeded_adetailer_repaints_everything(served: Client, face: Image.Image) -> None:
    """Without a pass, or with one that fails validation, img2img is not skipped: 200."""
    unheeded: list[list[Any] | None] = [
        [False, True, FACE_ARGS],
        [True, True],
        [True, True, {}],
        [True, True, {"ad_model": "None"}],
        [True, True, FACE_ARGS | {"ad_tab_enable": False}],
        [True, True, FACE_ARGS | {"ad_mask_k_largest": 1}],
        [True, True, FACE_ARGS, FACE_ARGS | {"ad_confidence": 30}],
        None,
    ]
    expected = repainted(face)
    for arguments in unheeded:
        scripts = {"ADetailer": {"args": arguments}}
        body = detailed(face, denoising_strength=1, alwayson_scripts=scripts)
        answer = served.post("img2img", body)
        assert same_pixels(pictures(answer)[0], expected), arguments
        assert info(answer)["width"] == face.width
        assert not any("ADetailer" in key for key in info(answer)["extra_generation_params"])


def test_flags_that_are_no_booleans_skip_nothing(served: Client, face: Image.Image) -> None:
    """1 and 0 mean: enabled, and the whole picture repainted before its faces."""
    one = AdetailerPass(model="face_yolov8n.pt")
    config = AdetailerConfig(
        prompt="a lighthouse", seed=5, steps=4, sampler="Euler a", passes=(one,)
    )
    expected = made(config, repainted(face), seed=5)
    for arguments in ([1, 1, FACE_ARGS], [0, 0, FACE_ARGS], [True, FACE_ARGS]):
        scripts = {"ADetailer": {"args": arguments}}
        body = detailed(face, denoising_strength=1, alwayson_scripts=scripts)
        answer = served.post("img2img", body)
        assert same_pixels(pictures(answer)[0], expected), arguments
        assert info(answer)["steps"] == 4
        assert "ADetailer model" in info(answer)["extra_generation_params"]


def test_what_is_not_detected_is_claimed_all_the_same(served: Client, face: Image.Image) -> None:
    """An unknown detector, or nothing to be found, changes no pixel and says it ran."""
    for name in ("no_such.pt", "hand_yolov8n.pt"):
        answer = served.post("img2img", detailed(face, {"ad_model": name}))
        assert same_pixels(pictures(answer)[0], face)
        assert info(answer)["extra_generation_params"]["ADetailer model"] == name


# --- Traps of extras


def test_upscalers_that_are_none(served: Client, face: Image.Image) -> None:
    """Unknown: 500. Listed without a file: Lanczos, under the name asked for."""
    body = {"image": sent(face), "upscaling_resize": 2}
    found = served.post("extra-single-image", body | {"upscaler_1": "no such"}, status=500)
    assert found["error"] == "AssertionError"
    answer = served.post("extra-single-image", body | {"upscaler_1": "LDSR"})
    lanczos = made(UpscaleConfig(upscaler="Lanczos", factor=2.0), face)
    assert same_pixels(received(answer["image"]), lanczos)
    assert "LDSR" in answer["html_info"]
    untouched = served.post("extra-single-image", body)
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
