"""Builds the request of an upscale, and others than those that a server still has in its cache."""

from __future__ import annotations

import msgspec
import pybase64

from ....statemachine.ports import GenerateRequest, SourceImage
from ....statemachine.stages import UpscaleConfig
from ....statemachine.stages.sizes import floor_to_grid
from .features import EXTRA_SINGLE_IMAGE, ServerFeatures
from .payload import Body, Payload, encoded_image, set_fields

_VARIATIONS = (0.0005, 0.0001, 0.00002, 0.000004, 0.0000008)
"""Added to the factor after an interrupt: below 0.001, and enough for another cache key."""
_MOST_CACHED = 10
"""The most upscaled images that a WebUI can be set to keep."""
_TINY_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000008000000080800000000e164e1570000000e494441"
    "5478da6368800206ca18008084200110e86a170000000049454e44ae426082"
)
"""8x8 grey pixels."""


def upscale_body(request: GenerateRequest, config: UpscaleConfig, _: ServerFeatures) -> Body:
    image = request.inputs[0]
    return (
        {"image": encoded_image(image), "upscaler_1": config.upscaler}
        | _upscale_size(config, image, None)
        | set_fields(
            upscaler_2=config.upscaler_2,
            extras_upscaler_2_visibility=config.upscaler_2_visibility,
            gfpgan_visibility=config.gfpgan_visibility,
            codeformer_visibility=config.codeformer_visibility,
            codeformer_weight=config.codeformer_weight,
            upscale_first=config.upscale_first,
        )
    )


def vary_upscale(request: GenerateRequest, config: UpscaleConfig) -> Body:
    return _upscale_size(config, request.inputs[0], request.attempt)


def _upscale_size(config: UpscaleConfig, image: SourceImage, varied: int | None) -> Body:
    """By a factor (mode 0) or to a size (mode 1); ``varied`` is the attempt, if it must be."""
    if not (config.width and config.height):
        factor = config.factor or 1.0
        return {
            "resize_mode": 0,
            "upscaling_resize": factor if varied is None else _varied(factor, image, varied),
        }
    return {
        "resize_mode": 1,
        "upscaling_resize_w": config.width,
        "upscaling_resize_h": config.height,
    } | set_fields(upscaling_crop=config.crop)


def _varied(factor: float, image: SourceImage, attempt: int) -> float:
    """A slightly larger factor, different in each attempt, that gives the same size."""
    size = floor_to_grid((image.width * factor, image.height * factor))
    for more in _VARIATIONS:
        varied = factor + more / (1 + attempt % _MOST_CACHED)
        if floor_to_grid((image.width * varied, image.height * varied)) == size:
            return varied
    return factor


def cache_fillers(request: GenerateRequest) -> list[Payload]:
    """Tiny upscales that push an interrupted one to a stated size out of the server's cache.

    Empty where ``varied`` is enough: a factor can be varied, a size cannot.
    """
    config = request.config
    if not (isinstance(config, UpscaleConfig) and config.width and config.height):
        return []
    image = msgspec.Raw(b'"' + pybase64.b64encode(_TINY_PNG) + b'"')
    body: Body = {"image": image, "upscaler_1": "Lanczos", "resize_mode": 0}
    return [
        Payload(EXTRA_SINGLE_IMAGE, body | {"upscaling_resize": 1.0 + place / 8})
        for place in range(1, _MOST_CACHED + 1)
    ]
