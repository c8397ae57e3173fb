"""Reads the used settings that a backend reports, and compares them with the requested ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from ...events.model import StageType
from ..backends.webui.answer_check import same_name, same_sampler, stem
from ..backends.webui.names import NO_VAE, SAME_AS_THE_STAGE
from .flat_values import flattened

MAX_PASSES = 16
MAX_SETTINGS = 1_000
_PAIR = re.compile(r'([\w][\w \-/]{0,80}):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_BETWEEN_WORDS = re.compile(r"[\s_-]+")
_TAG = re.compile(r"<[^>]{0,200}>")
_MAX_TEXT = 64 * 1024
_MAX_VALUE = 2_000
_DEEPEST = 6
"""Our configurations nest three tables; deeper values are kept whole."""
_ORDINALS = ("", " 2nd", " 3rd")
_MODELS = ("model", "vae", "checkpoint")
_NAMES = ("scheduler", "upscaler", "upscaler_2", "merge", "mask_filter")
_ALL_NAMES = (*_MODELS, "sampler", *_NAMES)

_SAMPLING: Mapping[str, tuple[str, ...]] = {
    "model": ("sd_model_name", "Model"),
    "vae": ("sd_vae_name", "VAE"),
    "clip_skip": ("clip_skip", "Clip skip"),
    "sampler": ("sampler_name", "Sampler"),
    "scheduler": ("Schedule type",),
    "steps": ("steps", "Steps"),
    "cfg_scale": ("cfg_scale", "CFG scale"),
    "width": ("width",),
    "height": ("height",),
    "prompt": ("prompt",),
    "negative_prompt": ("negative_prompt",),
    "refiner.model": ("Refiner",),
    "refiner.switch_at": ("Refiner switch at",),
}
_TXT2IMG: Mapping[str, tuple[str, ...]] = {
    **_SAMPLING,
    "restore_faces": ("restore_faces",),
    "tiling": ("Tiling",),
    "styles": ("styles",),
    "hires.upscaler": ("Hires upscaler",),
    "hires.scale": ("Hires upscale",),
    "hires.steps": ("Hires steps",),
    "hires.denoise": ("denoising_strength", "Denoising strength"),
    "hires.sampler": ("Hires sampler",),
    "hires.scheduler": ("Hires schedule type",),
    "hires.model": ("Hires checkpoint",),
    "hires.prompt": ("Hires prompt",),
    "hires.negative_prompt": ("Hires negative prompt",),
}
_IMG2IMG: Mapping[str, tuple[str, ...]] = {
    **_SAMPLING,
    "denoise": ("denoising_strength", "Denoising strength"),
}
_UPSCALE: Mapping[str, tuple[str, ...]] = {
    "upscaler": ("Postprocess upscaler",),
    "factor": ("Postprocess upscale by",),
    "upscaler_2": ("Postprocess upscaler 2",),
    "gfpgan_visibility": ("GFPGAN visibility",),
    "codeformer_visibility": ("CodeFormer visibility",),
    "codeformer_weight": ("CodeFormer weight",),
}
# A detailer's answer reports the sampling of the discarded picture around the detail.
_ADETAILER: Mapping[str, tuple[str, ...]] = {
    key: _SAMPLING[key] for key in ("model", "vae", "prompt", "negative_prompt")
}
_PASS: Mapping[str, str] = {
    "model": "model",
    "prompt": "prompt",
    "negative_prompt": "negative prompt",
    "confidence": "confidence",
    "denoise": "denoising strength",
    "mask_min_ratio": "mask min ratio",
    "mask_max_ratio": "mask max ratio",
    "dilate_erode": "dilate erode",
    "x_offset": "x offset",
    "y_offset": "y offset",
    "merge": "mask merge invert",
    "mask_blur": "mask blur",
    "only_masked": "inpaint only masked",
    "padding": "inpaint padding",
    "width": "inpaint width",
    "height": "inpaint height",
    "steps": "steps",
    "cfg_scale": "CFG scale",
    "sampler": "sampler",
    "scheduler": "scheduler",
    "checkpoint": "checkpoint",
    "vae": "VAE",
    "noise_multiplier": "noise multiplier",
    "clip_skip": "CLIP skip",
    "restore_face": "restore face",
}
_TABLES: Mapping[StageType, Mapping[str, tuple[str, ...]]] = {
    StageType.TXT2IMG: _TXT2IMG,
    StageType.IMG2IMG: _IMG2IMG,
    StageType.UPSCALE: _UPSCALE,
    StageType.ADETAILER: _ADETAILER,
}


def settings_asked(config: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's configuration with a dotted key for each value, ``passes.0.model``.

    A refiner or hires table that is switched off is left out. For foreign logs the number of
    values is limited to ``MAX_SETTINGS``, and their dotted keys to 200 characters.
    """
    flat = dict(islice(flattened(config, deepest=_DEEPEST), 10 * MAX_SETTINGS))
    off = tuple(
        key.removesuffix("enabled")
        for key, value in flat.items()
        if key.endswith(".enabled") and value is False
    )
    asked = (
        (key, _bounded(value))
        for key, value in flat.items()
        if key.rpartition(".")[2] != "enabled" and value is not None and not key.startswith(off)
    )
    return dict(islice(asked, MAX_SETTINGS))


