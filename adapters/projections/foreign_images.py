"""Reads which settings made an image from its own metadata, as several programs write it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ...events.codec import DECODE_ERRORS
from ...statemachine.stages import stage_types
from ..backends.infotext_settings import infotext_values, settings_used
from .comfyui_graph import ComfyGraph
from .image_texts import ImageMetadataError, texts_of

_MAX_NODES = 2_000
"""The nodes of a graph that are searched; the largest published workflows have some hundred."""
_MAX_VALUE = 64 * 1024
_MOST_NAMES = 20
_SIZE = re.compile(r"\D*(\d{1,5})\D+(\d{1,5})\D*")
_FROM_IMAGE = re.compile(r"img2img|inpaint|outpaint")
_SETTINGS = re.compile(r"(Steps: \d|Postprocess upscale)")
"""How the line of settings begins in an infotext."""
_UNDERSTOOD = re.compile(
    r"(ADetailer|Hires|Refiner|Postprocess) .*|(Steps|Sampler|Schedule type|CFG scale|Seed|Size"
    r"|Model|VAE|Module \d+|Distilled CFG Scale|Shift|Variation seed|Variation seed strength|Eta"
    r"|Version|App|Refiner|Denoising strength|Clip skip|Tiling)\Z"
)
"""The names in an infotext that a configuration has keys for."""
_K_SAMPLERS = {
    "euler": "Euler", "euler_ancestral": "Euler a", "euler_a": "Euler a", "heun": "Heun",
    "dpm_2": "DPM2", "kdpm_2": "DPM2", "dpm_2_ancestral": "DPM2 a", "kdpm_2_a": "DPM2 a",
    "lms": "LMS", "dpm_fast": "DPM fast", "dpm_adaptive": "DPM adaptive",
    "dpmpp_2s_ancestral": "DPM++ 2S a", "dpmpp_2s": "DPM++ 2S a", "dpmpp_sde": "DPM++ SDE",
    "dpmpp_2m": "DPM++ 2M", "dpmpp_2m_sde": "DPM++ 2M SDE", "dpmpp_3m_sde": "DPM++ 3M SDE",
    "ddim": "DDIM", "lcm": "LCM", "unipc": "UniPC", "uni_pc": "UniPC", "restart": "Restart",
}  # fmt: skip
"""The names of WebUI servers for those of ComfyUI, Fooocus and InvokeAI."""
_SCHEDULES = {
    "normal": "Normal", "karras": "Karras", "exponential": "Exponential", "simple": "Simple",
    "sgm_uniform": "SGM Uniform", "ddim_uniform": "DDIM", "beta": "Beta",
    "align_your_steps": "Align Your Steps", "turbo": "Turbo",
}  # fmt: skip


class ForeignImage(msgspec.Struct, frozen=True, kw_only=True):
    """What the metadata of an image says of its origin.

    ``stages`` holds the settings of each stage by dotted configuration key, as far as they are
    known, with the names of WebUI servers. ``unknown`` are settings that no key stands for.
    ``run_id`` is that of the ``stagewright`` chunk, if the image has one.
    """

    image: str
    tool: str
    version: str
    prompt: str
    negative_prompt: str
    seed: int | None
    stages: Mapping[str, Mapping[str, Any]]
    unknown: Mapping[str, Any]
    run_id: str = ""


def tool_name(found: ForeignImage) -> str:
    """The program that made an image, and its version."""
    if found.version.startswith(found.tool):
        return found.version
    return f"{found.tool} {found.version}".rstrip()


class _Found(msgspec.Struct):
    """What one reader finds."""

    tool: str
    version: str = ""
    prompt: str = ""
    negative_prompt: str = ""
    seed: Any = None
    stages: dict[str, dict[str, Any]] = {}
    unknown: dict[str, Any] = {}


def read_foreign_image(
    data: bytes, name: str, *, run_id: str = "", is_detailed: bool = False
) -> ForeignImage | None:
    """The settings in the metadata of an image, or None if it holds none that are understood.

    Understood are AUTOMATIC1111, Forge and others that write infotexts, ComfyUI, InvokeAI and
    Fooocus. ``is_detailed`` says that the image comes from a stage adetailer of ours: its
    infotext reports the sampling of a picture that was discarded. Raises ImageMetadataError,
    which names the image, for metadata that is malformed.
    """
    texts = texts_of(data, name)
    for reader in _READERS:
        try:
            found = reader(texts)
        except (*DECODE_ERRORS, AttributeError, TypeError, ValueError, OverflowError) as error:
            raise ImageMetadataError(
                f"{name}: its metadata is not what its program writes: {str(error)[:200]}"
            ) from error
        if found is not None:
            read = _result(name, found, is_detailed=is_detailed)
            return msgspec.structs.replace(read, run_id=run_id)
    return None


def _result(name: str, found: _Found, *, is_detailed: bool) -> ForeignImage:
    stages = {stage: _plain(settings) for stage, settings in found.stages.items()}
    if is_detailed:
        sampled = [stage for stage in stages if stage_types()[stage].generates]
        stages = {stage: stages[stage] for stage in stages.keys() - sampled}
    seed = _number(found.seed)
    return ForeignImage(
        image=name,
        tool=str(found.tool)[:_MAX_VALUE],
        version=str(found.version)[:_MAX_VALUE],
        prompt=str(found.prompt or "")[:_MAX_VALUE],
        negative_prompt=str(found.negative_prompt or "")[:_MAX_VALUE],
        seed=seed if isinstance(seed, int) and 0 <= seed < 2**64 else None,
        stages={stage: settings for stage, settings in stages.items() if settings},
        unknown=_plain(found.unknown),
    )


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers, booleans, text and lists of names, each within bounds."""
    values = ((str(key)[:200], _number(value)) for key, value in settings.items())
    return {
        key: value[:_MOST_NAMES] if isinstance(value, list) else value
        for key, value in values
        if isinstance(value, str | int | float) or _is_names(value)
    }


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, str) and len(one) <= _MAX_VALUE for one in value
    )


