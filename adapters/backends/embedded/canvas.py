"""Soft shapes on a picture: discs, rings and glows, put on through 8-bit masks."""

from __future__ import annotations

from functools import cache

from PIL import Image, ImageDraw

from .palette import Colour
from .scaling import scaled

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are the first ones outside."""

_LARGE, _SMALL = 256, 64
_OVERSAMPLING = 4
_RING_WIDTH = 14
_RIM = 181
"""The level of Pillow's radial gradient in the middle of its edges; its corners have 255."""


class Canvas:
    """A picture being painted. Shapes fill boxes, which may reach over the edge.

    ``alpha`` is the covering power, 0 to 255.
    """

    def __init__(self, image: Image.Image) -> None:
        self.image = image

    def disc(self, box: Box, colour: Colour, alpha: int = 255) -> None:
        """An ellipse with a clean edge."""
        self._stamp("disc", box, colour, alpha)

    def ring(self, box: Box, colour: Colour, alpha: int = 255) -> None:
        """The rim of an ellipse."""
        self._stamp("ring", box, colour, alpha)

    def glow(self, box: Box, colour: Colour, alpha: int = 255) -> None:
        """An ellipse that fades from its middle to nothing at its edge."""
        self._stamp("glow", box, colour, alpha)

    def darken_corners(self, alpha: int) -> None:
        """Shade what lies away from the middle, by ``alpha`` in the corners."""
        width, height = self.image.size
        shade = scaled(_corner_shade(), (width, height), Image.Resampling.BILINEAR)
        self.image.paste((0, 0, 0), (0, 0, width, height), shade.point(fading(alpha)))

    def _stamp(self, kind: str, box: Box, colour: Colour, alpha: int) -> None:
        left, top = box[0], box[1]
        width, height = max(1, box[2] - left), max(1, box[3] - top)
        size = _SMALL if max(width, height) <= _SMALL else _LARGE
        mask = scaled(_sprite(kind, size, alpha), (width, height), Image.Resampling.BILINEAR)
        self.image.paste(colour, (left, top, left + width, top + height), mask)


def part_of(box: Box, left: int, top: int, right: int, bottom: int) -> Box:
    """The part of ``box`` that lies between these thousandths of its width and height."""
    width, height = box[2] - box[0], box[3] - box[1]
    return (
        box[0] + width * left // 1000,
        box[1] + height * top // 1000,
        box[0] + width * right // 1000,
        box[1] + height * bottom // 1000,
    )


def around(x: int, y: int, radius: int) -> Box:
    """The box of a circle."""
    return x - radius, y - radius, x + radius, y + radius


@cache
def fading(alpha: int) -> list[int]:
    """The table that scales an 8-bit mask by ``alpha`` parts of 255."""
    return [(level * alpha + 127) // 255 for level in range(256)]


@cache
def _sprite(kind: str, size: int, alpha: int) -> Image.Image:
    """The mask that shapes of this kind and power are scaled from: ``size`` pixels square."""
    if alpha < 255:
        return _sprite(kind, size, 255).point(fading(alpha))
    if kind == "glow":
        fall = [_eased(max(0, _RIM - level) * 255 // _RIM) for level in range(256)]
        ramp = Image.radial_gradient("L").point(fall)
        return scaled(ramp, (size, size), Image.Resampling.BILINEAR)
    large = size * _OVERSAMPLING
    mask = Image.new("L", (large, large))
    draw = ImageDraw.Draw(mask)
    draw.ellipse((0, 0, large - 1, large - 1), fill=255)
    if kind == "ring":
        rim = large * _RING_WIDTH // 256
        draw.ellipse((rim, rim, large - 1 - rim, large - 1 - rim), fill=0)
    return mask.reduce(_OVERSAMPLING)


@cache
def _corner_shade() -> Image.Image:
    rise = [_eased(max(0, level - 90) * 255 // 165) for level in range(256)]
    return Image.radial_gradient("L").point(rise)


def _eased(level: int) -> int:
    """A level of 0 to 255 on a curve that begins and ends flat."""
    return level * level * (765 - 2 * level) // 65025
