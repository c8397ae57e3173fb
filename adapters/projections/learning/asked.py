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
    model: str | None = None
    vae: str | None = None
    clip_skip: int | None = None
    sampler: str | None = None
    scheduler: str | None = None
    steps: int | None = None
    cfg_scale: float | None = None
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