def _number(value: Any) -> Any:
    """A text as the number, or true or false, that it stands for."""
    if not isinstance(value, str):
        return value
    value = value[:_MAX_VALUE]
    if re.fullmatch(r"[+-]?\d{1,20}", value):
        return int(value)
    if value in ("True", "False"):
        return value == "True"
    return float(value) if re.fullmatch(r"[+-]?\d{1,18}\.\d{1,18}", value) else value


def _decoded(text: str) -> dict[str, Any]:
    return msgspec.json.decode(text, type=dict[str, Any], strict=True)


def _read_infotext(texts: Mapping[str, str]) -> _Found | None:
    lines = (texts.get("parameters") or texts.get("UserComment", "")).split("\n")
    # Other programs add lines of their own behind the settings.
    last = max((place for place, line in enumerate(lines) if _SETTINGS.match(line)), default=None)
    if last is None:
        return None
    info = {"infotexts": [lines[last]]}
    reported = infotext_values(info)
    is_first = "Denoising strength" not in reported or "Hires upscale" in reported
    used = settings_used("txt2img" if is_first else "img2img", info)
    if (size := _SIZE.fullmatch(reported.get("Size", ""))) is not None:
        used["width"], used["height"] = size[1], size[2]
    passes = settings_used("adetailer", info).items()
    prompt, _, negative = "\n".join(lines[:last]).partition("Negative prompt:")
    return _Found(
        tool=reported.get("App") or _infotext_tool(reported.get("Version", "")),
        version=reported.get("Version", ""),
        prompt=prompt.strip(),
        negative_prompt=negative.strip(),
        seed=reported.get("Seed"),
        stages={
            "txt2img" if is_first else "img2img": used if "Steps" in reported else {},
            "upscale": settings_used("upscale", info),
            "adetailer": {key: value for key, value in passes if key.startswith("passes.")},
        },
        unknown={key: value for key, value in reported.items() if not _UNDERSTOOD.match(key)},
    )


def _infotext_tool(version: str) -> str:
    if "stagewright" in version or "Fooocus" in version:
        return "stagewright" if "stagewright" in version else "Fooocus"
    return "Forge" if version.startswith(("f", "neo", "classic")) else "AUTOMATIC1111"


