"""What the scripted WebUI has, takes and is sent: names, options, schema, requests."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from .webui_faults import Document

OPENAPI = Path(__file__).parent / "webui-openapi.json"
STAGES = ("txt2img", "img2img", "extra-single-image", "extra-batch-images")


@dataclass(frozen=True)
class Names:
    """What the server has."""

    models: tuple[str, ...] = ("base.safetensors", "refiner.safetensors", "other.safetensors")
    vaes: tuple[str, ...] = ("vae.safetensors",)
    samplers: tuple[str, ...] = ("DPM++ 2M", "Euler a", "Euler", "DDIM")
    schedulers: tuple[str, ...] = ("Automatic", "Karras", "Exponential")
    upscalers: tuple[str, ...] = ("None", "Lanczos", "Nearest", "R-ESRGAN 4x+", "Missing 4x")
    latent_modes: tuple[str, ...] = ("Latent", "Latent (nearest)")
    loras: tuple[str, ...] = ("film grain", "ink")
    embeddings: tuple[str, ...] = ("badhand",)
    detectors: tuple[str, ...] = ("face_yolov8n.pt", "hand_yolov8n.pt", "person_yolov8n-seg.pt")


DETAILER_VERSION = "25.3.0"
DETAILER_KEYS = """
    ad_model ad_model_classes ad_tab_enable ad_prompt ad_negative_prompt ad_confidence
    ad_mask_filter_method ad_mask_k ad_mask_min_ratio ad_mask_max_ratio ad_dilate_erode
    ad_x_offset ad_y_offset ad_mask_merge_invert ad_mask_blur ad_denoising_strength
    ad_inpaint_only_masked ad_inpaint_only_masked_padding ad_use_inpaint_width_height
    ad_inpaint_width ad_inpaint_height ad_use_steps ad_steps ad_use_cfg_scale ad_cfg_scale
    ad_use_checkpoint ad_checkpoint ad_use_vae ad_vae ad_use_sampler ad_sampler ad_scheduler
    ad_use_noise_multiplier ad_noise_multiplier ad_use_clip_skip ad_clip_skip ad_restore_face
    ad_controlnet_model ad_controlnet_module ad_controlnet_weight ad_controlnet_guidance_start
    ad_controlnet_guidance_end is_api
"""
DETAILER_BOUNDS: dict[str, tuple[float, float] | None] = {
    **dict.fromkeys(re.findall(r"\w+", DETAILER_KEYS)),
    "ad_confidence": (0, 1),
    "ad_denoising_strength": (0, 1),
    "ad_mask_min_ratio": (0, 1),
    "ad_mask_max_ratio": (0, 1),
    "ad_noise_multiplier": (0.5, 1.5),
    "ad_clip_skip": (1, 12),
}
OPTIONS: Document = {
    "upscaling_max_images_in_cache": 5,
    "sd_model_checkpoint": None,
    "sd_vae": "Automatic",
    "CLIP_stop_at_last_layers": 1,
    "samples_format": "png",
    "enable_pnginfo": True,
    "hires_fix_refiner_pass": "second pass",
    "eta_noise_seed_delta": 0,
    "lora_add_hashes_to_infotext": True,
    "textual_inversion_add_hashes_to_infotext": True,
    "sd_model_refiner": None,
    "ad_max_models": 4,
}
SAVED = ("sd_model_checkpoint", "samples_format", "enable_pnginfo")
"""The options in the ``config.json`` of a fresh server; it restores no others after a request."""
MODULES = "forge_additional_modules"
"""Forge restores this option never, and reports it as full paths."""


def stem(name: str) -> str:
    """A model's name without folder, extension and ``[hash]``."""
    bare = re.sub(r" \[[0-9a-f]+\]$", "", name).replace("\\", "/").rsplit("/", 1)[-1]
    return re.sub(r"\.(safetensors|ckpt|pt)$", "", bare)


def long_hash(name: str, contents: Mapping[str, str] = {}) -> str:
    """The digest of a file; that of a file without ``contents`` follows from its name."""
    return sha256(contents.get(stem(name), stem(name)).encode()).hexdigest()


def short_hash(name: str, contents: Mapping[str, str] = {}) -> str:
    """The ten digits that stand in brackets behind a model's name."""
    return long_hash(name, contents)[:10]


