"""Builds the answer to a generating request: images, echoed parameters and ``info``."""

from __future__ import annotations

import io
import math
from typing import Any

from PIL import Image

from ...events.version import VERSION
from ..backends.embedded.infotext import PRODUCT, extra_parameters
from ..backends.embedded.pictures import encode_png
from .bodies import encode_image, encode_json
from .renderer import Picture
from .work import Work

_SKIPPED_PASS = {"width": 128, "height": 128, "steps": 1, "sampler_name": "Euler"}
"""What ``info`` says of an img2img that ADetailer skips: the values of the discarded pass."""

_ECHOED = (
    *("prompt", "negative_prompt", "width", "height", "steps", "cfg_scale", "batch_size"),
    *("subseed_strength", "seed_resize_from_w", "seed_resize_from_h", "denoising_strength"),
)
"""Fields of the request that ``info`` repeats."""

_GRID_AT_LEAST = 2


def generation_answer(work: Work, pictures: list[Picture], job_timestamp: str) -> dict[str, Any]:
    """The answer of txt2img and img2img."""
    asked = work.asked
    images = [picture.data for picture in pictures]
    texts = [picture.infotext for picture in pictures]
    has_grid = asked.all["save_images"] and len(images) >= _GRID_AT_LEAST
    if has_grid:
        images.insert(0, _grid(images, texts[0]))
        texts.insert(0, texts[0])
    info = _info(work) | {
        "index_of_first_image": int(has_grid),
        "infotexts": texts,
        "job_timestamp": job_timestamp,
    }
    echo = dict(asked.all)
    if not echo.get("include_init_images"):
        echo |= {key: None for key in ("init_images", "mask") if key in echo}
    return {
        "images": [encode_image(image) for image in images] if asked.all["send_images"] else [],
        "parameters": echo,
        "info": encode_json(info).decode(),
    }


def _info(work: Work) -> dict[str, Any]:
    fields, loaded = work.asked.all, work.loaded
    places = range(work.images)
    subseed = work.seed if fields["subseed"] == -1 else fields["subseed"]
    used = {key: fields[key] for key in _ECHOED}
    used["sampler_name"] = work.sampling.shown_sampler
    if work.config is None:
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
    if work.config is not None:
        found |= extra_parameters(work.config)
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
    before = work.hires_model or work.loaded.checkpoint
    return work.refiner != before and (switch_at is None or switch_at < 1)


def _grid(images: list[bytes], text: str) -> bytes:
    """A grid of all images, as square as possible."""
    opened = [Image.open(io.BytesIO(image)) for image in images]
    rows = math.isqrt(len(opened))
    while len(opened) % rows:
        rows -= 1
    columns = len(opened) // rows
    width, height = opened[0].size
    grid = Image.new("RGB", (width * columns, height * rows))
    for place, image in enumerate(opened):
        grid.paste(image, (place % columns * width, place // columns * height))
    return encode_png(grid, text)
