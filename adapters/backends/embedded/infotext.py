"""Builds ``info`` and infotext, which report the used settings as a WebUI does."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from ....events.version import VERSION
from ....statemachine.ports import GenerateRequest
from ....statemachine.stages import AdetailerConfig, Img2ImgConfig, StageConfig, Txt2ImgConfig
from .parameters import DENOISE, Fields, model_stem
from .settings import DEFAULT_STEPS
from .stages import embedded_stage

PRODUCT = "stagewright embedded"
_MOST_TEXT = 32_768
"""Characters of one text, a prompt for example: logs and chunks stay small."""

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
    if config.samples:
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
        "denoising_strength": extra_parameters(config).get(DENOISE),
    }
    return {key: value for key, value in used.items() if value is not None}


def infotext(config: StageConfig, seed: int, size: tuple[int, int]) -> str:
    """The text of an image's ``parameters`` chunk; prompts are cut at ``_MOST_TEXT``."""
    if not config.samples:
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
    }
    lines = [_plain(config.prompt or "")]
    if config.negative_prompt:
        lines.append(f"Negative prompt: {_plain(config.negative_prompt)}")
    lines.append(_joined(settings | extra_parameters(config) | _VERSION))
    return "\n".join(lines)


def extra_parameters(config: StageConfig) -> Fields:
    """What a WebUI calls ``extra_generation_params``: the evidence of every extra pass."""
    found = embedded_stage(config).parameters(config)
    return {key: value for key, value in found.items() if value is not None}


def _joined(settings: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key}: {_quoted(value)}" for key, value in settings.items() if value is not None
    )


def _quoted(value: object) -> str:
    text = _plain(str(value))
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:\n]", text) else text


def _plain(text: str) -> str:
    """Bounded text without NULs and lone surrogates, which any log and PNG can hold."""
    known = text[:_MOST_TEXT].encode("utf-8", "replace").decode("utf-8")
    return known.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _plain_values(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain_values(part) for key, part in value.items()}
    return _plain(value) if isinstance(value, str) else value
