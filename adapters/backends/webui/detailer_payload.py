"""Builds the dict of an ADetailer pass, in which the extension allows no unknown keys."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from ....statemachine.stages import AdetailerPass
from ..http.errors import RequestRefusedError
from .features import FORGE, ServerFeatures

SENT = {
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
    "restore_face": "ad_restore_face",
    "controlnet_model": "ad_controlnet_model",
    "controlnet_module": "ad_controlnet_module",
    "controlnet_weight": "ad_controlnet_weight",
    "controlnet_guidance_start": "ad_controlnet_guidance_start",
    "controlnet_guidance_end": "ad_controlnet_guidance_end",
    "distilled_cfg_scale": "ad_distilled_cfg_scale",
    "shift": "ad_distilled_cfg_scale",
}
"""By the name of a pass's setting, the key of what counts wherever it is sent."""

SWITCHED = {
    "ad_use_inpaint_width_height": {"width": "ad_inpaint_width", "height": "ad_inpaint_height"},
    "ad_use_steps": {"steps": "ad_steps"},
    "ad_use_cfg_scale": {"cfg_scale": "ad_cfg_scale"},
    "ad_use_sampler": {"sampler": "ad_sampler", "scheduler": "ad_scheduler"},
    "ad_use_checkpoint": {"checkpoint": "ad_checkpoint"},
    "ad_use_vae": {"vae": "ad_vae"},
    "ad_use_modules": {"modules": "ad_modules"},
    "ad_use_noise_multiplier": {"noise_multiplier": "ad_noise_multiplier"},
    "ad_use_clip_skip": {"clip_skip": "ad_clip_skip"},
}
"""By the switch that makes them count, the names and keys of the others."""

OPTIONS_OF_PASSES = {
    "vae": "sd_vae",
    "clip_skip": "CLIP_stop_at_last_layers",
    "modules": "forge_additional_modules",
}
"""By the name of a pass's setting, the option of the server that it overrides meanwhile."""

_KEYS = SENT | {name: key for keys in SWITCHED.values() for name, key in keys.items()}
_OF_NEO = frozenset(["ad_modules", "ad_distilled_cfg_scale"])
_COMMON = frozenset([*_KEYS.values(), *SWITCHED]) - _OF_NEO

_GUIDANCE = ("ad_controlnet_guidance_start", "ad_controlnet_guidance_end")
_GUIDANCE_OF_NEO = "ad_controlnet_guidance_start_end"
_WHOLE_GUIDANCE = (0.0, 1.0)


def pass_arguments(
    one: AdetailerPass, stage_sampler: str | None, features: ServerFeatures, place: str
) -> dict[str, Any]:
    """The dict of one pass: what is set, and the switches that make it count.

    A build of ADetailer that does not say which keys it takes counts as one that takes all but
    those of the build for Forge Neo. Raises RequestRefusedError for another key, for which the
    extension would drop the pass silently, and for a VAE on Forge, which would ignore it. The
    message names the setting below ``place``.
    """
    arguments = _set(one, SENT)
    for switch, keys in SWITCHED.items():
        switched = _set(one, keys)
        if switched:
            arguments |= {switch: True, **switched}
    if "ad_scheduler" in arguments and "ad_sampler" not in arguments and stage_sampler:
        # The switch is one for both, and the sampler's own default is none that was asked for.
        arguments["ad_sampler"] = stage_sampler
    known: Set[str] = _COMMON if features.detailer_keys is None else features.detailer_keys
    if features.product == FORGE:
        known -= {"ad_vae"}
    if _GUIDANCE_OF_NEO in known and not arguments.keys().isdisjoint(_GUIDANCE):
        pair = zip(_GUIDANCE, _WHOLE_GUIDANCE, strict=True)
        arguments[_GUIDANCE_OF_NEO] = [arguments.pop(key, whole) for key, whole in pair]
    refused = [name for name, key in _KEYS.items() if key in arguments.keys() - known]
    named = [name for name in refused if getattr(one, name) is not None]
    if named:
        raise RequestRefusedError(
            f"this build of ADetailer takes no {', '.join(named)}; remove it from {place}",
            settled=True,
        )
    return arguments


def _set(one: AdetailerPass, keys: dict[str, str]) -> dict[str, Any]:
    return {key: value for name, key in keys.items() if (value := getattr(one, name)) is not None}
