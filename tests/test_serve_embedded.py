"""The embedded backend as a WebUI: over HTTP it makes the same pictures, and sets its traps."""

from __future__ import annotations

import json
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from stagewright.statemachine.stage_configs import (
    AdetailerConfig,
    AdetailerPass,
    HiresConfig,
    Img2ImgConfig,
    RefinerConfig,
    StageConfig,
    Txt2ImgConfig,
    UpscaleConfig,
)

from .command_line import until
from .pictures import made, portrait, same_pixels
from .serving import (
    DELAY_S,
    SLOW,
    SMALL,
    Client,
    InBackground,
    Json,
    ask_in_vain,
    info,
    pictures,
    received,
    sent,
    serving,
)

BASE, REFINER = "sd_xl_base_1.0.safetensors", "sd_xl_refiner_1.0.safetensors"
VAE = "vae-ft-mse-840000-ema-pruned.safetensors"
FACE_ARGS: Json = {"ad_model": "face_yolov8n.pt"}

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
    with serving(models=["my own model"]) as found:
        yield found


@pytest.fixture
def slow() -> Iterator[Client]:
    """A server of its own, on which each step takes a while."""
    with serving(step_delay_s=DELAY_S) as found:
        yield found


@pytest.fixture(scope="module")
def face() -> Image.Image:
    """A picture with a face in it."""
    return portrait()


def in_process(config: StageConfig, *inputs: Image.Image, **more: Any) -> Image.Image:
    """What the embedded backend makes of it without any HTTP."""
    return made(config, *inputs, **more)


def detailed(face: Image.Image, *arguments: Any, **fields: Any) -> Json:
    """The body that sends a finished picture through ADetailer."""
    return SMALL | {
        "init_images": [sent(face)], "width": face.width, "height": face.height,
        "denoising_strength": 0, "sampler_name": "Euler a",
        "alwayson_scripts": {"ADetailer": {"args": [True, True, *arguments]}},
    } | fields  # fmt: skip


# --- The same pictures over HTTP


def test_txt2img_gives_the_same_pixels(client: Client) -> None:
    """A txt2img with every setting looks as in process, in every image of every batch."""
    answer = client.post("txt2img", TXT2IMG_BODY | {"batch_size": 2, "n_iter": 2})
    assert info(answer)["all_seeds"] == [42, 43, 44, 45]
    for place, picture in enumerate(pictures(answer)):
        assert same_pixels(picture, in_process(TXT2IMG, seed=42 + place))


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
    assert same_pixels(pictures(client.post("txt2img", body))[0], in_process(config, seed=3))


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
    expected = in_process(config, face, seed=7, mask=mask)
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
    expected = in_process(config, face)
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
    assert same_pixels(picture, in_process(config, face, seed=5))
    assert not same_pixels(picture, face)


def test_adetailer_after_txt2img_works_on_its_picture(client: Client) -> None:
    """With txt2img, ADetailer details what was generated; the info stays txt2img's."""
    body = SMALL | {"width": 256, "height": 320}
    base = Txt2ImgConfig(prompt="a lighthouse", seed=5, steps=4, width=256, height=320)
    before = in_process(base, seed=5)
    one = AdetailerPass(model="face_yolov8n.pt")
    after = AdetailerConfig(prompt="a lighthouse", seed=5, steps=4, passes=(one,))
    scripts = {"adetailer": {"args": [True, FACE_ARGS]}}
    answer = client.post("txt2img", body | {"alwayson_scripts": scripts})
    assert same_pixels(pictures(answer)[0], in_process(after, before, seed=5))
    assert info(answer)["width"] == 256
    assert "ADetailer model" in info(answer)["extra_generation_params"]


# --- What an answer says