def _read_fooocus(texts: Mapping[str, str]) -> _Found | None:
    text = texts.get("parameters") or texts.get("UserComment", "")
    if not text.lstrip().startswith("{"):
        return None
    told = _decoded(text)
    if "base_model" not in told:
        return None
    settings = {
        "model": told.pop("base_model"),
        "sampler": told.pop("sampler", None),
        "scheduler": told.pop("scheduler", None),
        "steps": told.pop("steps", None),
        "cfg_scale": told.pop("guidance_scale", None),
        "vae": told.pop("vae", None),
        "clip_skip": told.pop("clip_skip", None),
    }
    if settings["vae"] == "Default (model)":
        settings["vae"] = None
    size = _SIZE.fullmatch(str(told.pop("resolution", ""))[:100])
    if size is not None:
        settings["width"], settings["height"] = size[1], size[2]
    refiner = told.pop("refiner_model", None)
    if refiner not in (None, "", "None"):
        settings["refiner.model"] = refiner
        settings["refiner.switch_at"] = told.pop("refiner_switch", None)
    # What its styles and its language model added to the prompt is part of what was sampled.
    prompt, negative = told.pop("prompt", ""), told.pop("negative_prompt", "")
    return _Found(
        tool="Fooocus",
        version=str(told.pop("version", texts.get("Software", ""))),
        prompt=_joined(told.pop("full_prompt", None)) or prompt,
        negative_prompt=_joined(told.pop("full_negative_prompt", None)) or negative,
        seed=told.pop("seed", None),
        stages={"txt2img": _named(settings)},
        unknown={key: _joined(value) for key, value in told.items()},
    )


def _joined(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(dict.fromkeys(part for part in value if isinstance(part, str) and part))
    return value


def _read_invokeai(texts: Mapping[str, str]) -> _Found | None:
    if "invokeai_metadata" not in texts:
        return None
    told = _decoded(texts["invokeai_metadata"])
    settings = {key: told.pop(key, None) for key in ("width", "height", "steps", "cfg_scale")}
    settings["sampler"] = told.pop("scheduler", None)
    settings["model"] = _model_name(told.pop("model", None))
    settings["vae"] = _model_name(told.pop("vae", None))
    settings["clip_skip"] = told.pop("clip_skip", None)
    strength, mode = told.pop("strength", None), str(told.pop("generation_mode", "txt2img"))
    is_first = _FROM_IMAGE.search(mode) is None
    if not is_first:
        settings["denoise"] = strength
    loras = [
        _model_name(one.get("model", one.get("lora"))) for one in told.pop("loras", None) or ()
    ]
    return _Found(
        tool="InvokeAI",
        version=told.pop("app_version", ""),
        prompt=told.pop("positive_prompt", ""),
        negative_prompt=told.pop("negative_prompt", ""),
        seed=told.pop("seed", None),
        stages={"txt2img" if is_first else "img2img": _named(settings)},
        unknown={**told, **({"loras": ", ".join(filter(None, loras))} if loras else {})},
    )


def _model_name(model: Any) -> Any:
    """Versions before 4 wrote ``model_name``, later ones ``name``."""
    return model.get("name") or model.get("model_name") if isinstance(model, Mapping) else model


def _read_comfyui(texts: Mapping[str, str]) -> _Found | None:
    text = texts.get("prompt", "")
    if not text.lstrip().startswith("{"):  # a WebP of ComfyUI has it in EXIF
        text = next(
            (
                texts[word][7:]
                for word in ("Make", "Model")
                if texts.get(word, "").startswith("prompt:")
            ),
            "",
        )
    if not text:
        return None
    document = _decoded(text)
    if len(document) > _MAX_NODES:
        raise ValueError(f"its graph has more than {_MAX_NODES} nodes")
    graph = ComfyGraph(document)
    samplers = graph.samplers()
    settings = graph.settings(samplers[0]) if samplers else {}
    prompt, negative = settings.pop("prompt", ""), settings.pop("negative_prompt", "")
    if settings.get("denoise") == 1:
        del settings["denoise"]
    more = {"further sampling nodes": len(samplers) - 1} if len(samplers) > 1 else {}
    return _Found(
        tool="ComfyUI",
        prompt=prompt,
        negative_prompt=negative,
        seed=settings.pop("seed", None),
        stages={"img2img" if "denoise" in settings else "txt2img": _named(settings)},
        unknown=more,
    )


def _named(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the names that WebUI servers give to samplers and schedules."""
    named = {key: value for key, value in settings.items() if value is not None}
    sampler = str(named.get("sampler", "")).removesuffix("_gpu")
    if sampler.endswith("_k") and "scheduler" not in named:  # InvokeAI
        sampler, named["scheduler"] = sampler.removesuffix("_k"), "karras"
    if sampler in _K_SAMPLERS:
        named["sampler"] = _K_SAMPLERS[sampler]
    if "scheduler" in named:
        named["scheduler"] = _SCHEDULES.get(str(named["scheduler"]), named["scheduler"])
    return named


_READERS: tuple[Callable[[Mapping[str, str]], _Found | None], ...] = (
    _read_fooocus,
    _read_infotext,
    _read_invokeai,
    _read_comfyui,
)
