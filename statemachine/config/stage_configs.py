"""The tables of the stages in a configuration, and what a stage carries in a plan.

A plan holds a ``...Config``: with what the stage inherits, and without what is switched off.
Where it has keys that a user cannot write in the table, the table is a type of its own
(``...Table``). None means neither set nor inherited, and is not sent. Sizes are in pixels,
visibilities and denoise run from 0 to 1.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
InnerFraction = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NonNegative = Annotated[float, msgspec.Meta(ge=0)]
# The upper bounds are far above what any server does. They keep a typing error from filling
# the memory, and every total within the range of numbers that JSON readers take.
Factor = Annotated[float, msgspec.Meta(gt=0, le=64)]
Size = Annotated[int, msgspec.Meta(ge=8, le=65_536, multiple_of=8)]
Steps = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
ClipSkip = Annotated[int, msgspec.Meta(ge=1, le=12)]
Pixels = Annotated[int, msgspec.Meta(ge=0)]
Seed = Annotated[int, msgspec.Meta(ge=-1, le=2**32 - 1)]


class Table(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """A table that a user may switch off; its presence switches it on."""

    enabled: bool = True


class RefinerConfig(Table, frozen=True, kw_only=True, rename={"acts_in": "pass"}):
    """A second model that takes over at ``switch_at`` of the sampling steps.

    ``acts_in``, which users write as ``pass``, says in which pass it acts where there is a
    hires pass; None, in a plan of an older release, leaves that to the server.
    """

    model: str | None = None
    switch_at: InnerFraction | None = None
    acts_in: Literal["first", "second", "both"] | None = None


class HiresConfig(Table, frozen=True, kw_only=True):
    """A second pass at a higher resolution: by ``scale``, or to a size."""

    upscaler: str | None = None
    scale: Factor | None = None
    resize_x: Size | None = None
    resize_y: Size | None = None
    steps: Steps | None = None
    cfg_scale: float | None = None
    denoise: Fraction | None = None
    sampler: str | None = None
    scheduler: str | None = None
    model: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None


class Txt2ImgTable(Table, frozen=True, kw_only=True):
    """``[txt2img]``."""

    model: str | None = None
    vae: str | None = None
    clip_skip: ClipSkip | None = None
    sampler: str | None = None
    scheduler: str | None = None
    steps: Steps | None = None
    cfg_scale: float | None = None
    width: Size | None = None
    height: Size | None = None
    batch_size: Count | None = None
    tiling: bool | None = None
    restore_faces: bool | None = None
    styles: tuple[str, ...] | None = None
    refiner: RefinerConfig | None = None
    hires: HiresConfig | None = None


class Txt2ImgConfig(Txt2ImgTable, frozen=True, kw_only=True):
    """A txt2img stage as the plan holds it."""

    prompt: str
    negative_prompt: str | None = None
    seed: Seed


class Img2ImgConfig(Table, frozen=True, kw_only=True):
    """``[img2img]``, and the stage in a plan; without a size it keeps its input's."""

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
    cfg_scale: float | None = None
    width: Size | None = None
    height: Size | None = None
    resize_mode: Annotated[int, msgspec.Meta(ge=0, le=3)] | None = None
    mask: str | None = None
    refiner: RefinerConfig | None = None


class UpscaleConfig(Table, frozen=True, kw_only=True):
    """``[upscale]``, and the stage in a plan."""

    upscaler: str | None = None
    factor: Factor | None = None
    width: Size | None = None
    height: Size | None = None
    crop: bool | None = None
    upscaler_2: str | None = None
    upscaler_2_visibility: Fraction | None = None
    gfpgan_visibility: Fraction | None = None
    codeformer_visibility: Fraction | None = None
    codeformer_weight: Fraction | None = None
    upscale_first: bool | None = None


class AdetailerPass(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """One pass of ``[[adetailer.passes]]``: a detector and how its finds are inpainted."""

    model: str | None = None
    classes: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    confidence: Fraction | None = None
    denoise: Fraction | None = None
    mask_filter: Literal["Area", "Confidence"] | None = None
    mask_k: Pixels | None = None
    mask_min_ratio: Fraction | None = None
    mask_max_ratio: Fraction | None = None
    dilate_erode: int | None = None
    x_offset: int | None = None
    y_offset: int | None = None
    merge: Literal["None", "Merge", "Merge and Invert"] | None = None
    mask_blur: Pixels | None = None
    only_masked: bool | None = None
    padding: Pixels | None = None
    width: Size | None = None
    height: Size | None = None
    steps: Steps | None = None
    cfg_scale: NonNegative | None = None
    sampler: str | None = None
    scheduler: str | None = None
    checkpoint: str | None = None
    vae: str | None = None
    noise_multiplier: Annotated[float, msgspec.Meta(ge=0.5, le=1.5)] | None = None
    clip_skip: ClipSkip | None = None
    restore_face: bool | None = None
    controlnet_model: str | None = None
    controlnet_module: str | None = None
    controlnet_weight: Fraction | None = None
    controlnet_guidance_start: Fraction | None = None
    controlnet_guidance_end: Fraction | None = None


class AdetailerTable(Table, frozen=True, kw_only=True):
    """``[adetailer]``."""

    passes: tuple[AdetailerPass, ...] = ()


class AdetailerConfig(AdetailerTable, frozen=True, kw_only=True):
    """An adetailer stage as the plan holds it: its passes, and what they inpaint with."""

    prompt: str
    negative_prompt: str | None = None
    seed: Seed
    model: str | None = None
    vae: str | None = None
    clip_skip: ClipSkip | None = None
    sampler: str | None = None
    scheduler: str | None = None
    steps: Steps | None = None
    cfg_scale: float | None = None


StageConfig = Txt2ImgConfig | Img2ImgConfig | UpscaleConfig | AdetailerConfig
"""What a stage of a plan is configured with."""