def test_the_answer_says_what_was_used(client: Client) -> None:
    """``parameters`` is an echo with defaults, ``info`` a string with what was really used."""
    answer = client.post("txt2img", SMALL | {"seed": -1, "sampler_name": "Euler a"})
    assert answer["parameters"]["seed"] == -1
    assert answer["parameters"]["cfg_scale"] == 7.0
    assert answer["parameters"]["sampler_name"] == "Euler a"
    found = info(answer)
    assert found["seed"] == found["all_seeds"][0] >= 0
    assert found["index_of_first_image"] == 0
    assert found["sd_model_name"] == "sd_xl_base_1.0"
    assert (found["width"], found["height"], found["steps"]) == (64, 64, 4)
    assert f"Seed: {found['seed']}" in found["infotexts"][0]
    picture = pictures(answer)[0]
    read = client.post("png-info", {"image": answer["images"][0]})
    assert read["info"] == picture.info["parameters"]
    assert read["parameters"]["Seed"] == str(found["seed"])
    assert read["parameters"]["Prompt"] == "a lighthouse"


def test_a_grid_stands_first_where_images_are_saved(client: Client) -> None:
    """``save_images`` puts a grid before two or more images, and says so."""
    answer = client.post("txt2img", SMALL | {"save_images": True, "n_iter": 2})
    assert info(answer)["index_of_first_image"] == 1
    assert [image.size for image in pictures(answer)] == [(128, 64), (64, 64), (64, 64)]
    alone = client.post("txt2img", SMALL | {"save_images": True})
    assert info(alone)["index_of_first_image"] == 0
    assert client.post("txt2img", SMALL | {"send_images": False})["images"] == []


def test_sizes_are_cut_and_misspelt_fields_ignored(client: Client) -> None:
    """63x70 gives 56x64 while the info says 63x70, and no unknown field is reported."""
    answer = client.post("txt2img", SMALL | {"width": 63, "height": 70, "stepz": "many"})
    assert pictures(answer)[0].size == (56, 64)
    assert (info(answer)["width"], info(answer)["height"]) == (63, 70)


def evidence(client: Client, **fields: Any) -> Json:
    """The ``extra_generation_params`` of a txt2img with these fields."""
    found: Json = info(client.post("txt2img", SMALL | fields))["extra_generation_params"]
    return found


def test_the_evidence_of_refiner_and_hires(client: Client) -> None:
    """A refiner shows by its stem and hash, unless the model at work is its own already."""
    refined = evidence(client, refiner_checkpoint=REFINER, refiner_switch_at=0.8)
    assert refined["Refiner"].startswith("sd_xl_refiner_1.0 [")
    assert refined["Refiner switch at"] == 0.8
    hires = {"enable_hr": True, "denoising_strength": 0.5, "hr_upscaler": "Latent"}
    both = evidence(client, **hires, refiner_checkpoint=REFINER, refiner_switch_at=0.8,
                    hr_checkpoint_name="sd_xl_refiner_1.0")  # fmt: skip
    assert both["Hires checkpoint"].startswith("sd_xl_refiner_1.0 [")
    assert both["Hires upscaler"] == "Latent"
    assert both["Hires upscale"] == 2.0
    assert "Refiner" not in both
    second = evidence(client, **hires, refiner_checkpoint=REFINER, refiner_switch_at=0.8)
    assert "Refiner" in second
    assert "Refiner" not in evidence(client, refiner_checkpoint=BASE, refiner_switch_at=0.8)
    assert "Refiner" not in evidence(client, refiner_checkpoint=REFINER, refiner_switch_at=1.0)
    assert "Refiner" in evidence(client, refiner_checkpoint=REFINER)


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"sampler_name": "Euler a", "scheduler": "karras"}, "Karras"),
        ({"sampler_name": "DPM++ 2M Karras"}, "Karras"),
        ({"sampler_name": "DPM++ 2M", "scheduler": "Automatic"}, "Karras"),
        ({"sampler_name": "Euler a", "scheduler": "Automatic"}, None),
        ({"sampler_name": "Euler a"}, None),
    ],
)
def test_a_scheduler_shows_unless_it_is_automatic(
    client: Client, fields: Json, label: str | None
) -> None:
    """The label of the scheduler really used stands under "Schedule type"."""
    assert evidence(client, **fields).get("Schedule type") == label


