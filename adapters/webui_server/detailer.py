"""Reads ADetailer's arguments in the way of ADetailer, which ignores invalid ones silently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from ...statemachine.stages import AdetailerConfig, AdetailerPass
from ..backends.embedded.infotext import extra_parameters
from ..backends.webui.detailer_payload import SENT, SWITCHED
from .bodies import Share
from .model_catalogue import DETECTORS

VERSION = "25.3.0"
ORDINALS = ("", " 2nd", " 3rd", " 4th")
_FLAGS = 2
_SAME = frozenset({"None", "Use same checkpoint", "Use same VAE", "Use same scheduler", ""})

Natural = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]


class DetailerArgs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One pass as ADetailer 25.3.0 takes it; sizes are pixels, shares run from 0 to 1."""

    ad_model: str = "None"
    ad_model_classes: str = ""
    ad_tab_enable: bool = True
    ad_prompt: str = ""
    ad_negative_prompt: str = ""
    ad_confidence: Share = 0.3
    ad_mask_filter_method: Literal["Area", "Confidence"] = "Area"
    ad_mask_k: Natural = 0
    ad_mask_min_ratio: Share = 0.0
    ad_mask_max_ratio: Share = 1.0
    ad_dilate_erode: int = 4
    ad_x_offset: int = 0
    ad_y_offset: int = 0
    ad_mask_merge_invert: Literal["None", "Merge", "Merge and Invert"] = "None"
    ad_mask_blur: Natural = 4
    ad_denoising_strength: Share = 0.4
    ad_inpaint_only_masked: bool = True
    ad_inpaint_only_masked_padding: Natural = 32
    ad_use_inpaint_width_height: bool = False
    ad_inpaint_width: Positive = 512
    ad_inpaint_height: Positive = 512
    ad_use_steps: bool = False
    ad_steps: Positive = 28
    ad_use_cfg_scale: bool = False
    ad_cfg_scale: Annotated[float, Meta(ge=0.0)] = 7.0
    ad_use_checkpoint: bool = False
    ad_checkpoint: str | None = None
    ad_use_vae: bool = False
    ad_vae: str | None = None
    ad_use_sampler: bool = False
    ad_sampler: str = "DPM++ 2M Karras"
    ad_scheduler: str = "Use same scheduler"
    ad_use_noise_multiplier: bool = False
    ad_noise_multiplier: Annotated[float, Meta(ge=0.5, le=1.5)] = 1.0
    ad_use_clip_skip: bool = False
    ad_clip_skip: Annotated[int, Meta(ge=1, le=12)] = 1
    ad_restore_face: bool = False
    ad_controlnet_model: str = "None"
    ad_controlnet_module: str = "None"
    ad_controlnet_weight: Share = 1.0
    ad_controlnet_guidance_start: Share = 0.0
    ad_controlnet_guidance_end: Share = 1.0
    is_api: bool = True


class Detailing(NamedTuple):
    """The passes that ADetailer understood, and what it reports about them.

    ``skips`` says that the outer img2img is left out.
    """

    passes: tuple[AdetailerPass, ...]
    claims: Mapping[str, Any]
    skips: bool


def detailing_of(arguments: object, most_passes: int) -> Detailing | None:
    """The passes in ``args``; None if ADetailer ignores them for any reason.

    It does so without a word if it is switched off, if no pass names a detector, and if
    any pass fails validation. Flags that are not booleans mean: enabled, nothing skipped.
    Passes beyond ``most_passes`` are dropped.
    """
    given = list(arguments) if isinstance(arguments, list) else []
    given = given[: _FLAGS + most_passes]
    tables = [one for one in given if isinstance(one, dict)][:most_passes]
    if not tables or given[0] is False:
        return None
    try:
        read = [msgspec.convert(table, DetailerArgs, strict=False) for table in tables]
    except msgspec.ValidationError:
        return None
    passes, claims = [], {}
    for place, (table, one) in enumerate(zip(tables, read, strict=True)):
        if one.ad_model != "None" and one.ad_tab_enable:
            made = _pass_of(one, table)
            passes.append(made if one.ad_model in DETECTORS else _blind(made))
            claims.update(_claims(made, ORDINALS[place]))
    if not passes:
        return None
    skips = len(given) > 1 and given[1] is True
    return Detailing(tuple(passes), claims | {"ADetailer version": VERSION}, skips)


def _blind(one: AdetailerPass) -> AdetailerPass:
    """The pass with a detector that finds nothing, for an unknown detector."""
    return msgspec.structs.replace(one, model="None")


def _claims(one: AdetailerPass, ordinal: str) -> dict[str, Any]:
    found = extra_parameters(AdetailerConfig(prompt="", seed=0, passes=(one,)))
    return {f"{key}{ordinal}": value for key, value in found.items()}


def _pass_of(one: DetailerArgs, table: Mapping[str, Any]) -> AdetailerPass:
    """The pass as configuration; None for settings not sent, or not switched on."""
    sent: dict[str, Any] = {name: getattr(one, key) for name, key in SENT.items() if key in table}
    switched: dict[str, Any] = {
        name: _other(getattr(one, key))
        for switch, names in SWITCHED.items()
        if getattr(one, switch)
        for name, key in names.items()
    }
    return AdetailerPass(**sent, **switched)


def _other(value: object) -> object:
    """None for values that mean the setting of the stage."""
    return None if isinstance(value, str) and value in _SAME else value
