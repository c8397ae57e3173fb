"""The embedded backend over HTTP makes the same pictures as in process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PIL import Image
from stagewright.statemachine.stages import (
    AdetailerConfig,
    AdetailerPass,
    HiresConfig,
    Img2ImgConfig,
    RefinerConfig,
    Txt2ImgConfig,
    UpscaleConfig,
)

from .pictures import made, portrait, same_pixels
from .serving import (
    BASE,
    FACE_ARGS,
    REFINER,
    SMALL,
    VAE,
    Client,
    Json,
    detailed,
    info,
    pictures,
    received,
    sent,
    serving,
)

TXT2IMG = Txt2ImgConfig(
    prompt="portrait of an astronaut", negative_prompt="blurry", seed=42, model=BASE, vae=VAE,
    clip_skip=2, sampler="Euler a", scheduler="Karras", steps=6, cfg_scale=7.0, width=96,
    height=128, tiling=False, restore_faces=True, styles=("ink",),
    refiner=RefinerConfig(model=REFINER, switch_at=0.5),
    hires=HiresConfig(
        upscaler="R-ESRGAN 4x+", scale=1.5, steps=3, denoise=0.4, sampler="DPM++ 2M",
        scheduler="Exponential", model=REFINER, prompt="fine lines", negative_prompt="grain",
    ),
)  # fmt: skip
TXT2IMG_BODY: Json = {
    "prompt": "portrait of an astronaut", "negative_prompt": "blurry", "seed": 42,
    "override_settings": {
        "sd_model_checkpoint": BASE, "sd_vae": VAE, "CLIP_stop_at_last_layers": 2,
    },
    "sampler_name": "Euler a", "scheduler": "Karras", "steps": 6, "cfg_scale": 7.0, "width": 96,
    "height": 128, "tiling": False, "restore_faces": True, "styles": ["ink"],
    "refiner_checkpoint": REFINER, "refiner_switch_at": 0.5, "enable_hr": True,
    "hr_upscaler": "R-ESRGAN 4x+", "hr_scale": 1.5, "hr_second_pass_steps": 3,
    "denoising_strength": 0.4, "hr_sampler_name": "DPM++ 2M", "hr_scheduler": "Exponential",
    "hr_checkpoint_name": REFINER, "hr_prompt": "fine lines", "hr_negative_prompt": "grain",
}  # fmt: skip


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A server whose state no test may change for the next."""
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def face() -> Image.Image:
    """A picture with a face in it."""
    return portrait()


def test_txt2img_gives_the_same_pixels(client: Client) -> None:
    """A txt2img with every setting looks as in process, in every image of every batch."""
    answer = client.post("txt2img", TXT2IMG_BODY | {"batch_size": 2, "n_iter": 2})
    assert info(answer)["all_seeds"] == [42, 43, 44, 45]
    for place, picture in enumerate(pictures(answer)):
        assert same_pixels(picture, made(TXT2IMG, seed=42 + place))


