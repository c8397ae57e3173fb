"""A pass of ADetailer as its extension wants it: a dict in which no other key may stand."""

from __future__ import annotations

from typing import Any

from ...statemachine.stage_configs import AdetailerPass

_KEYS = {
    "model": "ad_model",
    "classes": "ad_model_classes",
    "prompt": "ad_prompt",
    "negative_prompt": "ad_negative_prompt",
    "confidence": "ad_confidence",
    "denoise": "ad_denoising_strength",
    "mask_filter": "ad_mask_filter_method",
    "mask_k": "ad_mask_k",
    "mask_min_ratio": "ad_mask_min_ratio",
    "mask_max_ratio": "ad_mask_max_ratio",
    "dilate_erode": "ad_dilate_erode",
    "x_offset": "ad_x_offset",
    "y_offset": "ad_y_offset",
    "merge": "ad_mask_merge_invert",
    "mask_blur": "ad_mask_blur",
    "only_masked": "ad_inpaint_only_masked",
    "padding": "ad_inpaint_only_masked_padding",
    "width": "ad_inpaint_width",
    "height": "ad_inpaint_height",
    "steps": "ad_steps",
    "cfg_scale": "ad_cfg_scale",
    "sampler": "ad_sampler",
    "scheduler": "ad_scheduler",
    "checkpoint": "ad_checkpoint",
    "vae": "ad_vae",
    "noise_multiplier": "ad_noise_multiplier",
    "clip_skip": "ad_clip_skip",
    "restore_face": "ad_restore_face",
    "controlnet_model": "ad_controlnet_model",
    "controlnet_module": "ad_controlnet_module",
    "controlnet_weight": "ad_controlnet_weight",
    "controlnet_guidance_start": "ad_controlnet_guidance_start",
    "controlnet_guidance_end": "ad_controlnet_guidance_end",
}
_SWITCHES = {
    "ad_use_inpaint_width_height": ("width", "height"),
    "ad_use_steps": ("steps",),
    "ad_use_cfg_scale": ("cfg_scale",),
    "ad_use_sampler": ("sampler", "scheduler"),
    "ad_use_checkpoint": ("checkpoint",),
    "ad_use_vae": ("vae",),
    "ad_use_noise_multiplier": ("noise_multiplier",),
    "ad_use_clip_skip": ("clip_skip",),
}
"""What only counts when it is switched on."""


def pass_arguments(one: AdetailerPass, stage_sampler: str | None) -> dict[str, Any]:
    """The dict of one pass: what is set, and the switches that make it count."""
    arguments = {
        key: value for name, key in _KEYS.items() if (value := getattr(one, name)) is not None
    }
    for switch, names in _SWITCHES.items():
        if any(getattr(one, name) is not None for name in names):
            arguments[switch] = True
    if "ad_scheduler" in arguments and "ad_sampler" not in arguments and stage_sampler:
        # The switch is one for both, and the sampler's own default is none that was asked for.
        arguments["ad_sampler"] = stage_sampler
    return arguments
