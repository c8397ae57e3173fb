"""What infotexts say of each stage beside its sampling: evidence of every extra pass."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from ....statemachine.stages import (
    AdetailerConfig,
    AdetailerPass,
    HiresConfig,
    Img2ImgConfig,
    RefinerConfig,
    Txt2ImgConfig,
    UpscaleConfig,
)
from .settings import (
    DEFAULT_CONFIDENCE,
    DEFAULT_DENOISE,
    DEFAULT_DILATION,
    DEFAULT_MASK_BLUR,
    DEFAULT_PASS_DENOISE,
    hires_of,
)

DENOISE = "Denoising strength"
_ORDINALS = ("", " 2nd", " 3rd")
_MODEL_HASH = re.compile(r" \[[^\[\]]*\]$")
_MODEL_SUFFIX = re.compile(r"\.(safetensors|ckpt|pth?)$")

Fields = dict[str, Any]
Value = TypeVar("Value")


def txt2img_parameters(config: Txt2ImgConfig) -> Fields:
    """Refiner and second pass; the denoise is that of the second pass."""
    hires = hires_of(config)
    denoise = None if hires is None else _set(hires.denoise, DEFAULT_DENOISE)
    return {DENOISE: denoise} | _refiner_parameters(config.refiner) | _hires_parameters(hires)


def img2img_parameters(config: Img2ImgConfig) -> Fields:
    """Denoise and refiner."""
    return {DENOISE: _set(config.denoise, DEFAULT_DENOISE)} | _refiner_parameters(config.refiner)


def adetailer_parameters(config: AdetailerConfig) -> Fields:
    """Every pass."""
    found: Fields = {}
    for place, one in enumerate(config.passes):
        ordinal = _ORDINALS[place] if place < len(_ORDINALS) else f" {place + 1}th"
        found |= _pass_parameters(one, ordinal)
    return found


def upscale_parameters(config: UpscaleConfig) -> Fields:
    """Size, upscalers and face restorers."""
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
    return {
        "Hires upscale": hires.scale,
        "Hires resize": f"{hires.resize_x or 0}x{hires.resize_y or 0}" if sized else None,
        "Hires steps": hires.steps,
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


def _set(value: Value | None, default: Value) -> Value:
    return default if value is None else value


def model_stem(name: str | None) -> str | None:
    """A model's name as a WebUI reports it: without folder, hash and suffix."""
    if name is None:
        return None
    file = re.split(r"[/\\]", name)[-1]
    return _MODEL_SUFFIX.sub("", _MODEL_HASH.sub("", file))