# --- Models, samplers and options


@pytest.mark.parametrize("form", ["name", "stem", "title"])
def test_a_model_goes_by_name_stem_and_title(client: Client, form: str) -> None:
    """All three are accepted, the answer names the stem, and the picture heeds the words."""
    row = next(row for row in client.get("sd-models") if row["model_name"] == "my own model")
    name = {"name": "my own model.safetensors", "stem": row["model_name"], "title": row["title"]}
    answer = client.post("txt2img", SMALL | {
        "override_settings": {"sd_model_checkpoint": name[form]},
    })  # fmt: skip
    assert info(answer)["sd_model_name"] == "my own model"
    assert info(answer)["sd_model_hash"] == row["hash"]
    config = Txt2ImgConfig(
        prompt="a lighthouse", seed=5, steps=4, width=64, height=64, model=name[form]
    )
    assert same_pixels(pictures(answer)[0], in_process(config, seed=5))


def test_unknown_names_are_silently_replaced(client: Client) -> None:
    """An unknown model or VAE is ignored, a sampler becomes DPM++ 2M, a scheduler Automatic."""
    plain = client.post("txt2img", SMALL)
    settings = {"sd_model_checkpoint": "no such model", "sd_vae": "no such vae"}
    ignored = client.post("txt2img", SMALL | {"override_settings": settings})
    assert info(ignored)["sd_model_name"] == "sd_xl_base_1.0"
    assert info(ignored)["sd_vae_name"] is None
    assert ignored["images"] == plain["images"]
    for name in ("no such sampler", "k_euler_a", "euler a"):
        body = SMALL | {"sampler_name": name, "scheduler": "no such"}
        replaced = client.post("txt2img", body)
        known = SMALL | {"sampler_name": "DPM++ 2M", "scheduler": "Automatic"}
        assert info(replaced)["sampler_name"] == "DPM++ 2M"
        assert replaced["images"] == client.post("txt2img", known)["images"]


def test_options_are_set_for_good_and_overrides_are_not(slow: Client) -> None:
    """POST /options changes the model, override_settings only for their request."""
    assert slow.get("options")["sd_model_checkpoint"].startswith(f"{BASE} [")
    overriding = SMALL | {"override_settings": {"sd_model_checkpoint": REFINER}}
    assert info(slow.post("txt2img", overriding))["sd_model_name"] == "sd_xl_refiner_1.0"
    assert info(slow.post("txt2img", SMALL))["sd_model_name"] == "sd_xl_base_1.0"
    slow.post("options", {"sd_model_checkpoint": "sd_xl_refiner_1.0", "samples_format": "png"})
    assert slow.get("options")["sd_model_checkpoint"].startswith(f"{REFINER} [")
    assert info(slow.post("txt2img", SMALL))["sd_model_name"] == "sd_xl_refiner_1.0"
    slow.post("txt2img", SMALL | {
        "override_settings": {"CLIP_stop_at_last_layers": 2},
        "override_settings_restore_afterwards": False,
    })  # fmt: skip
    assert info(slow.post("txt2img", SMALL))["clip_skip"] == 2


