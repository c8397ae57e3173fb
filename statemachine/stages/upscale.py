"""upscale: larger images, by a factor or to a size, without a prompt."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import FieldError
from .constraints import Factor, Fraction, Size
from .sizes import Dimensions, NextSize, floored
from .stage import StageConfig, missing_values, size_errors


class UpscaleConfig(StageConfig, frozen=True, kw_only=True):
    """``[upscale]``."""

    stage_type = "upscale"
    required = ("upscaler",)
    recorded = ("upscaler",)
    unchanged_because = "no face was found, or the face restorer could not be loaded"

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

    def find_errors(self) -> Iterator[FieldError]:
        yield from super().find_errors()
        yield from size_errors(self, "upscale", "factor", "width", "height")
        if self.width is not None or self.height is not None:
            yield from missing_values(self, "upscale", "width", "height")

    def size_after(self, size: Dimensions | None) -> NextSize:
        """By a factor, or a stated size; without ``crop`` the image covers that size."""
        stated = (self.width, self.height) if self.width and self.height else None
        if stated and self.crop is not False:
            return NextSize(stated)
        if size is None:
            return NextSize(None)
        if stated:
            ratio = max(stated[0] / size[0], stated[1] / size[1])
            return floored("upscale.crop", (size[0] * ratio, size[1] * ratio))
        factor = 1.0 if self.factor is None else self.factor
        return floored("upscale.factor", (size[0] * factor, size[1] * factor))
