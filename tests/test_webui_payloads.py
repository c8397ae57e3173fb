"""What a server is sent for each stage, field by field."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from stagewright.adapters.backends.http.errors import RequestRefusedError
from stagewright.adapters.backends.webui.features import ServerFeatures, features_of
from stagewright.adapters.backends.webui.payload import Payload
from stagewright.adapters.backends.webui.payloads import payload_of
from stagewright.adapters.backends.webui.upscale_payload import cache_fillers
from stagewright.statemachine.ports import GenerateRequest, SourceImage
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

SCHEMA = json.loads((Path(__file__).parent / "webui-openapi.json").read_bytes())
CALL_ID = "20261120T225226.123456Z-test-7f3a9c.00-txt2img.00002.0"
SOURCE = SourceImage(
    data=b"picture", source_sha256="s" * 64, media_type="image/png", width=512, height=768
)
MASK = SourceImage(
    data=b"mask", source_sha256="m" * 64, media_type="image/png", width=512, height=768
)
TXT2IMG = Txt2ImgConfig(
    prompt="a lighthouse",
    negative_prompt="blurry",
    seed=40,
    model="base.safetensors",
    vae="anime.vae.pt",
    clip_skip=2,
    sampler="Euler a",
    scheduler="Karras",
    steps=25,
    cfg_scale=7.0,
    width=512,
    height=768,
)
REFINER = RefinerConfig(model="refiner.safetensors", switch_at=0.8)
IMG2IMG = Img2ImgConfig(
    prompt="a lighthouse at night",
    seed=40,
    model="base.safetensors",
    sampler="Euler a",
    steps=20,
    cfg_scale=6.5,
    denoise=0.3,
)
COMMON = {
    "prompt": "a lighthouse",
    "negative_prompt": "blurry",
    "steps": 25,
    "cfg_scale": 7.0,
    "seed": 42,
    "n_iter": 1,
    "send_images": True,
    "save_images": False,
    "force_task_id": CALL_ID,
    "override_settings": {
        "sd_model_checkpoint": "base.safetensors",
        "sd_vae": "anime.vae.pt",
        "CLIP_stop_at_last_layers": 2,
    },
    "override_settings_restore_afterwards": True,
    "sampler_name": "Euler a",
    "scheduler": "Karras",
}


def request(config: StageConfig, **fields: Any) -> GenerateRequest:
    """The request for image 2."""
    kind = config.stage_type
    given = {"inputs": () if config.takes_prompt else (SOURCE,), "count": 1} | fields
    return GenerateRequest(
        call_id=CALL_ID,
        run_id="run",
        stage_id=f"00-{kind}",
        stage_type=kind,
        image_index=2,
        total_images=3,
        attempt=0,
        seed=42,
        config=config,
        **given,
    )


def sent(config: StageConfig, features: ServerFeatures | None = None, **more: Any) -> Payload:
    """What goes over the line, decoded again."""
    varied = more.pop("varied", False)
    payload = payload_of(request(config, **more), features, varied=varied)
    return Payload(payload.endpoint, json.loads(payload.encoded()))


def changed(config: Any, **fields: Any) -> Any:
    return msgspec.structs.replace(config, **fields)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


class OtherConfig(StageConfig, frozen=True, kw_only=True):
    """A stage of another package."""

    stage_type = "other"


def test_a_stage_that_a_server_does_not_serve_is_refused_by_name() -> None:
    """Before anything is sent, and not worth another try."""
    with pytest.raises(RequestRefusedError, match="does not serve the stage 'other'") as caught:
        sent(OtherConfig())
    assert caught.value.transient is False


def test_txt2img_sends_what_the_plan_holds_and_nothing_else() -> None:
    """Model, VAE and clip skip go as overrides, the call id as the task's, the seed as it is."""
    payload = sent(TXT2IMG)
    assert payload.endpoint == "/sdapi/v1/txt2img"
    assert payload.body == COMMON | {"batch_size": 1, "width": 512, "height": 768}


