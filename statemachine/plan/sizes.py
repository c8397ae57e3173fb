"""The sizes that images have from stage to stage of a plan, in pixels."""

from __future__ import annotations

import os
from typing import NamedTuple

from ..config.stage_configs import (
    HiresConfig,
    Img2ImgConfig,
    StageConfig,
    Txt2ImgConfig,
    UpscaleConfig,
)
from ..errors import ConfigurationError

GRID = 8
"""Servers floor every size to a multiple of this."""

MAX_PIXELS = 178_956_970
"""The usual limit for any image, in or out: larger than any upscale that a server answers."""

MAX_PIXELS_VARIABLE = "STAGEWRIGHT_MAX_PIXELS"
"""The environment variable that sets another limit."""
_MOST_DIGITS = 16

_ROUNDING = 1e-6
"""A product such as 24 * 1.3333333333 may differ by this from the whole number that is meant."""

Dimensions = tuple[int, int]


def max_pixels() -> int:
    """The limit for the pixels of any image. Raises ConfigurationError for a wrong variable."""
    given = os.environ.get(MAX_PIXELS_VARIABLE, "")
    if not given:
        return MAX_PIXELS
    digits = given.isascii() and given.isdigit() and len(given) < _MOST_DIGITS
    if not (digits and int(given)):
        raise ConfigurationError(
            f"{MAX_PIXELS_VARIABLE} = {given} must be a whole number of pixels, at least 1"
        )
    return int(given)


def size_refusal(size: tuple[float, float]) -> str:
    """Why an image of this size is refused; "" for one within the limit of pixels."""
    limit = max_pixels()
    if size[0] * size[1] <= limit:
        return ""
    return f"more than {limit} pixels; {MAX_PIXELS_VARIABLE} sets this limit"


class NextSize(NamedTuple):
    """An image's size after a stage, None if unknown; ``warning`` if it was floored, else ""."""

    size: Dimensions | None
    warning: str = ""


def size_after_stage(config: StageConfig, size: Dimensions | None) -> NextSize:
    """The size after a stage of an image that had ``size`` before, None if that is unknown.

    Sizes that follow from others are floored to multiples of 8, with a warning.
    """
    match config:
        case Txt2ImgConfig(width=width, height=height, hires=hires):
            stated = (width, height) if width and height else None
            return NextSize(stated) if hires is None else size_after_hires(hires, stated)
        case Img2ImgConfig(width=width, height=height):
            if width and height:
                return NextSize((width, height))
            return _floored("input", (width or size[0], height or size[1])) if size else _UNKNOWN
        case UpscaleConfig():
            return _size_after_upscale(config, size)
    return NextSize(size)


def size_after_hires(hires: HiresConfig, size: Dimensions | None) -> NextSize:
    """The size after the second pass: by a factor, or a stated one of which a side may be open."""
    if size is None or not hires.enabled:
        return NextSize(size)
    width, height = size
    if hires.scale is not None:
        return _floored("txt2img.hires.scale", (width * hires.scale, height * hires.scale))
    if hires.resize_x and hires.resize_y:
        return NextSize((hires.resize_x, hires.resize_y))
    if hires.resize_x:
        return _floored("txt2img.hires.resize_x", (hires.resize_x, height * hires.resize_x / width))
    if hires.resize_y:
        return _floored("txt2img.hires.resize_y", (width * hires.resize_y / height, hires.resize_y))
    return NextSize(size)


def _size_after_upscale(upscale: UpscaleConfig, size: Dimensions | None) -> NextSize:
    """By a factor, or a stated size; without ``crop`` the image covers that size."""
    stated = (upscale.width, upscale.height) if upscale.width and upscale.height else None
    if stated and upscale.crop is not False:
        return NextSize(stated)
    if size is None:
        return _UNKNOWN
    if stated:
        ratio = max(stated[0] / size[0], stated[1] / size[1])
        return _floored("upscale.crop", (size[0] * ratio, size[1] * ratio))
    factor = 1.0 if upscale.factor is None else upscale.factor
    return _floored("upscale.factor", (size[0] * factor, size[1] * factor))


_UNKNOWN = NextSize(None)


def _floored(cause: str, exact: tuple[float, float]) -> NextSize:
    size = floor_to_grid(exact)
    if all(abs(side - wanted) <= _ROUNDING for side, wanted in zip(size, exact, strict=True)):
        return NextSize(size)
    shown = f"{exact[0]:g}x{exact[1]:g} is made {size[0]}x{size[1]}"
    return NextSize(size, f"{cause}: {shown}, multiples of {GRID}")


def floor_to_grid(size: tuple[float, float]) -> Dimensions:
    """The largest multiples of 8 that are no larger, and no smaller than 8."""
    width, height = (max(GRID, int(side + _ROUNDING) // GRID * GRID) for side in size)
    return width, height
