"""img2img: images made anew from images, inside a mask if there is one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

import msgspec

from ..errors import show_value
from .constraints import Fraction, Pixels, Size
from .sampling import INHERITED, GeneratingConfig
from .sizes import Dimensions, NextSize, floored

_MASK_DEFAULTS: Mapping[str, Any] = {
    "mask_content": "original",
    "mask_area": "whole",
    "mask_padding": 32,
    "mask_blur": 4,
    "mask_invert": False,
}
"""As on the WebUI's page; its API has others."""


class Img2ImgConfig(GeneratingConfig, frozen=True, kw_only=True):
    """``[img2img]``; without a size it keeps its input's. It inherits what it does not set.

    Several images may be in one request (``batch_size``) where they are made from one input file.
    """

    stage_type = "img2img"
    recorded = ("model", "refiner")
    required = ("prompt", "denoise", "steps", "model", "sampler", "cfg_scale")
    inherited = (*INHERITED, "styles")

    denoise: Fraction | None = None
    width: Size | None = None
    height: Size | None = None
    resize_mode: Annotated[int, msgspec.Meta(ge=0, le=3)] | None = None
    mask: str | None = None
    mask_content: Literal["original", "fill", "noise", "nothing"] | None = None
    mask_area: Literal["whole", "masked"] | None = None
    mask_padding: Pixels | None = None
    mask_blur: Pixels | None = None
    mask_invert: bool | None = None

    def resolve(self, inherited: Mapping[str, Any], model_size: Dimensions | None) -> Self:
        """With a mask, what it does not say of it is as on the WebUI's page."""
        config = super().resolve(inherited, model_size)
        return msgspec.structs.replace(config, **self._open_mask_settings())

    def warnings(self, given: Self) -> Iterator[str]:
        yield from super().warnings(given)
        used = [
            f"{name} = {show_value(value)}" for name, value in given._open_mask_settings().items()
        ]
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
