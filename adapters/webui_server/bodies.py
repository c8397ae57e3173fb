"""The bodies of requests: the fields, types and defaults of AUTOMATIC1111 1.10.1.

A field that may be null is null for "not set", whatever its default. Sizes are pixels.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Side = Annotated[int, Meta(ge=1)]


class CommonBody(Struct, frozen=True, kw_only=True):
    """What txt2img and img2img have in common, but for the denoising strength's default."""

    prompt: str | None = ""
    negative_prompt: str | None = ""
    styles: list[str] | None = None
    seed: int | None = -1
    subseed: int | None = -1
    subseed_strength: float | None = 0
    seed_resize_from_h: int | None = -1
    seed_resize_from_w: int | None = -1
    sampler_name: str | None = None
    scheduler: str | None = None
    batch_size: int | None = 1
    n_iter: int | None = 1
    steps: int | None = 50
    cfg_scale: float | None = 7.0
    width: int | None = 512
    height: int | None = 512
    restore_faces: bool | None = None
    tiling: bool | None = None
    do_not_save_samples: bool | None = False
    do_not_save_grid: bool | None = False
    eta: float | None = None
    s_min_uncond: float | None = None
    s_churn: float | None = None
    s_tmax: float | None = None
    s_tmin: float | None = None
    s_noise: float | None = None
    override_settings: dict[str, Any] | None = None
    override_settings_restore_afterwards: bool | None = True
    refiner_checkpoint: str | None = None
    refiner_switch_at: float | None = None
    disable_extra_networks: bool | None = False
    firstpass_image: str | None = None
    comments: dict[str, Any] | None = None
    force_task_id: str | None = None
    sampler_index: str | None = "Euler"
    script_name: str | None = None
    script_args: list[Any] = []
    send_images: bool = True
    save_images: bool = False
    alwayson_scripts: dict[str, Any] = {}
    infotext: str | None = None


class Txt2ImgBody(CommonBody, frozen=True, kw_only=True):
    """POST /sdapi/v1/txt2img."""

    denoising_strength: float | None = None
    enable_hr: bool | None = False
    firstphase_width: int | None = 0
    firstphase_height: int | None = 0
    hr_scale: float | None = 2.0
    hr_upscaler: str | None = None
    hr_second_pass_steps: int | None = 0
    hr_resize_x: int | None = 0
    hr_resize_y: int | None = 0
    hr_checkpoint_name: str | None = None
    hr_sampler_name: str | None = None
    hr_scheduler: str | None = None
    hr_prompt: str | None = ""
    hr_negative_prompt: str | None = ""


class Img2ImgBody(CommonBody, frozen=True, kw_only=True):
    """POST /sdapi/v1/img2img."""

    denoising_strength: float | None = 0.75
    init_images: list[Any] | None = None
    resize_mode: int | None = 0
    image_cfg_scale: float | None = None
    mask: str | None = None
    mask_blur_x: int | None = 4
    mask_blur_y: int | None = 4
    mask_blur: int | None = None
    mask_round: bool | None = True
    inpainting_fill: int | None = 0
    inpaint_full_res: bool | None = True
    inpaint_full_res_padding: int | None = 0
    inpainting_mask_invert: int | None = 0
    initial_noise_multiplier: float | None = None
    latent_mask: str | None = None
    include_init_images: bool = False


class ExtrasBody(Struct, frozen=True, kw_only=True):
    """What both upscaling requests have in common."""

    resize_mode: Literal[0, 1] | None = 0
    show_extras_results: bool | None = True
    gfpgan_visibility: Share | None = 0
    codeformer_visibility: Share | None = 0
    codeformer_weight: Share | None = 0
    upscaling_resize: Annotated[float, Meta(gt=0.0)] | None = 2
    upscaling_resize_w: Side | None = 512
    upscaling_resize_h: Side | None = 512
    upscaling_crop: bool | None = True
    upscaler_1: str | None = "None"
    upscaler_2: str | None = "None"
    extras_upscaler_2_visibility: Share | None = 0
    upscale_first: bool | None = False


class ExtrasSingleBody(ExtrasBody, frozen=True, kw_only=True):
    """POST /sdapi/v1/extra-single-image."""

    image: str = ""


class FileData(Struct, frozen=True, kw_only=True):
    """One picture of a batch, in base64."""

    data: str
    name: str


class ExtrasBatchBody(ExtrasBody, frozen=True, kw_only=True):
    """POST /sdapi/v1/extra-batch-images."""

    imageList: list[FileData]  # noqa: N815 - the API's own name


class PngInfoBody(Struct, frozen=True, kw_only=True):
    """POST /sdapi/v1/png-info."""

    image: str


class TaskProgressBody(Struct, frozen=True, kw_only=True):
    """POST /internal/progress."""

    id_task: str | None = None
    id_live_preview: int = -1
    live_preview: bool = True