def listed(
    names: Names, hashed: set[str], scripts: tuple[str, ...], fork: str,
    contents: Mapping[str, str] = {},
) -> Document:  # fmt: skip
    """What a server lists of its names, by path.

    ``hashed`` are the models of known hash, ``contents`` those of files, and of a style.
    """
    api = "/sdapi/v1/"
    vaes = [{"model_name": name, "filename": f"/models/VAE/{name}"} for name in names.vaes]
    answers: Document = {
        api + "sd-models": [model_item(name, hashed, contents) for name in names.models],
        api + ("sd-modules" if fork == "forge" else "sd-vae"): vaes,
        api + "samplers": [{"name": one, "aliases": [], "options": {}} for one in names.samplers],
        api + "schedulers": [scheduler_item(name) for name in names.schedulers],
        api + "upscalers": [upscaler_item(name) for name in names.upscalers],
        api + "latent-upscale-modes": [{"name": name} for name in names.latent_modes],
        api + "loras": [
            {
                "name": one,
                "alias": f"{one} alias",
                "path": f"/models/Lora/{one}",
                "metadata": {"sshs_model_hash": long_hash(one, contents)},
            }
            for one in names.loras
        ],
        api + "embeddings": {
            "loaded": {name: {} for name in names.embeddings},
            "skipped": {"oldhand": {}},
        },
        api + "prompt-styles": [
            {
                "name": "inked",
                "prompt": contents.get("inked", "{prompt} <lora:ink:0.5>"),
                "negative_prompt": "",
            },
            {"name": "lost", "prompt": "{prompt} <lora:inc:0.5>", "negative_prompt": ""},
        ],
        api + "scripts": {"txt2img": scripts, "img2img": scripts},
        api + "script-info": [{"name": name, "is_alwayson": True} for name in scripts],
        api + "memory": {"ram": {"total": 1}, "cuda": {"error": "unavailable"}},
    }
    if "adetailer" in scripts:
        fields: Document = {key: {} for key in DETAILER_BOUNDS}
        answers["/adetailer/v1/ad_model"] = {"ad_model": names.detectors}
        answers["/adetailer/v1/version"] = {"version": DETAILER_VERSION}
        answers["/adetailer/v1/schema"] = {"title": "ADetailerArgs", "properties": fields}
    return answers


def describe(fork: str) -> Document:
    """The schema that a fork publishes."""
    document: Document = json.loads(OPENAPI.read_text(encoding="utf-8"))
    schemas, paths = document["components"]["schemas"], document["paths"]
    for name in ("Txt2Img", "Img2Img"):
        fields = schemas[f"StableDiffusionProcessing{name}"]["properties"]
        if fork == "forge":
            fields["distilled_cfg_scale"] = {"type": "number", "default": 3.5}
            if name == "Txt2Img":
                fields["hr_cfg"] = {"type": "number", "default": 1.0}
                fields["hr_distilled_cfg"] = {"type": "number", "default": 3.5}
                fields["hr_additional_modules"] = {"type": "array", "items": {}}
        elif fork == "sdnext":
            for gone in ("refiner_checkpoint", "hr_checkpoint_name", "scheduler", "hr_scheduler"):
                fields.pop(gone, None)
            fields["detailer_enabled"] = {"type": "boolean", "default": False}
            fields["detailer_prompt"] = {"type": "string", "default": ""}
    if fork == "forge":
        paths["/sdapi/v1/sd-modules"] = paths.pop("/sdapi/v1/sd-vae")
    elif fork == "sdnext":
        for path in [path for path in paths if path.startswith("/adetailer")]:
            del paths[path]
    return document


def model_item(name: str, hashed: set[str], contents: Mapping[str, str] = {}) -> Document:
    """A checkpoint as it is listed: its title holds the hash once that is known."""
    digest = short_hash(name, contents) if name in hashed else None
    title = name if digest is None else f"{name} [{digest}]"
    return {
        "title": title,
        "model_name": stem(name),
        "hash": digest,
        "sha256": digest and long_hash(name, contents),
        "filename": f"/models/Stable-diffusion/{name}",
        "config": None,
    }


def scheduler_item(name: str) -> Document:
    """A noise schedule as it is listed."""
    return {"name": name.lower(), "label": name, "aliases": None, "need_inner_model": False}


def upscaler_item(name: str) -> Document:
    """An upscaler as it is listed."""
    return {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4}


@dataclass(frozen=True)
class Received:
    """One request as it came; ``stage`` is set for those that generate."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: Any
    at: float = field(default_factory=time.monotonic)

    @property
    def stage(self) -> str | None:
        """The generating endpoint's last word, or "adetailer"; None for any other request."""
        name = self.path.rpartition("/")[2]
        if self.method != "POST" or name not in STAGES or not isinstance(self.body, dict):
            return None
        scripts = self.body.get("alwayson_scripts") or {}
        alone = name == "img2img" and any(key.lower() == "adetailer" for key in scripts)
        return "adetailer" if alone else name
