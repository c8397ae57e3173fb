"""Maps requests to stage configurations: the reverse of our client's mapping.

Only this module knows the fields of the stages' configurations.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import accumulate
from typing import Any, Literal

import msgspec

from ...statemachine.stages import (
    AdetailerConfig,
    AdetailerPass,
    HiresConfig,
    Img2ImgConfig,
    RefinerConfig,
    StageConfig,
    Txt2ImgConfig,
    UpscaleConfig,
)
from ..backends.embedded.settings import DEFAULT_STEPS, passes_of
from ..backends.webui.detailer_payload import SENT, SWITCHED
from .api_errors import server_error
from .bodies import Body
from .offered_names import DETECTORS, LATENT_MODES, SAMPLERS, UPSCALERS, Sampling, scheduler_label
from .product import Product
from .settings import Loaded

DetailerPass = tuple[Mapping[str, Any], Mapping[str, Any]]
"""The arguments of one pass of ADetailer: all with defaults, and those that were sent."""

NO_MODEL = (None, "", "None", "none", "Use same checkpoint")
NO_UPSCALER = (None, "None")

_PLAIN_UPSCALER = "Lanczos"
_SAME_AS_STAGE = ("None", "Use same checkpoint", "Use same VAE", "Use same scheduler", "")


_MASK_CONTENTS: tuple[Literal["fill", "original", "noise", "nothing"], ...] = (
    *("fill", "original", "noise", "nothing"),
)
_AS_THE_STAGE = ["Use same choices"]
"""The modules of a hires pass that has none of its own."""


def sampling_settings(
    asked: Body, loaded: Loaded, sampling: Sampling, seed: int, product: Product
) -> dict[str, Any]:
    """The settings that all sampling stages share."""
    return {
        **_distilled(asked.given.get("distilled_cfg_scale"), loaded, product),
        "modules": loaded.modules,
        **asked.sent("negative_prompt", "steps", "cfg_scale"),
        "prompt": asked.all["prompt"],
        "seed": seed,
        "model": loaded.model,
        "vae": loaded.vae,
        "clip_skip": loaded.clip_skip,
        "sampler": sampling.sampler,
        "scheduler": sampling.scheduler,
    }


def _distilled(value: Any, loaded: Loaded, product: Product) -> dict[str, Any]:
    """The distilled CFG scale, or what a model takes in its place."""
    model = loaded.checkpoint.name.casefold()
    keys = {"shift": product.shifted, "distilled_cfg_scale": product.distilled}
    return {key: value for key, parts in keys.items() if any(part in model for part in parts)}


def _generation(asked: Body) -> dict[str, Any]:
    """The settings that only stages that generate have."""
    styles = asked.given.get("styles")
    return {
        **asked.sent("subseed", "subseed_strength", "eta", "s_noise"),
        "styles": None if styles is None else tuple(styles),
    }


def txt2img_config(
    asked: Body, settings: dict[str, Any], refiner: RefinerConfig | None
) -> Txt2ImgConfig:
    """The stage's configuration. Raises ApiError, 500, for an unknown hires upscaler."""
    return Txt2ImgConfig(
        **settings,
        **_generation(asked),
        width=asked.all["width"],
        height=asked.all["height"],
        **asked.sent("tiling", "restore_faces"),
        refiner=refiner,
        hires=_hires(asked) if asked.all["enable_hr"] else None,
    )


def img2img_config(
    asked: Body, settings: dict[str, Any], refiner: RefinerConfig | None
) -> Img2ImgConfig:
    """The stage's configuration. Raises ApiError, 500, for a denoise outside 0 to 1."""
    given = asked.given
    if not 0 <= asked.all["denoising_strength"] <= 1:
        raise server_error("AssertionError", "can only work with strength in [0.0, 1.0]")
    content, whole = given.get("inpainting_fill"), given.get("inpaint_full_res")
    invert = given.get("inpainting_mask_invert")
    return Img2ImgConfig(
        **settings,
        **_generation(asked),
        mask_content=None if content is None else _MASK_CONTENTS[content % len(_MASK_CONTENTS)],
        mask_area=None if whole is None else ("masked" if whole else "whole"),
        mask_padding=given.get("inpaint_full_res_padding"),
        mask_blur=given.get("mask_blur"),
        mask_invert=None if invert is None else bool(invert),
        denoise=asked.given.get("denoising_strength"),
        width=asked.all["width"],
        height=asked.all["height"],
        resize_mode=asked.given.get("resize_mode"),
        refiner=refiner,
    )


def adetailer_config(settings: dict[str, Any], passes: Iterable[DetailerPass]) -> AdetailerConfig:
    """ADetailer's configuration: the settings of the request, and its passes."""
    return AdetailerConfig(**settings, passes=tuple(map(_adetailer_pass, passes)))


def with_known_detectors(config: AdetailerConfig) -> AdetailerConfig:
    """The same configuration, in which unknown detectors find nothing."""
    passes = (
        one if one.model in DETECTORS else msgspec.structs.replace(one, model="None")
        for one in config.passes
    )
    return msgspec.structs.replace(config, passes=tuple(passes))


def refiner_config(asked: Body, loaded: Loaded) -> RefinerConfig:
    """The refiner of a request, in the passes that the server's options say."""
    return RefinerConfig(
        model=asked.given["refiner_checkpoint"],
        switch_at=asked.given.get("refiner_switch_at"),
        acts_in=loaded.refined_passes,
    )


def check_hires_modules(asked: Body) -> None:
    """Raises ApiError, 500, where Forge fails for lack of modules for its hires pass."""
    if asked.all["hr_additional_modules"] is None:
        raise server_error("TypeError", "argument of type 'NoneType' is not iterable")