# --- Refusals


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"steps": 0}, "ZeroDivisionError", "0 steps"),
        ({"steps": 10**9}, "RuntimeError", "steps"),
        ({"n_iter": 0}, "RuntimeError", "images"),
        ({"batch_size": 100, "n_iter": 100}, "RuntimeError", "images"),
        ({"width": 2}, "RuntimeError", "2x64"),
        ({"width": 80_000, "height": 80_000}, "RuntimeError", "pixels"),
        ({"override_settings": {"no_such": 1}}, "KeyError", "no_such"),
        ({"refiner_checkpoint": "no such"}, "Exception", "Could not find checkpoint"),
        ({"enable_hr": True}, "TypeError", "NoneType"),
        (
            {"enable_hr": True, "denoising_strength": 0.5, "hr_upscaler": "no such"},
            "Exception", "could not find upscaler named no such",
        ),
        (
            {"enable_hr": True, "denoising_strength": 0.5, "hr_sampler_name": "Use same sampler"},
            "AssertionError", "bad sampler name",
        ),
        (
            {"enable_hr": True, "denoising_strength": 0.5, "hr_checkpoint_name": "no such"},
            "Exception", "Could not find checkpoint",
        ),
    ],
)  # fmt: skip
def test_what_goes_wrong_in_the_work_is_500(
    client: Client, fields: Json, error: str, words: str
) -> None:
    """Each comes as ``{error, detail, body, errors}``, and the server goes on."""
    found = client.post("txt2img", SMALL | fields, status=500)
    assert found["error"] == error
    assert words in found["errors"]
    assert set(found) == {"error", "detail", "body", "errors"}
    assert client.get("progress")["state"]["job_count"] == 0


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("txt2img", {"steps": "many"}, ["body", "steps"]),
        ("txt2img", {"override_settings": 1}, ["body", "override_settings"]),
        ("txt2img", {"send_images": None}, ["body", "send_images"]),
        ("extra-single-image", {"upscaling_resize": 0}, ["body", "upscaling_resize"]),
        ("extra-single-image", {"gfpgan_visibility": 1.5}, ["body", "gfpgan_visibility"]),
        ("extra-batch-images", {}, ["body", "imageList"]),
        ("extra-batch-images", {"imageList": [{"name": "a"}]}, ["body", "imageList", 0, "data"]),
        ("png-info", {}, ["body", "image"]),
        ("options", [1], ["body"]),
    ],
)
def test_a_field_that_does_not_fit_is_422(
    client: Client, path: str, body: Any, place: list[str | int]
) -> None:
    """Validation names the field at fault; numbers may come as strings."""
    found = client.post(path, body, status=422)
    assert found["detail"][0]["loc"] == place
    assert found["detail"][0]["msg"]
    assert found["detail"][0]["type"]
    assert pictures(client.post("txt2img", SMALL | {"steps": "2"}))


def test_odd_bodies(client: Client) -> None:
    """No JSON is 422, no length 411, too much 413; a lone surrogate is bearable."""
    url = f"{client.url}/sdapi/v1/txt2img"
    for data in (b"", b"{", b"[" * 100_000):
        answer = requests.post(url, data=data, timeout=10)
        assert answer.status_code == 422, answer.text
        assert answer.json()["detail"][0]["loc"][0] == "body"
    assert requests.post(url, data=iter([b"{}"]), timeout=10).status_code == 411
    huge = {"Content-Length": str(2**40)}
    assert requests.post(url, headers=huge, timeout=10).status_code == 413
    odd = json.dumps(SMALL | {"prompt": "\ud800"}).encode()
    answer = requests.post(url, data=odd, timeout=10)
    assert answer.json()["parameters"]["prompt"] == "\ud800"
    assert client.get("txt2img", status=405) == {"detail": "Method Not Allowed"}
    assert client.get("no-such", status=404) == {"detail": "Not Found"}


def test_pictures_that_are_none(client: Client, face: Image.Image) -> None:
    """Missing pictures are 404, an empty list and undecodable ones 500."""
    assert client.post("img2img", SMALL, status=404)["detail"] == "Init image not found"
    assert client.post("img2img", SMALL | {"init_images": []}, status=500)["errors"]
    for bad in ("", "no base64 at all!", "aGVsbG8=", 5, "http://127.0.0.1/x.png"):
        client.post("img2img", SMALL | {"init_images": [bad]}, status=500)
    masked = SMALL | {"init_images": [sent(face)], "mask": "aGVsbG8="}
    assert client.post("img2img", masked, status=500)["detail"] == "Invalid encoded image"
    assert client.post("extra-single-image", {}, status=500)["detail"] == "Invalid encoded image"
    too_strong = SMALL | {"init_images": [sent(face)], "denoising_strength": 2}
    assert client.post("img2img", too_strong, status=500)["error"] == "AssertionError"


