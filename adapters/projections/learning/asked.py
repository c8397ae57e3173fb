"""The requested settings of a stage, with the same keys and types in every record."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec

from ....statemachine.stages import AdetailerPass, HiresConfig, RefinerConfig


class AskedRefiner(
    RefinerConfig, frozen=True, kw_only=True, omit_defaults=False, forbid_unknown_fields=False
):
    """`[txt2img.refiner]`, `[img2img.refiner]`."""


class AskedHires(
    HiresConfig, frozen=True, kw_only=True, omit_defaults=False, forbid_unknown_fields=False
):
    """`[txt2img.hires]`."""


class AskedPass(
    AdetailerPass, frozen=True, kw_only=True, omit_defaults=False, forbid_unknown_fields=False
):
    """`[[adetailer.passes]]`."""


class AskedSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a stage as the plan has them: the keys of all stages, null where not set."""

    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    subseed: int | None = None
    subseed_strength: float | None = None
    model: str | None = None
    vae: str | None = None
    modules: tuple[str, ...] = ()
    clip_skip: int | None = None
    sampler: str | None = None
    scheduler: str | None = None
    steps: int | None = None
    cfg_scale: float | None = None
    distilled_cfg_scale: float | None = None
    shift: float | None = None
    eta: float | None = None
    s_noise: float | None = None
    width: int | None = None
    height: int | None = None
    batch_size: int | None = None
    tiling: bool | None = None
    restore_faces: bool | None = None
    styles: tuple[str, ...] = ()
    refiner: AskedRefiner | None = None
    hires: AskedHires | None = None
    denoise: float | None = None
    resize_mode: int | None = None
    mask: str | None = None
    mask_content: str | None = None
    mask_area: str | None = None
    mask_padding: int | None = None
    mask_blur: int | None = None
    mask_invert: bool | None = None
    upscaler: str | None = None
    factor: float | None = None
    crop: bool | None = None
    upscaler_2: str | None = None
    upscaler_2_visibility: float | None = None
    gfpgan_visibility: float | None = None
    codeformer_visibility: float | None = None
    codeformer_weight: float | None = None
    upscale_first: bool | None = None
    passes: tuple[AskedPass, ...] = ()
    override_settings: Mapping[str, Any] | None = None
    alwayson_scripts: Mapping[str, Any] | None = None


_TYPES: Mapping[str, Any] = {
    field.name: field.type for field in msgspec.structs.fields(AskedSettings)
}


def asked_settings(config: Mapping[str, Any]) -> AskedSettings:
    """The settings of a recorded stage, without unknown keys and values of other types."""
    known = {}
    for key in _TYPES.keys() & config.keys():
        with suppress(msgspec.ValidationError):  # a foreign log with a value of another type
            known[key] = msgspec.convert(config[key], _TYPES[key])
    return AskedSettings(**known)