def test_txt2img_with_refiner_and_hires() -> None:
    """The second pass has its own fields; denoise goes as ``denoising_strength``."""
    hires = HiresConfig(
        upscaler="Latent", scale=1.5, steps=12, denoise=0.35, model="refiner.safetensors"
    )
    body = sent(changed(TXT2IMG, refiner=REFINER, hires=hires)).body
    extra = {key: value for key, value in body.items() if key not in COMMON}
    assert extra == {
        "batch_size": 1,
        "width": 512,
        "height": 768,
        "refiner_checkpoint": "refiner.safetensors",
        "refiner_switch_at": 0.8,
        "enable_hr": True,
        "denoising_strength": 0.35,
        "hr_scale": 1.5,
        "hr_upscaler": "Latent",
        "hr_second_pass_steps": 12,
        "hr_checkpoint_name": "refiner.safetensors",
    }


def test_every_setting_of_hires_is_sent() -> None:
    """To a size, with its own sampler, scheduler and prompts."""
    hires = HiresConfig(
        resize_x=768,
        resize_y=1152,
        denoise=0.4,
        sampler="DPM++ 2M",
        scheduler="Karras",
        prompt="more",
        negative_prompt="less",
    )
    body = sent(changed(TXT2IMG, hires=hires)).body
    assert {key: value for key, value in body.items() if key.startswith("hr_")} == {
        "hr_resize_x": 768,
        "hr_resize_y": 1152,
        "hr_sampler_name": "DPM++ 2M",
        "hr_scheduler": "Karras",
        "hr_prompt": "more",
        "hr_negative_prompt": "less",
    }


def test_what_is_switched_off_is_not_sent() -> None:
    """A refiner and a second pass with ``enabled = false`` leave no trace."""
    off = changed(
        TXT2IMG,
        refiner=changed(REFINER, enabled=False),
        hires=HiresConfig(enabled=False, scale=2.0, denoise=0.5),
    )
    assert sent(off).body == sent(TXT2IMG).body


def test_a_batch_is_one_request() -> None:
    """``batch_size`` is the count of the request; the first image's seed stands for all."""
    body = sent(TXT2IMG, count=3).body
    assert (body["batch_size"], body["n_iter"], body["seed"]) == (3, 1, 42)


def test_txt2img_sends_tiling_faces_and_styles_where_they_are_set() -> None:
    """False is said as well as true."""
    body = sent(changed(TXT2IMG, tiling=True, restore_faces=False, styles=("a", "b"))).body
    assert (body["tiling"], body["restore_faces"], body["styles"]) == (True, False, ["a", "b"])


def test_img2img_sends_its_image_at_its_own_size() -> None:
    """Without a size it is the image's, on the grid of 8; its own prompt and denoise go along."""
    odd = changed(SOURCE, width=519, height=771)
    payload = sent(changed(IMG2IMG, refiner=REFINER), inputs=(odd,))
    assert payload.endpoint == "/sdapi/v1/img2img"
    assert payload.body == {
        "prompt": "a lighthouse at night",
        "steps": 20,
        "cfg_scale": 6.5,
        "seed": 42,
        "n_iter": 1,
        "send_images": True,
        "save_images": False,
        "force_task_id": CALL_ID,
        "override_settings": {"sd_model_checkpoint": "base.safetensors"},
        "override_settings_restore_afterwards": True,
        "sampler_name": "Euler a",
        "init_images": [encoded(b"picture")],
        "denoising_strength": 0.3,
        "width": 512,
        "height": 768,
        "refiner_checkpoint": "refiner.safetensors",
        "refiner_switch_at": 0.8,
    }


def test_img2img_sends_mask_size_and_mode() -> None:
    """A mask goes beside the image; a stated size counts."""
    stated = changed(IMG2IMG, width=640, height=960, resize_mode=1)
    body = sent(stated, mask=MASK).body
    assert (body["mask"], body["width"], body["height"]) == (encoded(b"mask"), 640, 960)
    assert body["resize_mode"] == 1


def test_upscale_by_factor() -> None:
    """Mode 0; an upscale is no task and gets no id, prompt or seed."""
    payload = sent(UpscaleConfig(upscaler="R-ESRGAN 4x+", factor=2.5))
    assert payload.endpoint == "/sdapi/v1/extra-single-image"
    assert payload.body == {
        "image": encoded(b"picture"),
        "upscaler_1": "R-ESRGAN 4x+",
        "resize_mode": 0,
        "upscaling_resize": 2.5,
    }


