"""Requests of a stage: which images each one covers, and what it asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

import msgspec

from ..events.codec import json_values
from ..events.model import StageType
from .plan import StageExecution
from .ports import SourceImage
from .stage_configs import Img2ImgConfig, StageConfig, Txt2ImgConfig, UpscaleConfig

_NOT_DIGESTED = ("seed", "batch_size", "mask", "enabled")


class RequestSpan(msgspec.Struct, frozen=True):
    """``count`` consecutive images from ``image_index`` on, made by one request."""

    image_index: int
    count: int

    def indexes(self) -> range:
        """The images' indexes."""
        return range(self.image_index, self.image_index + self.count)


def request_spans(stage: StageExecution, total_images: int) -> Iterator[RequestSpan]:
    """The requests of a stage in order; the last of a batched stage may be smaller."""
    batch = stage.config.batch_size or 1 if isinstance(stage.config, Txt2ImgConfig) else 1
    for first in range(0, total_images, batch):
        yield RequestSpan(first, min(batch, total_images - first))


def stage_seed(config: StageConfig, top_seed: int) -> int:
    """The seed that a stage counts its images' seeds from."""
    own = None if isinstance(config, UpscaleConfig) else config.seed
    return top_seed if own is None else own


def call_id(run_id: str, stage_id: str, image_index: int, attempt: int) -> str:
    """The same for the same attempt, whoever makes it; different for any other."""
    return f"{run_id}.{stage_id}.{image_index:05d}.{attempt}"


def request_digest(
    stage_type: StageType,
    config: StageConfig,
    *,
    seed: int,
    count: int,
    inputs: tuple[SourceImage, ...],
    mask: SourceImage | None,
) -> str:
    """SHA-256 of the canonical JSON of what is asked for, whoever is asked, and when."""
    settings: dict[str, Any] = msgspec.to_builtins(config)
    asked = {
        "stage_type": str(stage_type),
        "settings": {key: settings[key] for key in settings if key not in _NOT_DIGESTED},
        "seed": seed,
        "count": count,
        "inputs": [image.source_sha256 for image in inputs],
        "mask": mask.source_sha256 if mask else None,
    }
    return sha256(msgspec.json.encode(asked, order="sorted")).hexdigest()


def stage_metadata(stage: StageExecution) -> Mapping[str, Any]:
    """What a StageStart says beyond the plan's bare order: refiner, hires, passes, inputs."""
    config = stage.config
    found: dict[str, Any] = {"input_source": stage.input_source}
    if isinstance(config, Txt2ImgConfig | Img2ImgConfig):
        found["model"] = config.model
        if config.refiner is not None:
            found["refiner"] = json_values(config.refiner)
        if isinstance(config, Txt2ImgConfig) and config.hires is not None:
            found["hires"] = json_values(config.hires)
    elif isinstance(config, UpscaleConfig):
        found["upscaler"] = config.upscaler
    else:
        found["passes"] = [one.model for one in config.passes]
    return found
