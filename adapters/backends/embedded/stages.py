"""The stages that the backend serves; one entry for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ....statemachine.stages import StageConfig
from .generation import (
    Made,
    Sources,
    make_adetailer,
    make_img2img,
    make_txt2img,
    make_upscale,
)
from .parameters import (
    Fields,
    adetailer_parameters,
    img2img_parameters,
    txt2img_parameters,
    upscale_parameters,
)
from .pictures import PictureError
from .steps import StepCounter


class EmbeddedStage(NamedTuple):
    """How a stage is served: the picture of one seed, and what its infotext adds to sampling."""

    make: Callable[[Any, int, Sources, StepCounter], Made]
    parameters: Callable[[Any], Fields]


STAGES: Mapping[str, EmbeddedStage] = {
    "txt2img": EmbeddedStage(make_txt2img, txt2img_parameters),
    "img2img": EmbeddedStage(make_img2img, img2img_parameters),
    "upscale": EmbeddedStage(make_upscale, upscale_parameters),
    "adetailer": EmbeddedStage(make_adetailer, adetailer_parameters),
}


def embedded_stage(config: StageConfig) -> EmbeddedStage:
    """How the stage of this configuration is served. Raises PictureError if it is not."""
    stage = STAGES.get(config.stage_type)
    if stage is None:
        raise PictureError(f"the embedded backend does not serve the stage {config.stage_type!r}")
    return stage