def test_upscale_to_a_size_with_everything() -> None:
    """Mode 1, a second upscaler and face restoration."""
    config = UpscaleConfig(
        upscaler="R-ESRGAN 4x+",
        width=1024,
        height=1536,
        crop=False,
        upscaler_2="Lanczos",
        upscaler_2_visibility=0.5,
        gfpgan_visibility=0.25,
        codeformer_visibility=0.75,
        codeformer_weight=0.125,
        upscale_first=True,
    )
    assert sent(config).body == {
        "image": encoded(b"picture"),
        "upscaler_1": "R-ESRGAN 4x+",
        "resize_mode": 1,
        "upscaling_resize_w": 1024,
        "upscaling_resize_h": 1536,
        "upscaling_crop": False,
        "upscaler_2": "Lanczos",
        "extras_upscaler_2_visibility": 0.5,
        "gfpgan_visibility": 0.25,
        "codeformer_visibility": 0.75,
        "codeformer_weight": 0.125,
        "upscale_first": True,
    }


def test_an_interrupted_upscale_by_a_factor_is_sent_with_another_cache_key() -> None:
    """The factor is larger, by less than 0.001."""
    by_factor = UpscaleConfig(upscaler="Lanczos", factor=2.0)
    assert 2.0 < sent(by_factor, varied=True).body["upscaling_resize"] < 2.001
    for config in (TXT2IMG, by_factor):
        assert cache_fillers(request(config)) == []


def test_an_interrupted_upscale_to_a_size_is_pushed_out_of_the_cache() -> None:
    """It has no other key; ten different small upscales are as many as a server can keep."""
    sized = UpscaleConfig(upscaler="Lanczos", width=1024, height=1024)
    assert sent(sized, varied=True) == sent(sized)
    fillers = cache_fillers(request(sized))
    assert len({filler.encoded() for filler in fillers}) == 10
    assert {filler.endpoint for filler in fillers} == {"/sdapi/v1/extra-single-image"}


def test_nothing_else_is_varied() -> None:
    """Requests that sample are the same again after an interrupt."""
    assert sent(TXT2IMG, varied=True) == sent(TXT2IMG)


def detailing(*passes: AdetailerPass) -> AdetailerConfig:
    return AdetailerConfig(
        passes=passes,
        prompt="a lighthouse",
        negative_prompt="blurry",
        seed=40,
        model="base.safetensors",
        vae="anime.vae.pt",
        clip_skip=2,
        sampler="Euler a",
        scheduler="Karras",
        steps=25,
        cfg_scale=7.0,
    )


def test_adetailer_works_alone_on_the_finished_image() -> None:
    """Enabled and without img2img by real booleans, at the image's size, with denoise 0."""
    payload = sent(
        detailing(
            AdetailerPass(model="face_yolov8n.pt", denoise=0.4, width=512, height=768),
            AdetailerPass(model="hand_yolov8n.pt"),
        )
    )
    assert payload.endpoint == "/sdapi/v1/img2img"
    arguments = [
        True,
        True,
        {
            "ad_model": "face_yolov8n.pt",
            "ad_denoising_strength": 0.4,
            "ad_inpaint_width": 512,
            "ad_inpaint_height": 768,
            "ad_use_inpaint_width_height": True,
        },
        {"ad_model": "hand_yolov8n.pt"},
    ]
    assert payload.body == COMMON | {
        "init_images": [encoded(b"picture")],
        "denoising_strength": 0,
        "width": 512,
        "height": 768,
        "alwayson_scripts": {"ADetailer": {"args": arguments}},
    }
    raw = payload_of(request(detailing(AdetailerPass(model="face_yolov8n.pt")))).encoded()
    assert b'"args":[true,true,' in raw


