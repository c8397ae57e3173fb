"""What each stage needs, inherits and takes: from its table to its configuration in a plan.

Each function raises InvalidStagePlanError, naming the key, for a table that lacks something.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..config.schema import RunConfig
from ..config.stage_configs import (
    AdetailerConfig,
    AdetailerPass,
    AdetailerTable,
    HiresConfig,
    Img2ImgConfig,
    RefinerConfig,
    StageConfig,
    Txt2ImgConfig,
    Txt2ImgTable,
    UpscaleConfig,
)
from ..errors import InvalidStagePlanError
from .sizes import Dimensions

_INHERITED = ("model", "vae", "clip_skip", "sampler", "scheduler", "cfg_scale")


def resolve_txt2img(table: Txt2ImgTable, top: RunConfig) -> Txt2ImgConfig:
    """Prompts and seed are the top-level ones."""
    _require(table, "txt2img", "model", "sampler", "steps", "cfg_scale", "width", "height")
    _check_refiner(table.refiner, "txt2img")
    return Txt2ImgConfig(
        prompt=_prompt("txt2img", top.prompt),
        negative_prompt=top.negative_prompt,
        seed=top.seed,
        **_fields(table) | {"hires": _resolve_hires(table), "refiner": _resolve_refiner(table)},
    )


def _resolve_refiner(table: Txt2ImgTable) -> RefinerConfig | None:
    """With a hires pass, the refiner acts in the first pass unless the table says otherwise."""
    refiner = table.refiner
    if refiner is None or table.hires is None or refiner.acts_in is not None:
        return refiner
    return msgspec.structs.replace(refiner, acts_in="first")


def _resolve_hires(table: Txt2ImgTable) -> HiresConfig | None:
    """A second pass that names no model uses the refiner's."""
    hires, refiner = table.hires, table.refiner
    if hires is None:
        return None
    _require(hires, "txt2img.hires", "denoise")
    _require_size(hires, "txt2img.hires", "scale", "resize_x", "resize_y")
    if hires.model is None and refiner is not None:
        return msgspec.structs.replace(hires, model=refiner.model)
    return hires


def resolve_img2img(
    table: Img2ImgConfig, top: RunConfig, base: Txt2ImgConfig | None
) -> Img2ImgConfig:
    """What it does not set itself is inherited from ``base``, the txt2img stage before it."""
    inherited: dict[str, Any] = {"negative_prompt": top.negative_prompt, "seed": top.seed}
    if base is not None:
        inherited |= {name: getattr(base, name) for name in _INHERITED}
    unset = {name: value for name, value in inherited.items() if getattr(table, name) is None}
    prompt = _prompt("img2img", table.prompt, top.prompt)
    config = msgspec.structs.replace(table, prompt=prompt, **unset)
    _check_refiner(config.refiner, "img2img")
    _require(config, "img2img", "denoise", "steps", "model", "sampler", "cfg_scale")
    return config


def resolve_upscale(table: UpscaleConfig) -> UpscaleConfig:
    """An upscale stage inherits nothing."""
    _require(table, "upscale", "upscaler")
    _require_size(table, "upscale", "factor", "width", "height")
    if table.factor is None:
        _require(table, "upscale", "width", "height")
    return table


def resolve_adetailer(
    table: AdetailerTable, base: Txt2ImgConfig | Img2ImgConfig, size: Dimensions | None
) -> AdetailerConfig:
    """Settings are inherited from ``base``, the last generation stage.

    ``size`` is that of the first generation stage: passes without a size of their own work at
    the size that the model was made for, not at the upscaled one.
    """
    if not table.passes:
        raise InvalidStagePlanError(
            "adetailer.passes is missing: add an [[adetailer.passes]] with a model",
            key="adetailer.passes",
        )
    for place, one in enumerate(table.passes):
        _require(one, f"adetailer.passes.{place}", "model")
    assert base.prompt is not None
    assert base.seed is not None
    return AdetailerConfig(
        passes=tuple(_with_size(one, size) for one in table.passes),
        prompt=base.prompt,
        negative_prompt=base.negative_prompt,
        seed=base.seed,
        steps=base.steps,
        **{name: getattr(base, name) for name in _INHERITED},
    )


def _with_size(one: AdetailerPass, size: Dimensions | None) -> AdetailerPass:
    if size is None:
        return one
    return msgspec.structs.replace(one, width=one.width or size[0], height=one.height or size[1])


def sampling_steps(config: StageConfig) -> int:
    """The sampling steps that a stage likely takes for one image, with one find in each pass."""
    if isinstance(config, UpscaleConfig):
        return 0
    own = config.steps or 0
    if isinstance(config, AdetailerConfig):
        return sum(one.steps or own for one in config.passes)
    if isinstance(config, Txt2ImgConfig) and config.hires is not None:
        return own + (config.hires.steps or own)
    return own


def _fields(table: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(table, name) for name in table.__struct_fields__}


def _prompt(stage: str, *candidates: str | None) -> str:
    for prompt in candidates:
        if prompt is not None and prompt.strip():
            return prompt
    raise InvalidStagePlanError(f"prompt is missing; {stage} needs it", key="prompt")


def _check_refiner(refiner: RefinerConfig | None, stage: str) -> None:
    if refiner is not None:
        _require(refiner, f"{stage}.refiner", "model", "switch_at")


def _require(table: msgspec.Struct, key: str, *names: str) -> None:
    for name in names:
        value = getattr(table, name)
        if value is None or (isinstance(value, str) and not value.strip()):
            raise InvalidStagePlanError(
                f"{key}.{name} is missing; an enabled {key.split('.')[0]} needs it",
                key=f"{key}.{name}",
            )


def _require_size(table: msgspec.Struct, key: str, factor: str, width: str, height: str) -> None:
    """Either a factor or a target size is needed, under these names."""
    stated = getattr(table, factor)
    sized = getattr(table, width) is not None or getattr(table, height) is not None
    if stated is None and not sized:
        wrong = f"is missing: set {factor}, or {width} and {height}"
    elif stated is not None and sized:
        wrong = f"= {stated} and a target size exclude each other"
    else:
        return
    raise InvalidStagePlanError(f"{key}.{factor} {wrong}", key=f"{key}.{factor}")
