"""Builds the answer to a generating request: images, echoed parameters and ``info``."""

from __future__ import annotations

import io
import math
from typing import Any, NamedTuple

import msgspec
import pybase64
from PIL import Image

from ...events.version import VERSION
from ...statemachine.config.stage_configs import (
    AdetailerConfig,
    Img2ImgConfig,
    RefinerConfig,
    Txt2ImgConfig,
)
from ..backends.embedded.infotext import PRODUCT, extra_parameters
from ..backends.embedded.pictures import encode_png
from .bodies import CommonBody, Img2ImgBody
from .body_schema import encode_json
from .detailer import Detailing
from .renderer import Picture
from .request_mapping import ResolvedRequest

_SKIPPED_SIDE = 128
_GRID_AT_LEAST = 2


class Work(NamedTuple):
    """The work for each image of one request.

    ``config`` is None where ADetailer leaves the outer img2img out; ``detail`` is what
    ADetailer does after it.
    """

    resolved: ResolvedRequest
    config: Txt2ImgConfig | Img2ImgConfig | None
    detail: AdetailerConfig | None
    detailing: Detailing | None
    source: bytes | None = None
    mask: bytes | None = None


def generation_answer(
    body: CommonBody, work: Work, pictures: list[Picture], job_timestamp: str
) -> dict[str, Any]:
    """The answer of txt2img and img2img."""
    images = [picture.data for picture in pictures]
    texts = [picture.infotext for picture in pictures]
    first = 0
    if body.save_images and len(images) >= _GRID_AT_LEAST:
        images.insert(0, _grid(images, texts[0]))
        texts.insert(0, texts[0])
        first = 1
    info = _info(body, work) | {
        "index_of_first_image": first,
        "infotexts": texts,
        "job_timestamp": job_timestamp,
    }
    return {
        "images": [in_base64(image) for image in images] if body.send_images else [],
        "parameters": _echo(body),
        "info": encode_json(info).decode(),
    }


def in_base64(data: bytes) -> str:
    """The bytes of a picture in base64, as in an answer."""
    return pybase64.b64encode(data).decode("ascii")


def _echo(body: CommonBody) -> dict[str, Any]:
    echo = msgspec.structs.asdict(body)
    if isinstance(body, Img2ImgBody) and not body.include_init_images:
        echo |= {"init_images": None, "mask": None}
    return echo


def _info(body: CommonBody, work: Work) -> dict[str, Any]:
    resolved, loaded = work.resolved, work.resolved.loaded
    vae = loaded.vae if loaded.vae not in (None, "None", "Automatic") else None
    places = range(resolved.images)
    prompt, negative_prompt = body.prompt or "", body.negative_prompt or ""
    subseed = resolved.seed if body.subseed in (None, -1) else body.subseed
    return _size_and_sampling(body, work) | {
        "prompt": prompt,
        "all_prompts": [prompt for _ in places],
        "negative_prompt": negative_prompt,
        "all_negative_prompts": [negative_prompt for _ in places],
        "seed": resolved.seed,
        "all_seeds": [resolved.seed + place for place in places],
        "subseed": subseed,
        "all_subseeds": [(subseed or 0) + place for place in places],
        "subseed_strength": body.subseed_strength,
        "cfg_scale": 7.0 if body.cfg_scale is None else body.cfg_scale,
        "batch_size": resolved.batch_size,
        "restore_faces": bool(body.restore_faces),
        "face_restoration_model": "CodeFormer" if body.restore_faces else None,
        "sd_model_name": loaded.checkpoint.stem,
        "sd_model_hash": loaded.checkpoint.hash,
        "sd_vae_name": vae,
        "sd_vae_hash": None,
        "seed_resize_from_w": body.seed_resize_from_w,
        "seed_resize_from_h": body.seed_resize_from_h,
        "denoising_strength": getattr(body, "denoising_strength", None),
        "extra_generation_params": _evidence(work),
        "styles": body.styles or [],
        "clip_skip": loaded.clip_skip or 1,
        "is_using_inpainting_conditioning": False,
        "version": f"{PRODUCT} {VERSION}",
    }


def _size_and_sampling(body: CommonBody, work: Work) -> dict[str, Any]:
    """If ADetailer skips img2img, these are the values of the discarded pass."""
    if work.config is None:
        side = _SKIPPED_SIDE
        return {"width": side, "height": side, "steps": 1, "sampler_name": "Euler"}
    return {
        "width": 512 if body.width is None else body.width,
        "height": 512 if body.height is None else body.height,
        "steps": 50 if body.steps is None else body.steps,
        "sampler_name": work.resolved.sampling.shown_sampler,
    }


def _evidence(work: Work) -> dict[str, Any]:
    """``extra_generation_params``, which shows that a refiner, hires or ADetailer was used."""
    resolved, config = work.resolved, work.config
    found: dict[str, Any] = {}
    if resolved.sampling.shown_scheduler is not None:
        found["Schedule type"] = resolved.sampling.shown_scheduler
    if config is not None:
        found |= extra_parameters(config)
        for key in ("Denoising strength", "Refiner", "Refiner switch at"):
            found.pop(key, None)
        if resolved.hires_model is not None:
            found["Hires checkpoint"] = resolved.hires_model.short_title
        refiner = config.refiner
        if resolved.refiner is not None and refiner is not None and _takes_over(resolved, refiner):
            found["Refiner"] = resolved.refiner.short_title
            found["Refiner switch at"] = refiner.switch_at
    if work.detailing is not None:
        found |= work.detailing.claims
    return found


def _takes_over(resolved: ResolvedRequest, refiner: RefinerConfig) -> bool:
    """Whether the server switches to the refiner, which is not already loaded."""
    before = resolved.loaded.checkpoint
    if refiner.acts_in is None:
        before = resolved.hires_model or before
    return resolved.refiner != before and (refiner.switch_at is None or refiner.switch_at < 1)


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
