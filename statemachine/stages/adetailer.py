"""adetailer: what detectors find in an image is inpainted, in one or more passes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import msgspec

from ..errors import FieldError, field_error
from .constraints import ClipSkip, Fraction, NonNegative, Pixels, Size, Steps
from .sampling import EXCLUSIVE, INHERITED, SampledConfig
from .sizes import Dimensions


class AdetailerPass(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """One pass of ``[[adetailer.passes]]``: a detector and how its finds are inpainted."""

    required: ClassVar[tuple[str, ...]] = ("model",)
    exclusive: ClassVar[tuple[tuple[str, str], ...]] = EXCLUSIVE

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
    distilled_cfg_scale: NonNegative | None = None
    shift: NonNegative | None = None
    sampler: str | None = None
    scheduler: str | None = None
    checkpoint: str | None = None
    vae: str | None = None
    modules: tuple[str, ...] | None = None
    noise_multiplier: Annotated[float, msgspec.Meta(ge=0.5, le=1.5)] | None = None
    clip_skip: ClipSkip | None = None
    restore_face: bool | None = None
    controlnet_model: str | None = None
    controlnet_module: str | None = None
    controlnet_weight: Fraction | None = None
    controlnet_guidance_start: Fraction | None = None
    controlnet_guidance_end: Fraction | None = None


class AdetailerConfig(SampledConfig, frozen=True, kw_only=True):
    """``[adetailer]``: its passes, and in a plan the settings that they inpaint with."""

    stage_type = "adetailer"
    needs_base = True
    unchanged_because = "nothing was detected"
    required = ("passes",)
    plan_only = (*INHERITED, "steps")

    passes: tuple[AdetailerPass, ...] = ()

    def resolve(self, inherited: Mapping[str, Any], model_size: Dimensions | None) -> Self:
        """Passes without a size of their own work at the size that the model was made for."""
        config = super().resolve(inherited, model_size)
        if model_size is None:
            return config
        width, height = model_size
        passes = (
            msgspec.structs.replace(one, width=one.width or width, height=one.height or height)
            for one in self.passes
        )
        return msgspec.structs.replace(config, passes=tuple(passes))

    def find_errors(self) -> Iterator[FieldError]:
        yield from super().find_errors()
        if any(script.casefold() == self.stage_type for script in self.alwayson_scripts or ()):
            reason = "has ADetailer: set adetailer.passes instead"
            yield field_error("adetailer.alwayson_scripts", reason)

    def sampling_passes(self) -> tuple[int, ...]:
        return tuple(one.steps or self.steps or 0 for one in self.passes)

    def checkpoints(self) -> Iterator[str | None]:
        """The server loads the stage's own for each image, also where every pass has another."""
        yield self.model
        yield from (one.checkpoint or self.model for one in self.passes)

    def metadata(self) -> Mapping[str, Any]:
        return {"passes": [one.model for one in self.passes]}