def test_unknown_scripts_are_422(client: Client) -> None:
    """A script is looked up in lower case, and refused where there is none."""
    unknown: list[Json] = [{"ControlNet": {"args": []}}, {"adetailer 2": {}}]
    for scripts in unknown:
        found = client.post("txt2img", SMALL | {"alwayson_scripts": scripts}, status=422)
        assert "not found" in found["detail"]
    client.post("txt2img", SMALL | {"script_name": "x/y/z plot"}, status=422)
    client.post("txt2img", SMALL | {"alwayson_scripts": {"ADETAILER": {"args": [False]}}})


def test_options_that_nobody_knows(client: Client) -> None:
    """POST /options refuses unknown keys, models and VAEs, and then sets nothing."""
    before = client.get("options")
    for name in ("no_such", "sd_model_checkpoint", "sd_vae"):
        client.post("options", {"jpeg_quality": 1, name: "no such"}, status=500)
    assert client.get("options") == before


# --- ADetailer's traps


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
    return in_process(config, face, seed=5)


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
    assert same_pixels(pictures(answer)[0], in_process(config, repainted(face), seed=5))
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
    lanczos = in_process(UpscaleConfig(upscaler="Lanczos", factor=2.0), face)
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


# --- Interrupt, progress, queue


def test_an_idle_server_reports_nothing(client: Client) -> None:
    """Progress 0, no job, and no picture, asked for or not."""
    queries: list[Json] = [{}, {"skip_current_image": "true"}]
    for query in queries:
        found = client.get("progress", **query)
        assert (found["progress"], found["eta_relative"], found["current_image"]) == (0, 0, None)
        assert (found["state"]["job"], found["state"]["job_count"]) == ("", 0)
    client.get("progress", status=422, skip_current_image="perhaps")


def under_way(found: Json) -> bool:
    """Whether some steps are done."""
    return bool(found["state"]["sampling_step"] >= 3)


def test_an_interrupt_gives_a_half_made_image(slow: Client) -> None:
    """200, the image begun and none after it; the flag stays until the next job."""
    running = InBackground(slow, "txt2img", SLOW | {"n_iter": 3})
    until(lambda: under_way(slow.get("progress")), "steps")
    found = slow.get("progress")
    assert 0 < found["progress"] < 1
    assert found["eta_relative"] > 0
    assert (found["state"]["job_count"], found["state"]["sampling_steps"]) == (3, 2000)
    assert slow.post("interrupt", {}) == {}
    answer = running.answer()
    assert [image.size for image in pictures(answer)] == [(64, 64)]
    assert slow.get("progress")["state"]["interrupted"] is True
    slow.post("txt2img", SMALL)
    assert slow.get("progress")["state"]["interrupted"] is False


def test_an_interrupt_when_idle_harms_nobody(client: Client) -> None:
    """It only sets the flag, which the next job clears."""
    client.post("interrupt", {})
    assert client.get("progress")["state"]["interrupted"] is True
    whole = client.post("txt2img", SMALL)
    config = Txt2ImgConfig(prompt="a lighthouse", seed=5, steps=4, width=64, height=64)
    assert same_pixels(pictures(whole)[0], in_process(config, seed=5))
    assert client.get("progress")["state"]["interrupted"] is False


def test_an_interrupted_hires_has_the_size_of_the_first_pass(slow: Client) -> None:
    """Interrupted in its second pass, hires gives what the first one made."""
    body = SMALL | {"enable_hr": True, "hr_second_pass_steps": 2000, "denoising_strength": 0.5}
    running = InBackground(slow, "txt2img", body)
    slow.interrupt_when(lambda found: found["state"]["job_no"] == 1)
    first = Txt2ImgConfig(prompt="a lighthouse", seed=5, steps=4, width=64, height=64)
    assert same_pixels(pictures(running.answer())[0], in_process(first, seed=5))


