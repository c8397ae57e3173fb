"""The names that the server offers: models, VAEs, samplers, upscalers, detectors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

from ..backends.embedded.infotext import model_stem

CHECKPOINTS = ("sd_xl_base_1.0.safetensors", "sd_xl_refiner_1.0.safetensors")
"""The models of the examples; the first is loaded when the server starts."""

VAES = ("sdxl_vae.safetensors", "vae-ft-mse-840000-ema-pruned.safetensors")
UPSCALERS = (
    *("None", "Lanczos", "Nearest", "DAT x2", "DAT x3", "DAT x4", "ESRGAN_4x", "LDSR"),
    *("R-ESRGAN 4x+", "R-ESRGAN 4x+ Anime6B", "ScuNET GAN", "ScuNET PSNR", "SwinIR_4x"),
)
MISSING_UPSCALERS = frozenset({"LDSR"})
"""Upscalers without a downloaded file; the server silently uses Lanczos instead."""

LATENT_MODES = (
    *("Latent", "Latent (antialiased)", "Latent (bicubic)", "Latent (bicubic antialiased)"),
    *("Latent (nearest)", "Latent (nearest-exact)"),
)
DETECTORS = (
    *("face_yolov8n.pt", "face_yolov8s.pt", "hand_yolov8n.pt", "person_yolov8n-seg.pt"),
    *("person_yolov8s-seg.pt", "yolov8x-worldv2.pt", "mediapipe_face_full"),
    *("mediapipe_face_short", "mediapipe_face_mesh", "mediapipe_face_mesh_eyes_only"),
)
SCRIPTS = ("adetailer", "comments", "extra options", "hypertile", "refiner", "sampler", "seed")
"""Always-on scripts, in lower case as a WebUI lists them."""

_SUFFIX = re.compile(r"\.(safetensors|ckpt)$")
_HASH = re.compile(r" \[[^\[\]]*\]$")


class Checkpoint(NamedTuple):
    """A model with its file name and the digest of its (imaginary) file."""

    name: str
    sha256: str

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return model_stem(self.name) or self.name

    @property
    def hash(self) -> str:
        """The short hash: the first ten digits of the digest."""
        return self.sha256[:10]

    @property
    def title(self) -> str:
        """The name with hash, as in lists."""
        return f"{self.name} [{self.hash}]"

    @property
    def short_title(self) -> str:
        """The stem with hash, as in ``extra_generation_params``."""
        return f"{self.stem} [{self.hash}]"

    def matches_name(self, name: str) -> bool:
        """Whether ``name`` is one of the names of this model."""
        known = (self.name, self.stem, self.title, self.short_title, self.hash, self.sha256)
        return name in known


class Checkpoints:
    """The models of one server: those of the examples, and ``more``."""

    def __init__(self, more: Iterable[str] = ()) -> None:
        named = (name if _SUFFIX.search(name) else f"{name}.safetensors" for name in more)
        self.every = tuple(
            Checkpoint(name, sha256(name.encode()).hexdigest())
            for name in dict.fromkeys((*CHECKPOINTS, *named))
        )

    def find(self, name: str) -> Checkpoint | None:
        """The model of this file name, stem, title or hash."""
        return next((one for one in self.every if one.matches_name(name)), None)

    def closest(self, name: str) -> Checkpoint | None:
        """Like ``find``, else the model with the shortest title that contains ``name``."""
        found = self.find(name)
        part = _HASH.sub("", name)
        alike = [one for one in self.every if part in one.title]
        return found or min(alike, key=lambda one: len(one.title), default=None)
