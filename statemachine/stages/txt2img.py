"""txt2img: images from a prompt, with a refiner and a second pass at a higher resolution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import msgspec

from ..errors import FieldError
from .constraints import Factor, Fraction, NonNegative, Size, Steps
from .sampling import GeneratingConfig
from .sizes import Dimensions, NextSize, floored
from .stage import Table, size_errors


class HiresConfig(Table, frozen=True, kw_only=True):
    """A second pass at a higher resolution: by ``scale``, or to a size."""

    required = ("denoise",)
    exclusive = (("shift", "distilled_cfg_scale"),)

    upscaler: str | None = None
    scale: Factor | None = None
    resize_x: Size | None = None
    resize_y: Size | None = None
    steps: Steps | None = None
    cfg_scale: NonNegative | None = None
    distilled_cfg_scale: NonNegative | None = None
    shift: NonNegative | None = None
    denoise: Fraction | None = None
    sampler: str | None = None
    scheduler: str | None = None
    model: str | None = None
    modules: tuple[str, ...] | None = None
    prompt: str | None = None
    negative_prompt: str | None = None

    def size_after(self, size: Dimensions | None) -> NextSize:
        """The size after the pass: by a factor, or a stated one of which a side may be open."""
        if size is None or not self.enabled:
            return NextSize(size)
        width, height = size
        if self.scale is not None:
            return floored("txt2img.hires.scale", (width * self.scale, height * self.scale))
        if self.resize_x and self.resize_y:
            return NextSize((self.resize_x, self.resize_y))
        if self.resize_x:
            open_side = height * self.resize_x / width
            return floored("txt2img.hires.resize_x", (self.resize_x, open_side))
        if self.resize_y:
            open_side = width * self.resize_y / height
            return floored("txt2img.hires.resize_y", (open_side, self.resize_y))
        return NextSize(size)


class Txt2ImgConfig(GeneratingConfig, frozen=True, kw_only=True):
    """``[txt2img]``."""

    stage_type = "txt2img"
    recorded = ("model", "refiner", "hires")
    takes_prompt = True
    required = ("prompt", "model", "sampler", "steps", "cfg_scale", "width", "height")
    plan_only = ("prompt", "negative_prompt", "seed")
    pass_names = ("first pass", "hires pass")

    width: Size | None = None
    height: Size | None = None
    tiling: bool | None = None
    restore_faces: bool | None = None
    hires: HiresConfig | None = None

    def resolve(self, inherited: Mapping[str, Any], model_size: Dimensions | None) -> Self:
        """A second pass that names no model uses the refiner's.

        Beside it, the refiner acts in the first pass unless the table says otherwise.
        """
        config = super().resolve(inherited, model_size)
        hires, refiner = config.hires, config.refiner
        if hires is None:
            return config
        if refiner is not None:
            if hires.model is None:
                hires = msgspec.structs.replace(hires, model=refiner.model)
            acts_in = refiner.acts_in or "first"
            refiner = msgspec.structs.replace(refiner, acts_in=acts_in)
        return msgspec.structs.replace(config, hires=hires, refiner=refiner)

    def find_errors(self) -> Iterator[FieldError]:
        yield from super().find_errors()
        if self.hires is not None:
            yield from size_errors(self.hires, "txt2img.hires", "scale", "resize_x", "resize_y")

    def sampling_passes(self) -> tuple[int, ...]:
        own, hires = self.steps or 0, self.hires
        return (own, hires.steps or own) if hires and hires.enabled else (own,)

    def checkpoints(self) -> Iterator[str | None]:
        """Those of the first pass, then those of the second; the refiner acts where it says."""
        if self.hires is None:
            yield from super().checkpoints()
            return
        refiner, acts_in = (
            (self.refiner.model, self.refiner.acts_in) if self.refiner else (None, None)
        )
        yield self.model
        if acts_in in ("first", "both"):
            yield refiner
        yield self.hires.model or self.model
        if acts_in in ("second", "both"):
            yield refiner

    def size_after(self, size: Dimensions | None) -> NextSize:
        stated = self.model_size(size)
        return NextSize(stated) if self.hires is None else self.hires.size_after(stated)

    def model_size(self, size: Dimensions | None) -> Dimensions | None:
        del size
        return (self.width, self.height) if self.width and self.height else None
