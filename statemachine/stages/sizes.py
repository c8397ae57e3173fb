"""Sizes of images, in pixels, and how servers round them."""

from __future__ import annotations

from typing import NamedTuple

GRID = 8
"""Servers floor every size to a multiple of this."""

MAX_PIXELS = 178_956_970
"""Of any image, in or out: Pillow's own limit, larger than any upscale that a server answers."""

_ROUNDING = 1e-6
"""A product such as 24 * 1.3333333333 may differ by this from the whole number that is meant."""

Dimensions = tuple[int, int]


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
