"""Reads the used settings that a backend reports, and compares them with the requested ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from ...statemachine.stages import stage_types
from ..backends.webui.answer_check import same_name, same_sampler, stem
from ..backends.webui.names import NO_VAE, SAME_AS_THE_STAGE

MAX_PASSES = 16
MAX_SETTINGS = 1_000
_PAIR = re.compile(r'([\w][\w \-/]{0,80}):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_BETWEEN_WORDS = re.compile(r"[\s_-]+")
_TAG = re.compile(r"<[^>]{0,200}>")
_MAX_TEXT = 64 * 1024
_MAX_VALUE = 2_000
_MAX_NAME = 200
_DEEPEST = 6
"""Our configurations nest three tables; deeper values are kept whole."""
_ORDINALS = ("", " 2nd", " 3rd", *(f" {number}th" for number in range(4, MAX_PASSES + 1)))
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
# A detailer's answer reports the sampling of the discarded picture around the detail.
_ADETAILER: Mapping[str, tuple[str, ...]] = {
    **{key: _SAMPLING[key] for key in ("model", "vae", "prompt", "negative_prompt")},
    **{
        f"passes.{place}.{key}": (f"ADetailer {words}{ordinal}",)
        for place, ordinal in enumerate(_ORDINALS)
        for key, words in _PASS.items()
    },
}
_NAMES_IN_INFO: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "txt2img": _TXT2IMG,
    "img2img": _IMG2IMG,
    "upscale": _UPSCALE,
    "adetailer": _ADETAILER,
}
"""By stage and key, where an ``info`` reports it. Other stages report keys by their own names."""


def settings_asked(config: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's configuration with a dotted key for each value, ``passes.0.model``.

    A refiner or hires table that is switched off is left out. For foreign logs the number of
    values is limited to ``MAX_SETTINGS``, and their dotted keys to 200 characters.
    """
    table = {key: value for key, value in config.items() if key != "enabled"}
    return dict(islice(_flattened(table, "", _DEEPEST), MAX_SETTINGS))


def settings_used(stage_type: str, info: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that an answer's ``info`` reports, under the keys of ``settings_asked``.

    Unreported settings are missing. Values are numbers, booleans and text (lists as JSON) of
    bounded length.
    """
    reported = _reported(info)
    used: dict[str, Any] = {}
    for key, names in _names_in_info(stage_type).items():
        found = next((reported[name] for name in names if reported.get(name) is not None), None)
        if found is not None:
            used[key] = _bounded(found)
    return used


def _names_in_info(stage_type: str) -> Mapping[str, tuple[str, ...]]:
    kind = stage_types().get(stage_type)
    if stage_type in _NAMES_IN_INFO or kind is None:
        return _NAMES_IN_INFO.get(stage_type, {})
    return {key: (key,) for key in kind.__struct_fields__}


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


def _flattened(value: Any, name: str, deepest: int) -> Iterator[tuple[str, Any]]:
    parts = _parts(value) if deepest else None
    if parts is None:
        if value is not None:
            yield name, _bounded(value)
        return
    for key, part in parts:
        if len(name) + len(key) < _MAX_NAME:
            yield from _flattened(part, f"{name}.{key}" if name else key, deepest - 1)


def _parts(value: Any) -> Iterator[tuple[str, Any]] | None:
    """The named parts of a table, or of a list of tables; None for any other value."""
    if isinstance(value, Mapping):
        off = value.get("enabled") is False
        return ((key, part) for key, part in value.items() if key != "enabled" and not off)
    if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
        return ((str(place), part) for place, part in enumerate(value[:MAX_PASSES]))
    return None


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