def test_skip_goes_on_with_the_next_image(slow: Client) -> None:
    """The image under way is half made, the others are there."""
    running = InBackground(slow, "txt2img", SLOW | {"n_iter": 2})
    until(lambda: under_way(slow.get("progress")), "steps of the first image")
    slow.post("skip", {})
    slow.interrupt_when(lambda found: found["state"]["job_no"] == 1)
    assert len(pictures(running.answer())) == 2


def test_an_interrupted_adetailer_keeps_the_passes_done(slow: Client, face: Image.Image) -> None:
    """The pass under way leaves no trace but its claim."""
    long = FACE_ARGS | {"ad_use_steps": True, "ad_steps": 2000}
    running = InBackground(slow, "img2img", detailed(face, FACE_ARGS, long))
    slow.interrupt_when(lambda found: found["state"]["job_no"] == 1)
    answer = running.answer()
    alone = slow.post("img2img", detailed(face, FACE_ARGS))
    assert same_pixels(pictures(answer)[0], pictures(alone)[0])
    assert "ADetailer model 2nd" in info(answer)["extra_generation_params"]


def test_an_interrupted_upscale_is_given_again(face: Image.Image) -> None:
    """Of the right size but plainly resized, until the factor is varied a little."""
    with serving(step_delay_s=0.5) as client:
        body = {"image": sent(face), "upscaler_1": "R-ESRGAN 4x+", "upscaling_resize": 2}
        running = InBackground(client, "extra-single-image", body)
        client.interrupt_when(lambda found: found["progress"] == 1)
        plain = in_process(UpscaleConfig(upscaler="Lanczos", factor=2.0), face)
        assert same_pixels(received(running.answer()["image"]), plain)
        again = client.post("extra-single-image", body)
        assert same_pixels(received(again["image"]), plain)
        varied = client.post("extra-single-image", body | {"upscaling_resize": 2.0005})
        whole = in_process(UpscaleConfig(upscaler="R-ESRGAN 4x+", factor=2.0005), face)
        assert same_pixels(received(varied["image"]), whole)


def test_by_size_only_the_crop_evades_the_cache(face: Image.Image) -> None:
    """There the factor follows from the size, so that varying the one sent does not help."""
    with serving(step_delay_s=0.5) as client:
        body = {
            "image": sent(face), "upscaler_1": "R-ESRGAN 4x+", "resize_mode": 1,
            "upscaling_resize_w": 2 * face.width, "upscaling_resize_h": 2 * face.height,
        }  # fmt: skip
        running = InBackground(client, "extra-single-image", body)
        client.interrupt_when(lambda found: found["progress"] == 1)
        spoilt = running.answer()["image"]
        varied = client.post("extra-single-image", body | {"upscaling_resize": 2.0005})
        assert same_pixels(received(varied["image"]), received(spoilt))
        other = client.post("extra-single-image", body | {"upscaling_crop": False})
        assert not same_pixels(received(other["image"]), received(spoilt))


def task(client: Client, name: str) -> tuple[bool, bool, bool]:
    """Whether a task is active, queued, completed."""
    found = client.post("/internal/progress", {"id_task": name})
    return found["active"], found["queued"], found["completed"]


def test_requests_wait_in_turn_and_tasks_are_tracked(slow: Client) -> None:
    """One is active, the next queued; lists answer meanwhile; both are completed at last."""
    first = InBackground(slow, "txt2img", SLOW | {"force_task_id": "first"})
    until(lambda: task(slow, "first") == (True, False, False), "the first task")
    second = InBackground(slow, "txt2img", SMALL | {"force_task_id": "second"})
    until(lambda: task(slow, "second") == (False, True, False), "the second task")
    until(lambda: slow.post("/internal/progress", {"id_task": "first"})["progress"] > 0, "steps")
    assert slow.get("samplers")
    assert second.waits
    slow.post("interrupt", {})
    assert first.answer()["images"]
    assert second.answer()["images"]
    assert task(slow, "first") == task(slow, "second") == (False, False, True)
    assert task(slow, "unheard of") == (False, False, False)


