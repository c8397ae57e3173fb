"""The list routes: names that the server offers, and facts about the server."""

from __future__ import annotations

import os
import re
from typing import Any

import msgspec

from ..imaging import ImageError, open_image
from . import model_catalogue
from .api_errors import server_error
from .bodies import PngInfoBody
from .body_schema import decode_body, decode_image
from .detailer import VERSION as DETAILER_VERSION
from .detailer import DetailerArgs
from .samplers import OWN_SCHEDULERS, SAMPLERS, SCHEDULERS

_PARAMETER = re.compile(r'(\w[\w \-/]{1,80}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_LONGEST_SETTINGS = 100_000
"""The part of a text that is parsed; an infotext has a few thousand characters."""
_NEGATIVE = "Negative prompt:"

Row = dict[str, Any]


def sd_models(checkpoints: model_catalogue.Checkpoints) -> list[Row]:
    """GET /sdapi/v1/sd-models."""
    return [
        {
            "title": one.title,
            "model_name": one.stem,
            "hash": one.hash,
            "sha256": one.sha256,
            "filename": f"models/Stable-diffusion/{one.name}",
            "config": None,
        }
        for one in checkpoints.every
    ]


def sd_vaes() -> list[Row]:
    """GET /sdapi/v1/sd-vae."""
    return [{"model_name": name, "filename": f"models/VAE/{name}"} for name in model_catalogue.VAES]


def samplers() -> list[Row]:
    """GET /sdapi/v1/samplers."""
    return [
        {"name": name, "aliases": list(aliases), "options": _sampler_options(name)}
        for name, aliases in SAMPLERS.items()
    ]


def _sampler_options(name: str) -> dict[str, str]:
    scheduler = OWN_SCHEDULERS.get(name)
    return {} if scheduler is None else {"scheduler": scheduler}


def schedulers() -> list[Row]:
    """GET /sdapi/v1/schedulers."""
    return [
        {
            "name": name,
            "label": label,
            "aliases": None,
            "default_rho": 7.0 if name == "karras" else -1.0,
            "need_inner_model": False,
        }
        for name, label in SCHEDULERS.items()
    ]


def upscalers() -> list[Row]:
    """GET /sdapi/v1/upscalers."""
    return [
        {
            "name": name,
            "model_name": None if name in ("None", "Lanczos", "Nearest") else name,
            "model_path": None,
            "model_url": None,
            "scale": 4.0,
        }
        for name in model_catalogue.UPSCALERS
    ]


def latent_upscale_modes() -> list[Row]:
    """GET /sdapi/v1/latent-upscale-modes."""
    return [{"name": name} for name in model_catalogue.LATENT_MODES]


def scripts() -> Row:
    """GET /sdapi/v1/scripts."""
    return {"txt2img": list(model_catalogue.SCRIPTS), "img2img": list(model_catalogue.SCRIPTS)}


def script_info() -> list[Row]:
    """GET /sdapi/v1/script-info."""
    return [
        {"name": name, "is_alwayson": True, "is_img2img": is_img2img, "args": []}
        for is_img2img in (False, True)
        for name in model_catalogue.SCRIPTS
    ]


def extensions() -> list[Row]:
    """GET /sdapi/v1/extensions."""
    return [
        {
            "name": "adetailer",
            "remote": "https://github.com/Bing-su/adetailer.git",
            "branch": "main",
            "commit_hash": "",
            "version": DETAILER_VERSION,
            "commit_date": 0,
            "enabled": True,
        }
    ]


def face_restorers() -> list[Row]:
    """GET /sdapi/v1/face-restorers."""
    return [{"name": name, "cmd_dir": None} for name in ("CodeFormer", "GFPGAN")]


def realesrgan_models() -> list[Row]:
    """GET /sdapi/v1/realesrgan-models."""
    names = [name for name in model_catalogue.UPSCALERS if name.startswith("R-ESRGAN")]
    return [{"name": name, "path": None, "scale": 4} for name in names]


def embeddings() -> Row:
    """GET /sdapi/v1/embeddings."""
    return {"loaded": {}, "skipped": {}}


def cmd_flags(*, ui: bool) -> Row:
    """GET /sdapi/v1/cmd-flags, with the flags that clients use."""
    return {"api": True, "nowebui": not ui, "api_log": False, "ckpt_dir": None, "vae_dir": None}


def memory() -> Row:
    """GET /sdapi/v1/memory, in bytes. There is no GPU."""
    total = free = 0
    if hasattr(os, "sysconf"):
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    ram = {"free": free, "used": total - free, "total": total}
    return {"ram": ram, "cuda": {"error": "unavailable"}}


def detailer_schema() -> Row:
    """GET /adetailer/v1/schema."""
    schemas, components = msgspec.json.schema_components([DetailerArgs])
    del schemas
    schema: Row = components["DetailerArgs"]
    return schema | {"title": "ADetailerArgs"}


def png_info(data: bytes) -> Row:
    """POST /sdapi/v1/png-info: the infotext of a picture, and its parts. Raises ApiError."""
    picture = decode_image(decode_body(data, PngInfoBody).body.image)
    try:
        with open_image(picture, metadata=True) as image:
            items = {key: value for key, value in image.info.items() if isinstance(value, str)}
    except ImageError as error:
        raise server_error("ValueError", str(error)) from error
    text = items.pop("parameters", "")
    return {"info": text, "items": items, "parameters": _parsed(text) if text else {}}


def _parsed(text: str) -> Row:
    """An infotext's prompts and settings."""
    *lines, last = text.strip().split("\n")
    places = [place for place, line in enumerate(lines) if line.startswith(_NEGATIVE)]
    cut = places[0] if places else len(lines)
    negative = "\n".join(lines[cut:]).removeprefix(_NEGATIVE).strip()
    settings = {
        key: value.strip('"') for key, value in _PARAMETER.findall(last[:_LONGEST_SETTINGS])
    }
    return {"Prompt": "\n".join(lines[:cut]), "Negative prompt": negative} | settings
