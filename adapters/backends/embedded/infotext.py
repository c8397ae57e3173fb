"""Builds ``info`` and infotext, which report the used settings as a WebUI does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from ....events.version import VERSION
from ....statemachine.ports import GenerateRequest
from ....statemachine.stages import (
    AdetailerConfig,
    AdetailerPass,
    HiresConfig,
    Img2ImgConfig,
    RefinerConfig,
    StageConfig,
    Txt2ImgConfig,
    UpscaleConfig,
)
from .settings import (
    DEFAULT_CONFIDENCE,
    DEFAULT_DENOISE,
    DEFAULT_DILATION,
    DEFAULT_MASK_BLUR,
    DEFAULT_PASS_DENOISE,
    DEFAULT_STEPS,
    hires_of,
)

PRODUCT = "stagewright embedded"
_MOST_TEXT = 32_768
"""Characters of one text, a prompt for example: logs and chunks stay small."""

_DENOISE = "Denoising strength"
_ORDINALS = ("", " 2nd", " 3rd")
_MODEL_HASH = re.compile(r" \[[^\[\]]*\]$")
_MODEL_SUFFIX = re.compile(r"\.(safetensors|ckpt|pth?)$")

Fields = dict[str, Any]
Value = TypeVar("Value")
Sampled = Txt2ImgConfig | Img2ImgConfig | AdetailerConfig

_VERSION: Fields = {"Version": f"{PRODUCT} {VERSION}"}


def answer_info(request: GenerateRequest, size: tuple[int, int], infotexts: list[str]) -> Fields:
    """The ``info`` of an answer: JSON values under the names of a WebUI's answer.

    ``width`` and ``height`` are ``size``; of txt2img with hires that is the first pass's.
    """
    config = request.config
    info: Fields = {
        "seed": request.seed,
        "all_seeds": [request.seed + place for place in range(request.count)],
        "width": size[0],
        "height": size[1],
        "batch_size": request.count,
        "index_of_first_image": 0,
        "extra_generation_params": extra_parameters(config),
        "version": f"{PRODUCT} {VERSION}",
    }
    if hasattr(config, "steps"):
        info |= _sampling_info(cast(Sampled, config))
    return {**_plain_values(info), "infotexts": infotexts}


def _sampling_info(config: Sampled) -> Fields:
    used: Fields = {
        "prompt": config.prompt or "",
        "negative_prompt": config.negative_prompt or "",
        "sd_model_name": model_stem(config.model),
        "sd_vae_name": config.vae,
        "sampler_name": config.sampler,
        "steps": config.steps or DEFAULT_STEPS,
        "cfg_scale": config.cfg_scale,
        "clip_skip": config.clip_skip,
        "denoising_strength": extra_parameters(config).get(_DENOISE),
    }
    return {key: value for key, value in used.items() if value is not None}


def infotext(config: StageConfig, seed: int, size: tuple[int, int]) -> str:
    """The text of an image's ``parameters`` chunk; prompts are cut at ``_MOST_TEXT``."""
    if not hasattr(config, "steps"):
        return _joined(extra_parameters(config) | {"Size": f"{size[0]}x{size[1]}"} | _VERSION)
    return _sampled_infotext(cast(Sampled, config), seed, size)


def _sampled_infotext(config: Sampled, seed: int, size: tuple[int, int]) -> str:
    settings: Fields = {
        "Steps": config.steps or DEFAULT_STEPS,
        "Sampler": config.sampler,
        "Schedule type": config.scheduler,
        "CFG scale": config.cfg_scale,
        "Seed": seed,
        "Size": f"{size[0]}x{size[1]}",
        "Model": model_stem(config.model),
        "VAE": config.vae,
        "Clip skip": config.clip_skip,
        "Distilled CFG Scale": config.distilled_cfg_scale,
        "Shift": config.shift,
        **_module_parameters("Module", config.modules),
        **_variation_parameters(config),
    }
    lines = [_plain(config.prompt or "")]
    if config.negative_prompt:
        lines.append(f"Negative prompt: {_plain(config.negative_prompt)}")
    lines.append(_joined(settings | extra_parameters(config) | _VERSION))
    return "\n".join(lines)


def _module_parameters(name: str, modules: tuple[str, ...] | None) -> Fields:
    return {f"{name} {place}": model_stem(one) for place, one in enumerate(modules or (), 1)}


def _variation_parameters(config: Sampled) -> Fields:
    if isinstance(config, AdetailerConfig) or not config.subseed_strength:
        return {}
    return {
        "Variation seed": config.subseed, "Variation seed strength": config.subseed_strength,
    }  # fmt: skip


def extra_parameters(config: StageConfig) -> Fields:
    """What a WebUI calls ``extra_generation_params``: the evidence of every extra pass."""
    parameters = _PARAMETERS.get(config.stage_type)
    found = {} if parameters is None else parameters(config)
    return {key: value for key, value in found.items() if value is not None}


