"""img2img: images made anew from images, inside a mask if there is one."""

from __future__ import annotations

from typing import Annotated

import msgspec

from .constraints import ClipSkip, Fraction, NonNegative, Seed, Size, Steps
from .sizes import Dimensions, NextSize, floored
from .stage import StageConfig
from .txt2img import RefinerConfig

INHERITED = (
    *("prompt", "negative_prompt", "seed"),
    *("model", "vae", "clip_skip", "sampler", "scheduler", "cfg_scale"),
)
"""The settings that a stage takes from the generation stage before it."""


class Img2ImgConfig(StageConfig, frozen=True, kw_only=True):
    """``[img2img]``; without a size it keeps its input's. It inherits what it does not set."""

    stage_type = "img2img"
    recorded = ("model", "refiner")
    generates = True
    required = ("prompt", "denoise", "steps", "model", "sampler", "cfg_scale")
    inherited = INHERITED

    prompt: str | None = None
    negative_prompt: str | None = None
    seed: Seed | None = None
    denoise: Fraction | None = None
    steps: Steps | None = None
    model: str | None = None
    vae: str | None = None
    clip_skip: ClipSkip | None = None
    sampler: str | None = None
    scheduler: str | None = None
    cfg_scale: NonNegative | None = None
    width: Size | None = None
    height: Size | None = None
    resize_mode: Annotated[int, msgspec.Meta(ge=0, le=3)] | None = None
    mask: str | None = None
    refiner: RefinerConfig | None = None

    def sampling_passes(self) -> tuple[int, ...]:
        return (self.steps or 0,)

    def size_after(self, size: Dimensions | None) -> NextSize:
        if self.width and self.height:
            return NextSize((self.width, self.height))
        if size is None:
            return NextSize(None)
        return floored("input", (self.width or size[0], self.height or size[1]))
