"""Builds the answer to a generating request: images, echoed parameters and ``info``."""

from __future__ import annotations

from typing import Any

import msgspec
import pybase64

from ...events.version import VERSION
from ..backends.embedded.infotext import PRODUCT, extra_parameters
from ..backends.embedded.pictures import encode_png
from .renderer import Picture
from .work import Work

_SKIPPED_PASS = {"width": 128, "height": 128, "steps": 1, "sampler_name": "Euler"}
"""What ``info`` says of an img2img that ADetailer skips: the values of the discarded pass."""

_ECHOED = (
    *("prompt", "negative_prompt", "width", "height", "steps", "cfg_scale", "batch_size"),
    *("subseed_strength", "seed_resize_from_w", "seed_resize_from_h", "denoising_strength"),
)
"""Fields of the request that ``info`` repeats."""


def generation_answer(work: Work, pictures: list[Picture], job_timestamp: str) -> dict[str, Any]:
    """The answer of txt2img and img2img."""
    asked = work.asked
    info = _info(work) | {
        "index_of_first_image": 0,
        "infotexts": [picture.infotext for picture in pictures],
        "job_timestamp": job_timestamp,
    }
    echo = dict(asked.all)
    if not echo.get("include_init_images"):
        echo |= {key: None for key in ("init_images", "mask") if key in echo}
    images = list(map(encode_image, pictures))
    return {
        "images": images if asked.all["send_images"] else [],
        "parameters": echo,
        "info": msgspec.json.encode(info).decode(),
    }


def encode_image(picture: Picture) -> str:
    """A picture as a PNG in base64."""
    return pybase64.b64encode(encode_png(picture.image, picture.infotext)).decode("ascii")


def _info(work: Work) -> dict[str, Any]:
    fields, loaded = work.asked.all, work.loaded
    places = range(work.images)
    subseed = work.seed if fields["subseed"] == -1 else fields["subseed"]
    used = {key: fields[key] for key in _ECHOED}
    used["sampler_name"] = work.sampling.shown_sampler
    if work.skips:
        used |= _SKIPPED_PASS
    return used | {
        "all_prompts": [fields["prompt"] for _ in places],
        "all_negative_prompts": [fields["negative_prompt"] for _ in places],
        "seed": work.seed,
        "all_seeds": [work.seed + place for place in places],
        "subseed": subseed,
        "all_subseeds": [subseed + place for place in places],
        "restore_faces": bool(fields["restore_faces"]),
        "face_restoration_model": "CodeFormer" if fields["restore_faces"] else None,
        "sd_model_name": loaded.checkpoint.stem,
        "sd_model_hash": loaded.checkpoint.hash,
        "sd_vae_name": None if loaded.vae in ("None", "Automatic") else loaded.vae,
        "sd_vae_hash": None,
        "extra_generation_params": _evidence(work),
        "styles": fields["styles"] or [],
        "clip_skip": loaded.clip_skip or 1,
        "is_using_inpainting_conditioning": False,
        "version": f"{PRODUCT} {VERSION}",
    }


def _evidence(work: Work) -> dict[str, Any]:
    """``extra_generation_params``, which shows that a refiner, hires or ADetailer was used."""
    switch_at = work.asked.all["refiner_switch_at"]
    found: dict[str, Any] = {}
    if work.sampling.shown_scheduler is not None:
        found["Schedule type"] = work.sampling.shown_scheduler
    if not work.skips:
        found |= extra_parameters(work.configs[0])
        for key in ("Denoising strength", "Refiner", "Refiner switch at"):
            found.pop(key, None)
        if work.hires_model is not None:
            found["Hires checkpoint"] = work.hires_model.short_title
        if work.refiner is not None and _takes_over(work, switch_at):
            found["Refiner"] = work.refiner.short_title
            found["Refiner switch at"] = switch_at
    return {**found, **work.claims}


def _takes_over(work: Work, switch_at: float | None) -> bool:
    """Whether the server switches to the refiner, which is not already loaded."""
    before = work.loaded.checkpoint
    if work.loaded.refined_passes is None:
        before = work.hires_model or before
    return work.refiner != before and (switch_at is None or switch_at < 1)