def test_sixteen_finished_tasks_are_kept_and_failed_ones_stay_active(face: Image.Image) -> None:
    """A task that fails stays active until another starts, or queued for ever."""
    with serving() as client:
        for number in range(17):
            client.post("txt2img", SMALL | {"steps": 1, "force_task_id": f"task {number}"})
        assert task(client, "task 0") == (False, False, False)
        assert task(client, "task 1") == (False, False, True)
        client.post("txt2img", SMALL | {"steps": 0, "force_task_id": "fails"}, status=500)
        assert task(client, "fails") == (True, False, False)
        bad = SMALL | {"init_images": ["aGVsbG8="], "force_task_id": "never begun"}
        client.post("img2img", bad, status=500)
        assert task(client, "never begun") == (False, True, False)
        client.post("img2img", SMALL | {"init_images": [sent(face)]})
        assert task(client, "fails") == (False, False, False)


def test_a_server_closes_over_running_and_waiting_requests() -> None:
    """Closing gives up the job under way and sends home who waits; no thread is left."""
    before = set(threading.enumerate())
    with serving(step_delay_s=3600.0) as client:
        for name in ("running", "waiting"):
            asked = SMALL | {"force_task_id": name}
            threading.Thread(target=ask_in_vain, args=(client.url, asked)).start()
            until(lambda: any(task(client, name)[:2]), f"the task {name}")  # noqa: B023 - at once
    until(lambda: set(threading.enumerate()) <= before, "the end of all threads")


# --- Without UI, with credentials


def test_without_ui_there_is_no_internal_route() -> None:
    """``ui`` False leaves the /internal routes out."""
    with serving(ui=False) as client:
        client.get("/internal/ping", status=404)
        client.post("/internal/progress", {"id_task": "x"}, status=404)
        assert client.get("cmd-flags")["nowebui"] is True


def test_credentials_guard_all_but_the_internal_routes() -> None:
    """Without them 401, which does not say how to authenticate."""
    auth = ("somebody", "pass:word")
    with serving(auth=auth) as client:
        for given in (None, ("somebody", "wrong"), ("", "")):
            for path in ("/sdapi/v1/options", "/adetailer/v1/version", "/sdapi/v1/no-such"):
                answer = requests.get(client.url + path, auth=given, timeout=10)
                assert answer.status_code == 401
                assert answer.json() == {"detail": "Incorrect username or password"}
                assert "WWW-Authenticate" not in answer.headers
        body = SMALL | {"prompt": "x" * 200_000}
        assert client.post("txt2img", body, status=401)
        assert client.get("/internal/ping") == {}
        assert client.get("/openapi.json")["paths"]
        options = f"{client.url}/sdapi/v1/options"
        assert requests.get(options, auth=auth, timeout=10).status_code == 200


# --- Lists


def test_the_lists_hold_every_name_of_the_examples(client: Client) -> None:
    """Whatever an example asks for by name is offered."""
    models = {name for row in client.get("sd-models") for name in
              (row["title"], row["model_name"], Path(row["filename"]).name)}  # fmt: skip
    labels = {label for row in client.get("schedulers") for label in (row["label"], row["name"])}
    offered = {
        "model": models,
        "sampler": {row["name"] for row in client.get("samplers")},
        "scheduler": labels,
        "upscaler": {row["name"] for row in client.get("upscalers")}
        | {row["name"] for row in client.get("latent-upscale-modes")},
        "detector": set(client.get("/adetailer/v1/ad_model")["ad_model"]),
    }
    for path in (Path(__file__).parent.parent / "examples").glob("*.toml"):
        for kind, name in _names(tomllib.loads(path.read_text(encoding="utf-8"))):
            assert name in offered[kind], f"{path.name}: {kind} {name}"


