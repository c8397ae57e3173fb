"""adetailer: what detectors find in an image is inpainted, in one or more passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import msgspec

from ..errors import InvalidStagePlanError
from .constraints import ClipSkip, Fraction, NonNegative, Pixels, Seed, Size, Steps
from .img2img import INHERITED
from .sizes import Dimensions
from .stage import StageConfig, StageContext, require

_FROM_BASE = ("prompt", "negative_prompt", "seed", *INHERITED, "steps")


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


class AdetailerConfig(StageConfig, frozen=True, kw_only=True):
    """``[adetailer]``: its passes, and in a plan the settings that they inpaint with."""

    stage_type = "adetailer"
    needs_base = True
    samples = True
    plan_only = _FROM_BASE

    passes: tuple[AdetailerPass, ...] = ()
    prompt: str | None = None
    negative_prompt: str | None = None
    seed: Seed | None = None
    model: str | None = None
    vae: str | None = None
    clip_skip: ClipSkip | None = None
    sampler: str | None = None
    scheduler: str | None = None
    steps: Steps | None = None
    cfg_scale: float | None = None

    def resolve(self, context: StageContext) -> Self:
        """Settings are inherited from the last generation stage.

        Passes without a size of their own work at the size that the model was made for, not
        at the upscaled one.
        """
        if not self.passes:
            raise InvalidStagePlanError(
                "adetailer.passes is missing: add an [[adetailer.passes]] with a model",
                key="adetailer.passes",
            )
        for place, one in enumerate(self.passes):
            require(one, f"adetailer.passes.{place}", "model")
        return msgspec.structs.replace(
            self,
            passes=tuple(_with_size(one, context.model_size) for one in self.passes),
            **{name: getattr(context.base, name) for name in _FROM_BASE},
        )

    def sampling_passes(self) -> tuple[int, ...]:
        return tuple(one.steps or self.steps or 0 for one in self.passes)

    def metadata(self) -> Mapping[str, Any]:
        return {"passes": [one.model for one in self.passes]}


def _with_size(one: AdetailerPass, size: Dimensions | None) -> AdetailerPass:
    if size is None:
        return one
    return msgspec.structs.replace(one, width=one.width or size[0], height=one.height or size[1])
