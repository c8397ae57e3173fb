"""Sizes of images, in pixels, and how servers round them."""

from __future__ import annotations

import os
from typing import NamedTuple

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
    """An image's size after a stage, None if unknown; ``warning`` if it was floored, else "".

    ``exact`` is the size before it was floored, where the size follows from others.
    """

    size: Dimensions | None
    warning: str = ""
    exact: tuple[float, float] | None = None


def floored(cause: str, exact: tuple[float, float]) -> NextSize:
    """A size that follows from others, on the grid; ``cause`` is the key that it follows from."""
    size = floor_to_grid(exact)
    if all(abs(side - wanted) <= _ROUNDING for side, wanted in zip(size, exact, strict=True)):
        return NextSize(size, exact=exact)
    shown = f"{exact[0]:g}x{exact[1]:g} is made {size[0]}x{size[1]}"
    return NextSize(size, f"{cause}: {shown}, multiples of {GRID}", exact)


def floor_to_grid(size: tuple[float, float]) -> Dimensions:
    """The largest multiples of 8 that are no larger, and no smaller than 8."""
    width, height = (max(GRID, int(side + _ROUNDING) // GRID * GRID) for side in size)
    return width, height