def _names(tables: Json, within: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tables.items():
        if isinstance(value, dict):
            yield from _names(value, key)
        elif isinstance(value, list):
            for one in value:
                yield from _names(one, key)
        elif key == "model":
            yield "detector" if within == "passes" else "model", value
        elif key in ("sampler", "scheduler", "upscaler"):
            yield key, value
        elif key == "upscaler_2":
            yield "upscaler", value


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("sd-models", {"title", "model_name", "hash", "sha256", "filename"}),
        ("sd-vae", {"model_name", "filename"}),
        ("samplers", {"name", "aliases", "options"}),
        ("schedulers", {"name", "label", "aliases"}),
        ("upscalers", {"name", "model_name", "model_path", "model_url", "scale"}),
        ("latent-upscale-modes", {"name"}),
        ("script-info", {"name", "is_alwayson", "is_img2img", "args"}),
        ("extensions", {"name", "version", "enabled"}),
        ("face-restorers", {"name"}),
        ("realesrgan-models", {"name"}),
    ],
)
def test_every_list_has_rows_with_these_keys(client: Client, path: str, keys: set[str]) -> None:
    """Each list route gives rows as a WebUI does."""
    rows = client.get(path)
    assert rows
    assert all(keys <= set(row) for row in rows)


def test_the_other_facts_of_the_server(client: Client) -> None:
    """Empty lists, tables, ADetailer's own routes, and posts that do nothing."""
    for path in ("loras", "hypernetworks", "prompt-styles"):
        assert client.get(path) == []
    assert set(client.get("scripts")) == {"txt2img", "img2img"}
    assert "adetailer" in client.get("scripts")["img2img"]
    assert client.get("memory")["ram"]["total"] >= 0
    assert client.get("embeddings") == {"loaded": {}, "skipped": {}}
    assert client.get("options")["ad_max_models"] == 4
    assert client.get("/adetailer/v1/version") == {"version": "25.3.0"}
    schema = client.get("/adetailer/v1/schema")
    assert schema["properties"]["ad_confidence"]["default"] == 0.3
    assert schema["additionalProperties"] is False
    for path in ("refresh-checkpoints", "refresh-vae", "unload-checkpoint", "skip"):
        assert client.post(path, {}) in (None, {})


@pytest.mark.parametrize(
    "name",
    [
        "StableDiffusionProcessingTxt2Img",
        "StableDiffusionProcessingImg2Img",
        "ExtrasSingleImageRequest",
        "ExtrasBatchImagesRequest",
        "FileData",
        "PNGInfoRequest",
    ],
)
def test_the_schema_is_that_of_a_live_server(client: Client, name: str) -> None:
    """Field names, types, bounds, defaults and required fields are AUTOMATIC1111 1.10.1's."""
    path = Path(__file__).parent / "webui-openapi.json"
    live = json.loads(path.read_text(encoding="utf-8"))["components"]["schemas"][name]
    ours = client.get("/openapi.json")["components"]["schemas"][name]
    assert _untitled(ours["properties"]) == _untitled(live["properties"])
    assert ours.get("required") == live.get("required")


def _untitled(fields: Json) -> Json:
    words = ("title", "description")
    return {
        name: {key: value for key, value in field.items() if key not in words}
        for name, field in fields.items()
    }


def test_the_schema_names_every_route(client: Client) -> None:
    """The bodies hang on their routes, and each path in it answers."""
    paths = client.get("/openapi.json")["paths"]
    body = paths["/sdapi/v1/txt2img"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"] == {"$ref": "#/components/schemas/StableDiffusionProcessingTxt2Img"}
    for path, methods in paths.items():
        if "get" in methods:
            assert client.get(path) is not None
