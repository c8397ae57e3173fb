"""The picture itself: an abstract portrait, built up layer by layer over the steps."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from .canvas import Box, Canvas, around, part_of
from .face import FRONT, draw_soft_face
from .figure import Figure, draw_figure, figure_of
from .palette import WHITE, Colour, Palette, mix, palette_of
from .random_stream import RandomStream
from .scaling import scaled
from .settings import Scene

_MAX_CANVAS = 700_000
"""Pixels that are painted at most; larger pictures are scaled up from there."""
_GRID = (4, 5)
_FIGURE_COMES_AFTER = 60  # per cent of the steps
_SHAPES_A_STEP = 4


def paint(scene: Scene, size: tuple[int, int], after_step: Callable[[], None]) -> Image.Image:
    """The picture of ``scene``, ``size`` pixels wide and high; steps are told as they end."""
    canvas = Canvas(_backdrop(scene, _canvas_size(size)))
    palette = palette_of(scene.prompt, scene.negative_prompt)
    figure = figure_of(scene.seed, canvas.image.size)
    _halo(canvas, scene, palette, figure)
    figure_step = scene.steps * _FIGURE_COMES_AFTER // 100
    for step in range(scene.steps):
        if step == figure_step:
            draw_figure(canvas, figure, palette)
            draw_soft_face(canvas, figure)
        chance = _stream(scene, step)
        if step < figure_step:
            _soft_layer(canvas, chance, palette, step)
        else:
            _sparkling_layer(canvas, chance, palette, figure, step - figure_step)
        after_step()
    canvas.darken_corners(90)
    return scaled(canvas.image, size, Image.Resampling.BICUBIC)


def _canvas_size(size: tuple[int, int]) -> tuple[int, int]:
    width, height = size
    divisor = 1
    while width * height > _MAX_CANVAS * divisor * divisor:
        divisor += 1
    return max(1, width // divisor), max(1, height // divisor)


def _stream(scene: Scene, step: int) -> RandomStream:
    style = scene.style if step < scene.switch_step else scene.refined_style
    return RandomStream("layer", step, style, scene.prompt, scene.negative_prompt, scene.seed)


def _backdrop(scene: Scene, size: tuple[int, int]) -> Image.Image:
    """A field of the prompt's colours that flow into one another, brighter at the bottom."""
    chance = RandomStream("backdrop", scene.prompt, scene.negative_prompt, scene.seed)
    colours = palette_of(scene.prompt, scene.negative_prompt).backdrop
    grid = Image.new("RGB", _GRID)
    for row in range(_GRID[1]):
        for column in range(_GRID[0]):
            flow = 255 * row // (_GRID[1] - 1)
            base = mix(colours[0], colours[1], flow)
            grid.putpixel((column, row), mix(base, colours[2], chance.below(170)))
    return scaled(grid, size, Image.Resampling.BICUBIC)


def _halo(canvas: Canvas, scene: Scene, palette: Palette, figure: Figure) -> None:
    """What stands behind the head: a sun, rings, or a glow; the style chooses."""
    chance = RandomStream("halo", scene.style)
    x, y = (figure.face[0] + figure.face[2]) // 2, (figure.face[1] + figure.face[3]) // 2
    radius = (figure.face[3] - figure.face[1]) * chance.between(85, 115) // 100
    canvas.glow(around(x, y, radius * 2), palette.light, 150)
    kind = chance.below(3)
    if kind == 0:
        canvas.disc(around(x, y, radius), mix(palette.light, palette.backdrop[1], 90), 150)
    for ring in range(4 if kind == 1 else 1):
        spread = radius * (100 + 22 * ring) // 100
        canvas.ring(around(x, y, spread), palette.light, 130 - 26 * ring)


def _soft_layer(canvas: Canvas, chance: RandomStream, palette: Palette, step: int) -> None:
    """Large veils in the first steps, smaller circles of light in later ones."""
    unit = min(canvas.image.size)
    radius = max(2, unit * 260 // (600 + 130 * step))
    for shape in range(_SHAPES_A_STEP):
        box = _anywhere(canvas, chance, radius * chance.between(60, 140) // 100)
        colour = mix(chance.pick(palette.backdrop), palette.light, chance.between(20, 160))
        if shape < 2:
            canvas.glow(box, colour, 120)
        elif shape == 2:
            canvas.disc(box, colour, 44)
        else:
            canvas.ring(part_of(box, 250, 250, 750, 750), colour, 80)


def _sparkling_layer(
    canvas: Canvas, chance: RandomStream, palette: Palette, figure: Figure, step: int
) -> None:
    """Points of light in front of the figure, none of them on the face."""
    unit = min(canvas.image.size)
    for _ in range(_SHAPES_A_STEP):
        radius = max(1, unit * chance.between(10, 32) // (1000 + 100 * step))
        box = _anywhere(canvas, chance, radius)
        if _apart(box, part_of(figure.face, *FRONT)):
            _sparkle(canvas, box, mix(palette.light, WHITE, 120))


def _sparkle(canvas: Canvas, box: Box, colour: Colour) -> None:
    canvas.glow(part_of(box, -1000, -1000, 2000, 2000), colour, 110)
    canvas.disc(part_of(box, 250, 250, 750, 750), colour, 200)


def _anywhere(canvas: Canvas, chance: RandomStream, radius: int) -> Box:
    width, height = canvas.image.size
    return around(chance.below(width), chance.below(height), max(1, radius))


def _apart(one: Box, other: Box) -> bool:
    return one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