def _hires(asked: Body) -> HiresConfig:
    fields = asked.all
    _check_hires(fields)
    modules = asked.given.get("hr_additional_modules")
    width, height = fields["hr_resize_x"] or None, fields["hr_resize_y"] or None
    known = scheduler_label(fields["hr_scheduler"]) is not None
    model = fields["hr_checkpoint_name"]
    return HiresConfig(
        upscaler=fields["hr_upscaler"],
        scale=None if width or height else fields["hr_scale"],
        resize_x=width,
        resize_y=height,
        steps=fields["hr_second_pass_steps"] or None,
        denoise=fields["denoising_strength"],
        cfg_scale=fields.get("hr_cfg"),
        distilled_cfg_scale=asked.given.get("hr_distilled_cfg"),
        modules=None if modules in (None, _AS_THE_STAGE) else tuple(modules),
        sampler=fields["hr_sampler_name"],
        scheduler=fields["hr_scheduler"] if known else None,
        model=None if model in NO_MODEL else model,
        prompt=fields["hr_prompt"] or None,
        negative_prompt=fields["hr_negative_prompt"] or None,
    )


def _check_hires(fields: Mapping[str, Any]) -> None:
    upscaler, sampler = fields["hr_upscaler"], fields["hr_sampler_name"]
    if upscaler is not None and upscaler not in (*LATENT_MODES, *UPSCALERS):
        raise server_error("Exception", f"could not find upscaler named {upscaler}")
    if fields["denoising_strength"] is None:
        words = "'>' not supported between instances of 'NoneType' and 'float'"
        raise server_error("TypeError", words)
    if sampler is not None and sampler not in SAMPLERS:
        raise server_error("AssertionError", f"bad sampler name: {sampler}")


def _adetailer_pass(one: DetailerPass) -> AdetailerPass:
    """One pass of ADetailer; None for settings that were not sent, or not switched on."""
    fields, sent = one
    used = {name: fields[key] for name, key in SENT.items() if key in sent and name != "shift"}
    for switch, names in SWITCHED.items():
        if fields.get(switch):
            used |= {name: _unless_same(fields[key]) for name, key in names.items()}
    if "ad_controlnet_guidance_start_end" in sent:
        start, end = fields["ad_controlnet_guidance_start_end"]
        used |= {"controlnet_guidance_start": start, "controlnet_guidance_end": end}
    if isinstance(used.get("modules"), list):
        used["modules"] = tuple(used["modules"]) or None
    return AdetailerPass(**used)


def _unless_same(value: Any) -> Any:
    """None for values that mean the setting of the stage."""
    return None if value in _SAME_AS_STAGE else value


def upscale_config(asked: Body, plain: Collection[str] = ()) -> UpscaleConfig:
    """The stage's configuration; without a first upscaler nothing is resized.

    Lanczos takes the place of the upscalers in ``plain``. Raises ApiError, 500, for an upscaler
    that is not listed.
    """
    given, fields = asked.given, asked.all
    restored = UpscaleConfig(
        **asked.sent("gfpgan_visibility", "codeformer_visibility", "codeformer_weight"),
        upscale_first=given.get("upscale_first"),
    )
    first, second = fields["upscaler_1"], fields["upscaler_2"]
    if first in NO_UPSCALER:
        return restored
    for name in (first, second):
        if name not in UPSCALERS:
            raise server_error("AssertionError", f"could not find upscaler named {name}")
    second = None if second in NO_UPSCALER else second
    visibility = None if second is None else given.get("extras_upscaler_2_visibility")
    by_size = fields["resize_mode"] == 1
    return msgspec.structs.replace(
        restored,
        upscaler=_PLAIN_UPSCALER if first in plain else first,
        factor=None if by_size else fields["upscaling_resize"],
        width=fields["upscaling_resize_w"] if by_size else None,
        height=fields["upscaling_resize_h"] if by_size else None,
        crop=given.get("upscaling_crop") if by_size else None,
        upscaler_2=_PLAIN_UPSCALER if second in plain else second,
        upscaler_2_visibility=visibility,
    )


def partial_config(config: StageConfig, done: int) -> StageConfig:
    """A configuration that gives the picture as it is after ``done`` steps."""
    return _PARTIAL[config.stage_type](config, done)


def _partial_txt2img(config: Txt2ImgConfig, done: int) -> Txt2ImgConfig:
    """The steps of the first pass so far; with hires, the refiner may act in the second only."""
    steps, refiner = _partial_steps(config.steps, done), config.refiner
    if config.hires is not None and refiner is not None and refiner.acts_in is None:
        refiner = None
    return msgspec.structs.replace(config, steps=steps, hires=None, refiner=refiner)


def _partial_img2img(config: Img2ImgConfig, done: int) -> Img2ImgConfig:
    return msgspec.structs.replace(config, steps=_partial_steps(config.steps, done))


def _partial_steps(steps: int | None, done: int) -> int:
    return max(1, min(done, steps or DEFAULT_STEPS))


def _partial_upscale(config: UpscaleConfig, _: int) -> UpscaleConfig:
    """A plain resize."""
    return msgspec.structs.replace(config, upscaler=_PLAIN_UPSCALER, upscaler_2=None)


def _partial_adetailer(config: AdetailerConfig, done: int) -> AdetailerConfig:
    """The passes that are finished."""
    ends = accumulate(passes_of(config))
    finished = sum(end <= done for end in ends)
    return msgspec.structs.replace(config, passes=config.passes[:finished])


_PARTIAL: Mapping[str, Callable[[Any, int], StageConfig]] = {
    "txt2img": _partial_txt2img,
    "img2img": _partial_img2img,
    "upscale": _partial_upscale,
    "adetailer": _partial_adetailer,
}