@pytest.mark.parametrize(
    ("fields", "hires"),
    [
        ({}, {"scale": 2.0}),
        ({"hr_scale": 1.25, "hr_second_pass_steps": 0, "hr_prompt": ""}, {"scale": 1.25}),
        ({"hr_resize_x": 144}, {"resize_x": 144}),
        ({"hr_resize_x": 144, "hr_resize_y": 144}, {"resize_x": 144, "resize_y": 144}),
    ],
)
def test_what_is_not_sent_is_not_set(client: Client, fields: Json, hires: Json) -> None:
    """The fields of hires that are left out, or at "not set", change nothing."""
    body = {"prompt": "x", "seed": 3, "steps": 2, "width": 96, "height": 128}
    body |= {"enable_hr": True, "denoising_strength": 0.5, **fields}
    config = Txt2ImgConfig(
        prompt="x", seed=3, steps=2, width=96, height=128, hires=HiresConfig(denoise=0.5, **hires)
    )
    assert same_pixels(pictures(client.post("txt2img", body))[0], made(config, seed=3))


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_img2img_gives_the_same_pixels(client: Client, face: Image.Image, prefix: str) -> None:
    """An img2img with mask, refiner and a size of its own looks as in process."""
    mask = Image.linear_gradient("L").resize(face.size)
    config = Img2ImgConfig(
        prompt="woodcut", negative_prompt="grey", seed=7, denoise=0.5, steps=5, model=REFINER,
        vae=VAE, clip_skip=1, sampler="DPM++ 2M", scheduler="karras", cfg_scale=6.5, width=128,
        height=96, resize_mode=2, refiner=RefinerConfig(model=BASE, switch_at=0.25),
    )  # fmt: skip
    answer = client.post("img2img", {
        "prompt": "woodcut", "negative_prompt": "grey", "seed": 7, "denoising_strength": 0.5,
        "steps": 5, "sampler_name": "DPM++ 2M", "scheduler": "karras", "cfg_scale": 6.5,
        "width": 128, "height": 96, "resize_mode": 2, "refiner_checkpoint": BASE,
        "refiner_switch_at": 0.25, "init_images": [prefix + sent(face)],
        "mask": prefix + sent(mask), "override_settings": {
            "sd_model_checkpoint": REFINER, "sd_vae": VAE, "CLIP_stop_at_last_layers": 1,
        },
    })  # fmt: skip
    expected = made(config, face, seed=7, mask=mask)
    assert same_pixels(pictures(answer)[0], expected)
    assert answer["parameters"]["init_images"] is None


RESTORED: Json = {
    "gfpgan_visibility": 0.5, "codeformer_visibility": 0.25, "codeformer_weight": 0.75,
    "upscale_first": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("body", "config"),
    [
        (
            {"upscaling_resize": 1.5, "upscaler_1": "R-ESRGAN 4x+"},
            UpscaleConfig(upscaler="R-ESRGAN 4x+", factor=1.5),
        ),
        (
            {
                "upscaling_resize": 2, "upscaler_1": "R-ESRGAN 4x+", "upscaler_2": "Nearest",
                "extras_upscaler_2_visibility": 0.25, **RESTORED,
            },
            UpscaleConfig(
                upscaler="R-ESRGAN 4x+", factor=2.0, upscaler_2="Nearest",
                upscaler_2_visibility=0.25, **RESTORED,
            ),
        ),
        (
            {
                "resize_mode": 1, "upscaling_resize_w": 400, "upscaling_resize_h": 400,
                "upscaler_1": "SwinIR_4x",
            },
            UpscaleConfig(upscaler="SwinIR_4x", width=400, height=400),
        ),
        (
            {
                "resize_mode": 1, "upscaling_resize_w": 400, "upscaling_resize_h": 400,
                "upscaler_1": "SwinIR_4x", "upscaling_crop": False,
            },
            UpscaleConfig(upscaler="SwinIR_4x", width=400, height=400, crop=False),
        ),
        ({"upscaler_1": "None", "gfpgan_visibility": 1}, UpscaleConfig(gfpgan_visibility=1.0)),
    ],
)  # fmt: skip
def test_extras_give_the_same_pixels(
    client: Client, face: Image.Image, body: Json, config: UpscaleConfig
) -> None:
    """Each way to upscale looks as in process, for one picture and for several."""
    expected = made(config, face)
    one = client.post("extra-single-image", body | {"image": sent(face)})
    assert same_pixels(received(one["image"]), expected)
    files = [{"data": sent(face), "name": name} for name in ("a", "b")]
    many = client.post("extra-batch-images", body | {"imageList": files})
    assert [same_pixels(image, expected) for image in pictures(many)] == [True, True]