def _txt2img_parameters(config: Txt2ImgConfig) -> Fields:
    hires = hires_of(config)
    denoise = None if hires is None else _set(hires.denoise, DEFAULT_DENOISE)
    return {_DENOISE: denoise} | _refiner_parameters(config.refiner) | _hires_parameters(hires)


def _img2img_parameters(config: Img2ImgConfig) -> Fields:
    return {_DENOISE: _set(config.denoise, DEFAULT_DENOISE)} | _refiner_parameters(config.refiner)


def _adetailer_parameters(config: AdetailerConfig) -> Fields:
    found: Fields = {}
    for place, one in enumerate(config.passes):
        ordinal = _ORDINALS[place] if place < len(_ORDINALS) else f" {place + 1}th"
        found |= _pass_parameters(one, ordinal)
    return found


def _upscale_parameters(config: UpscaleConfig) -> Fields:
    sized = config.width and config.height
    # Three decimals: a client that makes a factor larger by a hair, to get past the cache of
    # upscales, gets the very image that it would have got at once.
    factor = None if config.factor is None else round(config.factor, 3)
    return {
        "Postprocess upscale by": None if sized else factor,
        "Postprocess upscale to": f"{config.width}x{config.height}" if sized else None,
        "Postprocess upscaler": config.upscaler,
        "Postprocess upscaler 2": config.upscaler_2,
        "Postprocess upscaler 2 visibility": config.upscaler_2_visibility,
        "Postprocess GFPGAN visibility": config.gfpgan_visibility or None,
        "Postprocess CodeFormer visibility": config.codeformer_visibility or None,
        "Postprocess CodeFormer weight": config.codeformer_weight,
    }


def _refiner_parameters(refiner: RefinerConfig | None) -> Fields:
    if refiner is None or not refiner.enabled:
        return {}
    return {"Refiner": model_stem(refiner.model), "Refiner switch at": refiner.switch_at}


def _hires_parameters(hires: HiresConfig | None) -> Fields:
    if hires is None:
        return {}
    sized = hires.resize_x or hires.resize_y
    distilled = hires.distilled_cfg_scale if hires.shift is None else hires.shift
    return {
        "Hires upscale": hires.scale,
        "Hires resize": f"{hires.resize_x or 0}x{hires.resize_y or 0}" if sized else None,
        "Hires steps": hires.steps,
        "Hires CFG Scale": hires.cfg_scale,
        "Hires Distilled CFG Scale": distilled,
        **_module_parameters("Hires Module", hires.modules),
        "Hires upscaler": hires.upscaler or "Latent",
        "Hires checkpoint": model_stem(hires.model),
        "Hires sampler": hires.sampler,
        "Hires schedule type": hires.scheduler,
        "Hires prompt": hires.prompt or None,
        "Hires negative prompt": hires.negative_prompt or None,
    }


def _pass_parameters(one: AdetailerPass, ordinal: str) -> Fields:
    found = {
        "model": one.model,
        "prompt": one.prompt or None,
        "negative prompt": one.negative_prompt or None,
        "confidence": _set(one.confidence, DEFAULT_CONFIDENCE),
        "dilate erode": _set(one.dilate_erode, DEFAULT_DILATION),
        "mask blur": _set(one.mask_blur, DEFAULT_MASK_BLUR),
        "denoising strength": _set(one.denoise, DEFAULT_PASS_DENOISE),
        "inpaint only masked": _set(one.only_masked, default=True),
        "checkpoint": model_stem(one.checkpoint),
        "sampler": one.sampler,
        "steps": one.steps,
    }
    return {f"ADetailer {key}{ordinal}": value for key, value in found.items()}


_PARAMETERS: Mapping[str, Callable[[Any], Fields]] = {
    "txt2img": _txt2img_parameters,
    "img2img": _img2img_parameters,
    "upscale": _upscale_parameters,
    "adetailer": _adetailer_parameters,
}


def _joined(settings: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key}: {_quoted(value)}" for key, value in settings.items() if value is not None
    )


def _quoted(value: object) -> str:
    text = _plain(str(value))
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:\n]", text) else text


def _set(value: Value | None, default: Value) -> Value:
    return default if value is None else value


def model_stem(name: str | None) -> str | None:
    """A model's name as a WebUI reports it: without folder, hash and suffix."""
    if name is None:
        return None
    file = re.split(r"[/\\]", name)[-1]
    return _MODEL_SUFFIX.sub("", _MODEL_HASH.sub("", file))


def _plain(text: str) -> str:
    """Bounded text without NULs and lone surrogates, which any log and PNG can hold."""
    known = text[:_MOST_TEXT].encode("utf-8", "replace").decode("utf-8")
    return known.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _plain_values(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain_values(part) for key, part in value.items()}
    return _plain(value) if isinstance(value, str) else value