def settings_used(stage_type: StageType, info: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that an answer's ``info`` reports, under the keys of ``settings_asked``.

    Unreported settings are missing. Values are numbers, booleans and text (lists as JSON) of
    bounded length.
    """
    reported = _reported(info)
    used: dict[str, Any] = {}
    for key, names in _TABLES[stage_type].items():
        found = next((reported[name] for name in names if reported.get(name) is not None), None)
        if found is not None:
            used[key] = _bounded(found)
    if stage_type is StageType.ADETAILER:
        used.update(_passes_used(reported))
    return used


def agree(key: str, asked: Any, used: Any, *, scheduler: Any = None, schedule: Any = None) -> bool:
    """Whether a used value fits the requested one, in any notation of a backend.

    A value that was left to the backend, such as ``Automatic``, fits any. For a sampler,
    ``scheduler`` was requested and the backend reports ``schedule``.
    """
    last = key.rpartition(".")[2]
    if _left_to_the_backend(last, asked):
        return True
    if last in _MODELS:
        return stem(asked).casefold() == stem(used).casefold()
    if last == "sampler":
        return same_sampler(str(asked), str(scheduler or ""), str(used), schedule)
    if last.startswith("upscaler"):  # "4x" and "4x+" are different
        one, other = (_BETWEEN_WORDS.sub("", str(name)).casefold() for name in (asked, used))
        return one == other
    if last in _NAMES:
        return same_name(str(asked), str(used))
    return _same_value(asked, used)


def _left_to_the_backend(name: str, asked: Any) -> bool:
    """Whether the value leaves the choice to the backend; an empty name does so as well."""
    if name == "vae" and str(asked) in NO_VAE:
        return True
    return name in _ALL_NAMES and (str(asked) in SAME_AS_THE_STAGE or not str(asked).strip())


def _same_value(asked: Any, used: Any) -> bool:
    if isinstance(asked, bool) or isinstance(used, bool):
        return str(asked).casefold() == str(used).casefold()
    try:
        return abs(float(asked) - float(used)) <= 1e-6 * max(1.0, abs(float(asked)))
    except (TypeError, ValueError, OverflowError):
        return str(asked).strip() == str(used).strip()


def _bounded(value: Any) -> bool | int | float | str:
    if isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text[:_MAX_VALUE]


def _reported(info: Mapping[str, Any]) -> dict[str, Any]:
    """All values of ``info`` by name; its fields take precedence over its texts."""
    reported: dict[str, Any] = {}
    html, texts = info.get("html_info"), info.get("infotexts")
    if isinstance(html, str):
        reported.update(_pairs(_TAG.sub(" ", html[:_MAX_TEXT])))
    if isinstance(texts, Sequence) and texts and isinstance(texts[0], str):
        # The last line holds the settings; those before it are the prompts.
        reported.update(_pairs(texts[0][-_MAX_TEXT:].rpartition("\n")[2]))
    extra = info.get("extra_generation_params")
    if isinstance(extra, Mapping):
        reported.update(extra)
    reported.update({name: value for name, value in info.items() if not isinstance(value, Mapping)})
    return reported


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for found in _PAIR.finditer(text):
        yield found[1].strip(), found[2].strip().strip('"')


def _passes_used(reported: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for place in range(MAX_PASSES):
        ordinal = _ORDINALS[place] if place < len(_ORDINALS) else f" {place + 1}th"
        for key, words in _PASS.items():
            value = reported.get(f"ADetailer {words}{ordinal}")
            if value is not None:
                yield f"passes.{place}.{key}", _bounded(value)