def test_adetailer_gives_the_same_pixels(client: Client, face: Image.Image) -> None:
    """ADetailer with every setting of a pass, and with hardly any, looks as in process."""
    rich = AdetailerPass(
        model="face_yolov8s.pt", classes="face", prompt="a smile", negative_prompt="teeth",
        confidence=0.2, denoise=0.6, mask_filter="Confidence", mask_k=2, mask_min_ratio=0.001,
        mask_max_ratio=0.9, dilate_erode=2, x_offset=1, y_offset=-1, merge="Merge", mask_blur=3,
        only_masked=False, padding=16, width=256, height=320, steps=3, cfg_scale=5.5,
        sampler="Heun", scheduler="Karras", checkpoint=REFINER, vae=VAE, noise_multiplier=1.1,
        clip_skip=2, restore_face=True,
    )  # fmt: skip
    table: Json = {
        "ad_model": "face_yolov8s.pt", "ad_model_classes": "face", "ad_prompt": "a smile",
        "ad_negative_prompt": "teeth", "ad_confidence": 0.2, "ad_denoising_strength": 0.6,
        "ad_mask_filter_method": "Confidence", "ad_mask_k": 2, "ad_mask_min_ratio": 0.001,
        "ad_mask_max_ratio": 0.9, "ad_dilate_erode": 2, "ad_x_offset": 1, "ad_y_offset": -1,
        "ad_mask_merge_invert": "Merge", "ad_mask_blur": 3, "ad_inpaint_only_masked": False,
        "ad_inpaint_only_masked_padding": 16, "ad_use_inpaint_width_height": True,
        "ad_inpaint_width": 256, "ad_inpaint_height": 320, "ad_use_steps": True, "ad_steps": 3,
        "ad_use_cfg_scale": True, "ad_cfg_scale": 5.5, "ad_use_sampler": True,
        "ad_sampler": "Heun", "ad_scheduler": "Karras", "ad_use_checkpoint": True,
        "ad_checkpoint": REFINER, "ad_use_vae": True, "ad_vae": VAE,
        "ad_use_noise_multiplier": True, "ad_noise_multiplier": 1.1, "ad_use_clip_skip": True,
        "ad_clip_skip": 2, "ad_restore_face": True,
    }  # fmt: skip
    config = AdetailerConfig(
        prompt="a lighthouse", negative_prompt="fog", seed=5, model=BASE, vae=VAE, clip_skip=2,
        sampler="Euler a", scheduler="Karras", steps=4, cfg_scale=6.0,
        passes=(rich, AdetailerPass(model="face_yolov8n.pt", denoise=0.4)),
    )  # fmt: skip
    body = detailed(
        face, table, {"ad_model": "face_yolov8n.pt", "ad_denoising_strength": 0.4},
        negative_prompt="fog", scheduler="Karras", cfg_scale=6.0, override_settings={
            "sd_model_checkpoint": BASE, "sd_vae": VAE, "CLIP_stop_at_last_layers": 2,
        },
    )  # fmt: skip
    picture = pictures(client.post("img2img", body))[0]
    assert same_pixels(picture, made(config, face, seed=5))
    assert not same_pixels(picture, face)


def test_adetailer_after_txt2img_works_on_its_picture(client: Client) -> None:
    """With txt2img, ADetailer details what was generated; the info stays txt2img's."""
    body = SMALL | {"width": 256, "height": 320}
    base = Txt2ImgConfig(prompt="a lighthouse", seed=5, steps=4, width=256, height=320)
    before = made(base, seed=5)
    one = AdetailerPass(model="face_yolov8n.pt")
    after = AdetailerConfig(prompt="a lighthouse", seed=5, steps=4, passes=(one,))
    scripts = {"adetailer": {"args": [True, FACE_ARGS]}}
    answer = client.post("txt2img", body | {"alwayson_scripts": scripts})
    assert same_pixels(pictures(answer)[0], made(after, before, seed=5))
    assert info(answer)["width"] == 256
    assert "ADetailer model" in info(answer)["extra_generation_params"]