def test_every_key_of_a_pass_has_its_name_in_adetailer() -> None:
    """All settings of a pass arrive, and what needs a switch gets it."""
    full = AdetailerPass(
        model="face_yolov8n.pt", classes="face", prompt="p", negative_prompt="n", confidence=0.5,
        denoise=0.25, mask_filter="Confidence", mask_k=2, mask_min_ratio=0.125,
        mask_max_ratio=0.75, dilate_erode=-4, x_offset=1, y_offset=-1, merge="Merge", mask_blur=8,
        only_masked=False, padding=16, width=640, height=704, steps=30, cfg_scale=5.5,
        sampler="DPM++ 2M", scheduler="Karras", checkpoint="faces.safetensors", vae="v.pt",
        noise_multiplier=1.25, clip_skip=3, restore_face=True, controlnet_model="c",
        controlnet_module="m", controlnet_weight=0.5, controlnet_guidance_start=0.125,
        controlnet_guidance_end=0.875,
    )  # fmt: skip
    of_neo = {"modules", "distilled_cfg_scale", "shift"}
    assert {name for name in full.__struct_fields__ if getattr(full, name) is None} == of_neo
    assert sent(detailing(full)).body["alwayson_scripts"]["ADetailer"]["args"][2] == {
        "ad_model": "face_yolov8n.pt", "ad_model_classes": "face", "ad_prompt": "p",
        "ad_negative_prompt": "n", "ad_confidence": 0.5, "ad_denoising_strength": 0.25,
        "ad_mask_filter_method": "Confidence", "ad_mask_k": 2, "ad_mask_min_ratio": 0.125,
        "ad_mask_max_ratio": 0.75, "ad_dilate_erode": -4, "ad_x_offset": 1, "ad_y_offset": -1,
        "ad_mask_merge_invert": "Merge", "ad_mask_blur": 8, "ad_inpaint_only_masked": False,
        "ad_inpaint_only_masked_padding": 16, "ad_use_inpaint_width_height": True,
        "ad_inpaint_width": 640, "ad_inpaint_height": 704, "ad_use_steps": True, "ad_steps": 30,
        "ad_use_cfg_scale": True, "ad_cfg_scale": 5.5, "ad_use_sampler": True,
        "ad_sampler": "DPM++ 2M", "ad_scheduler": "Karras", "ad_use_checkpoint": True,
        "ad_checkpoint": "faces.safetensors", "ad_use_vae": True, "ad_vae": "v.pt",
        "ad_use_noise_multiplier": True, "ad_noise_multiplier": 1.25, "ad_use_clip_skip": True,
        "ad_clip_skip": 3, "ad_restore_face": True, "ad_controlnet_model": "c",
        "ad_controlnet_module": "m", "ad_controlnet_weight": 0.5,
        "ad_controlnet_guidance_start": 0.125, "ad_controlnet_guidance_end": 0.875,
    }  # fmt: skip


def test_a_pass_with_a_scheduler_alone_keeps_the_stages_sampler() -> None:
    """ADetailer has one switch for both, and a default sampler that nobody asked for."""
    one = AdetailerPass(model="face_yolov8n.pt", scheduler="Karras")
    arguments = sent(detailing(one)).body["alwayson_scripts"]["ADetailer"]["args"][2]
    assert (arguments["ad_sampler"], arguments["ad_scheduler"]) == ("Euler a", "Karras")


@pytest.mark.parametrize(
    "config",
    [
        changed(TXT2IMG, refiner=REFINER, hires=HiresConfig(scale=2.0, denoise=0.5, model="x")),
        changed(IMG2IMG, refiner=REFINER, resize_mode=0),
        UpscaleConfig(upscaler="Lanczos", factor=2.0, gfpgan_visibility=0.5),
        UpscaleConfig(upscaler="Lanczos", width=640, height=640, crop=True),
        detailing(AdetailerPass(model="face_yolov8n.pt")),
    ],
)
def test_no_field_is_unknown_to_a_real_server(config: StageConfig) -> None:
    """A server ignores a misspelt field in silence, so each is looked up in its schema."""
    features = features_of(SCHEMA)
    payload = payload_of(request(config))
    assert set(payload.body) <= features.fields[payload.endpoint]
    assert payload_of(request(config), features) == payload
