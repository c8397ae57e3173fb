"""The names that the server offers (``lists.json``), and how a WebUI replaces unknown ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ..backends.embedded.infotext import model_stem

LISTS: Mapping[str, Any] = msgspec.json.decode(Path(__file__).with_name("lists.json").read_bytes())
"""The answers of the GET routes that always answer the same, by path."""


def _names(path: str, key: str = "name") -> tuple[str, ...]:
    return tuple(row[key] for row in LISTS[path])


CHECKPOINTS = (
    *("sd_xl_base_1.0.safetensors", "sd_xl_refiner_1.0.safetensors"),
    *("v1-5-pruned-emaonly.safetensors", "flux1-dev-fp8.safetensors"),
    *("flux1-kontext-dev-fp8.safetensors", "flux-2-klein-4b-fp8.safetensors"),
    *("qwen_image_lightning_fp8_e4m3fn.safetensors", "z_image_turbo_bf16.safetensors"),
)
"""The models of the examples; the first is loaded when the server starts."""

VAES = _names("/sdapi/v1/sd-vae", "model_name")
MODULES: tuple[dict[str, str], ...] = (
    *LISTS["/sdapi/v1/sd-vae"],
    *LISTS["/sdapi/v1/sd-modules"],
)
"""The VAEs and text encoders of Forge."""

UPSCALERS = _names("/sdapi/v1/upscalers")
LATENT_MODES = _names("/sdapi/v1/latent-upscale-modes")
SAMPLERS = _names("/sdapi/v1/samplers")
DETECTORS: tuple[str, ...] = tuple(LISTS["/adetailer/v1/ad_model"]["ad_model"])
SCRIPTS: tuple[str, ...] = tuple(LISTS["/sdapi/v1/scripts"]["txt2img"])
"""Always-on scripts, in lower case as a WebUI lists them."""

DETAILER_VERSION: str = LISTS["/adetailer/v1/version"]["version"]

MISSING_UPSCALERS = frozenset({"LDSR"})
"""Upscalers without a downloaded file; the server silently uses Lanczos instead."""

_LABELS = {row["name"]: row["label"] for row in LISTS["/sdapi/v1/schedulers"]}
_OWN_SCHEDULERS = {
    row["name"]: row["options"].get("scheduler") for row in LISTS["/sdapi/v1/samplers"]
}
_UNKNOWN_SAMPLER = "DPM++ 2M"
_AUTOMATIC = "Automatic"
_SUFFIX = re.compile(r"\.(safetensors|ckpt)$")
_HASH = re.compile(r" \[[^\[\]]*\]$")


class Checkpoint(NamedTuple):
    """The names of a model; its file, and so its digest, is imaginary."""

    name: str
    stem: str
    title: str
    """The name with hash, as in lists."""
    short_title: str
    """The stem with hash, as in ``extra_generation_params``."""
    hash: str
    sha256: str

    def row(self) -> dict[str, Any]:
        """The model in the answer of ``/sdapi/v1/sd-models``."""
        filename = f"models/Stable-diffusion/{self.name}"
        return {
            "title": self.title, "model_name": self.stem, "hash": self.hash,
            "sha256": self.sha256, "filename": filename, "config": None,
        }  # fmt: skip


def _checkpoint(name: str) -> Checkpoint:
    digest = sha256(name.encode()).hexdigest()
    stem, short = model_stem(name) or name, digest[:10]
    return Checkpoint(name, stem, f"{name} [{short}]", f"{stem} [{short}]", short, digest)


class Checkpoints:
    """The models of one server: those of the examples, and ``more``."""

    def __init__(self, more: Iterable[str] = ()) -> None:
        named = (name if _SUFFIX.search(name) else f"{name}.safetensors" for name in more)
        self.every = tuple(map(_checkpoint, dict.fromkeys((*CHECKPOINTS, *named))))

    def find(self, name: object) -> Checkpoint | None:
        """The model with this file name, stem, title or hash."""
        return next((one for one in self.every if name in one), None)

    def closest(self, name: str) -> Checkpoint | None:
        """Like ``find``, else the model with the shortest title that contains ``name``."""
        found = self.find(name)
        part = _HASH.sub("", name)
        alike = [one for one in self.every if part in one.title]
        return found or min(alike, key=lambda one: len(one.title), default=None)


def find_module(name: object) -> dict[str, str] | None:
    """The module with this name, path, or name without suffix."""
    if not isinstance(name, str):
        return None
    stem = model_stem(name)
    return next((one for one in MODULES if model_stem(one["model_name"]) == stem), None)


def module_name(path: str) -> str:
    """The name of the module at a path."""
    found = find_module(path)
    return found["model_name"] if found else path


class Sampling(NamedTuple):
    """The sampler and scheduler to render with (None if not set), and those in ``info``."""

    sampler: str | None
    scheduler: str | None
    shown_sampler: str
    shown_scheduler: str | None


def scheduler_label(name: str | None) -> str | None:
    """The label of the scheduler with this name or label."""
    return next((label for key, label in _LABELS.items() if name in (key, label)), None)


def sampling_of(sampler: str | None, scheduler: str | None) -> Sampling:
    """An unknown sampler silently becomes DPM++ 2M, an unknown scheduler Automatic.

    A known name stays as it was sent; ``DPM++ 2M Karras`` is known as two names in one.
    """
    plain, tail = _split(sampler or "Euler")
    known = plain in SAMPLERS
    shown = plain if known else _UNKNOWN_SAMPLER
    label = scheduler_label(scheduler)
    used = tail or label or _AUTOMATIC
    if used == _AUTOMATIC:
        used = _LABELS.get(_OWN_SCHEDULERS[shown], _AUTOMATIC)
    return Sampling(
        sampler if known or not sampler else _UNKNOWN_SAMPLER,
        scheduler if label or not scheduler else _AUTOMATIC,
        shown,
        None if used == _AUTOMATIC else used,
    )


def _split(name: str) -> tuple[str, str | None]:
    """Split a joint name into the sampler and the label of the scheduler."""
    for key, label in _LABELS.items():
        for tail in (label, key):
            if name.endswith(f" {tail}"):
                return name.removesuffix(f" {tail}"), label
    return name, None
