"""Settings as infotexts name them, by configuration key; the embedded backend writes them too."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from ...statemachine.stages import stage_types

MAX_PASSES = 16
_PAIR = re.compile(r'([\w][\w \-/]{0,80}):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_MODULE = re.compile(r"Module \d+")
_TAG = re.compile(r"<[^>]{0,200}>")
_MAX_TEXT = 64 * 1024
_ORDINALS = ("", " 2nd", " 3rd", *(f" {number}th" for number in range(4, MAX_PASSES + 1)))

_SAMPLING: Mapping[str, tuple[str, ...]] = {
    "model": ("sd_model_name", "Model"),
    "vae": ("sd_vae_name", "VAE"),
    "clip_skip": ("clip_skip", "Clip skip"),
    "sampler": ("sampler_name", "Sampler"),
    "scheduler": ("Schedule type",),
    "steps": ("steps", "Steps"),
    "cfg_scale": ("cfg_scale", "CFG scale"),
    "distilled_cfg_scale": ("Distilled CFG Scale",),
    "shift": ("Shift",),
    "subseed": ("subseed", "Variation seed"),
    "subseed_strength": ("subseed_strength", "Variation seed strength"),
    "eta": ("Eta",),
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
    "hires.cfg_scale": ("Hires CFG Scale",),
    "hires.distilled_cfg_scale": ("Hires Distilled CFG Scale",),
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


_FILES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "model": (("sd_model_name", "Model"), ("sd_model_hash", "Model hash")),
    "vae": (("sd_vae_name", "VAE"), ("sd_vae_hash", "VAE hash")),
    "refiner": (("Refiner",), ()),
    "hires model": (("Hires checkpoint",), ()),
}
"""By kind, where an ``info`` has the name and the hash of a file of a model."""
_HASH_LISTS: Mapping[str, str] = {"LoRA": "Lora hashes", "embedding": "TI hashes"}
_HASHED_NAME = re.compile(r"(.*?)\s*\[([0-9a-fA-F]+)\]")
_MOST_FILES = 1_000


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that the backend used, by its own name; ``hash`` is None where it reports none."""

    kind: str
    name: str
    hash: str | None


def files_reported(info: Mapping[str, Any]) -> tuple[ModelFile, ...]:
    """The models, LoRAs, embeddings and modules that an answer's ``info`` reports."""
    return tuple(islice(_files_in(_reported(info)), _MOST_FILES))


def _files_in(reported: Mapping[str, Any]) -> Iterator[ModelFile]:
    for kind, (names, hashes) in _FILES.items():
        name, digest = (_first_text(reported, keys) for keys in (names, hashes))
        if name and not digest and (found := _HASHED_NAME.fullmatch(name)):
            name, digest = found.groups()
        if name or digest:
            yield ModelFile(kind=kind, name=name, hash=digest or None)
    for name, value in reported.items():
        if _MODULE.fullmatch(name):
            yield ModelFile(kind="module", name=str(value), hash=None)
    for kind, listed in _HASH_LISTS.items():
        for pair in str(reported.get(listed) or "")[:_MAX_TEXT].split(","):
            name, _, digest = pair.strip().rpartition(":")
            if name:
                yield ModelFile(kind=kind, name=name.strip(), hash=digest.strip() or None)


def _first_text(reported: Mapping[str, Any], keys: Sequence[str]) -> str:
    found = (reported[key] for key in keys if reported.get(key) is not None)
    return str(next(found, ""))[:_MAX_TEXT]


def settings_used(stage_type: str, info: Mapping[str, Any]) -> dict[str, Any]:
    """What an answer's ``info`` tells of a stage's settings, by dotted configuration key.

    What it does not tell is not there. A foreign log's ``info`` may hold anything.
    """
    reported = _reported(info)
    used: dict[str, Any] = {}
    for key, names in _names_in_info(stage_type).items():
        found = next((reported[name] for name in names if reported.get(name) is not None), None)
        if found is not None:
            used[key] = found
    modules = [value for name, value in reported.items() if _MODULE.fullmatch(name)]
    kind = stage_types().get(stage_type)
    if modules and kind is not None and "modules" in kind.__struct_fields__:
        used["modules"] = modules
    return used


def _names_in_info(stage_type: str) -> Mapping[str, tuple[str, ...]]:
    kind = stage_types().get(stage_type)
    if stage_type in _NAMES_IN_INFO or kind is None:
        return _NAMES_IN_INFO.get(stage_type, {})
    return {key: (key,) for key in kind.__struct_fields__}


def _reported(info: Mapping[str, Any]) -> dict[str, Any]:
    """All values of ``info`` by name; its fields take precedence over its texts."""
    reported: dict[str, Any] = {}
    html = info.get("html_info")
    if isinstance(html, str):
        reported.update(_pairs(_TAG.sub(" ", html[:_MAX_TEXT])))
    reported.update(infotext_values(info))
    extra = info.get("extra_generation_params")
    if isinstance(extra, Mapping):
        reported.update(extra)
    reported.update({name: value for name, value in info.items() if not isinstance(value, Mapping)})
    return reported


def infotext_values(info: Mapping[str, Any]) -> dict[str, str]:
    """The settings in the infotext of the first image, by the server's names."""
    texts = info.get("infotexts")
    if not (isinstance(texts, Sequence) and texts and isinstance(texts[0], str)):
        return {}
    # The last line holds the settings; those before it are the prompts.
    return dict(_pairs(texts[0][-_MAX_TEXT:].rpartition("\n")[2]))


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for found in _PAIR.finditer(text):
        yield found[1].strip(), found[2].strip().strip('"')
