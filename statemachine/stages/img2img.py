"""img2img: images made anew from images, inside a mask if there is one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

import msgspec

from ..errors import FieldError
from .constraints import (
    ClipSkip,
    Count,
    Fraction,
    NonNegative,
    Pixels,
    Seed,
    Size,
    Steps,
)
from .sampling import EXCLUSIVE, INHERITED, batch_size_of, sampling_errors, sampling_warnings
from .sizes import Dimensions, NextSize, floored
from .stage import StageConfig
from .txt2img import RefinerConfig

_MASK_DEFAULTS: Mapping[str, Any] = {
    "mask_content": "original",
    "mask_area": "whole",
    "mask_padding": 32,
    "mask_blur": 4,
    "mask_invert": False,
}
"""As on the WebUI's page; its API has others."""


class Img2ImgConfig(StageConfig, frozen=True, kw_only=True):
    """``[img2img]``; without a size it keeps its input's. It inherits what it does not set.

    Several images may be in one request (``batch_size``) where they are made from one input file.
    """

    stage_type = "img2img"
    recorded = ("model", "refiner")
    generates = True
    required = ("prompt", "denoise", "steps", "model", "sampler", "cfg_scale")
    exclusive = EXCLUSIVE
    inherited = (*INHERITED, "styles")

    prompt: str | None = None
    negative_prompt: str | None = None
    styles: tuple[str, ...] | None = None
    seed: Seed | None = None
    subseed: Seed | None = None
    subseed_strength: Fraction | None = None
    denoise: Fraction | None = None
    steps: Steps | None = None
    model: str | None = None
    vae: str | None = None
    modules: tuple[str, ...] | None = None
    clip_skip: ClipSkip | None = None
    sampler: str | None = None
    scheduler: str | None = None
    cfg_scale: NonNegative | None = None
    distilled_cfg_scale: NonNegative | None = None
    shift: NonNegative | None = None
    eta: NonNegative | None = None
    s_noise: NonNegative | None = None
    width: Size | None = None
    height: Size | None = None
    batch_size: Count | None = None
    resize_mode: Annotated[int, msgspec.Meta(ge=0, le=3)] | None = None
    mask: str | None = None
    mask_content: Literal["original", "fill", "noise", "nothing"] | None = None
    mask_area: Literal["whole", "masked"] | None = None
    mask_padding: Pixels | None = None
    mask_blur: Pixels | None = None
    mask_invert: bool | None = None
    refiner: RefinerConfig | None = None
    override_settings: Mapping[str, Any] | None = None
    alwayson_scripts: Mapping[str, Any] | None = None

    def resolve(self, inherited: Mapping[str, Any], model_size: Dimensions | None) -> Self:
        """With a mask, what it does not say of it is as on the WebUI's page."""
        config = super().resolve(inherited, model_size)
        batch_size = batch_size_of(config.batch_size, config.subseed_strength)
        open_settings = self._open_mask_settings()
        return msgspec.structs.replace(config, batch_size=batch_size, **open_settings)

    def find_errors(self) -> Iterator[FieldError]:
        yield from super().find_errors()
        yield from sampling_errors(self)

    def warnings(self, given: Self) -> Iterator[str]:
        yield from sampling_warnings(self, given)
        used = [f"{name} = {value}" for name, value in given._open_mask_settings().items()]
        if used:
            yield f"img2img: {', '.join(used)}, because the configuration sets none of them"

    def sampling_passes(self) -> tuple[int, ...]:
        return (self.steps or 0,)

    def size_after(self, size: Dimensions | None) -> NextSize:
        if self.width and self.height:
            return NextSize((self.width, self.height))
        if size is None:
            return NextSize(None)
        return floored("input", (self.width or size[0], self.height or size[1]))

    def _open_mask_settings(self) -> dict[str, Any]:
        """The settings of a mask that the table leaves open, and what they become."""
        if self.mask is None:
            return {}
        return {
            name: value for name, value in _MASK_DEFAULTS.items() if getattr(self, name) is None
        }
