"""The figure of a portrait: its position, its look, its body and hair."""

from __future__ import annotations

from typing import NamedTuple

from .canvas import Box, Canvas, part_of
from .palette import BLACK, HAIRS, SKINS, WHITE, Colour, Palette, mix
from .random_stream import RandomStream


class Figure(NamedTuple):
    """A figure in a picture of one size; ``face`` is the box of its face's ellipse.

    In thousandths of the face's width, ``parting`` is where the hair parts and ``smile`` (0 to
    60) how broad it is; in those of its height, ``length`` is how far down the hair reaches.
    """

    face: Box
    skin: Colour
    hair: Colour
    parting: int
    length: int
    smile: int
    lit_from_left: bool


def figure_of(seed: int, size: tuple[int, int]) -> Figure:
    """The figure for ``seed``, the same at every size."""
    chance = RandomStream("figure", seed)
    width, height = size
    across = min(width * chance.between(330, 420), height * chance.between(230, 300)) // 1000
    down = across * chance.between(1260, 1380) // 1000
    x = width * chance.between(400, 600) // 1000
    y = height * chance.between(370, 450) // 1000
    face = (x - across // 2, y - down // 2, x - across // 2 + across, y - down // 2 + down)
    return Figure(
        face=face,
        skin=chance.pick(SKINS),
        hair=chance.pick(HAIRS),
        parting=chance.between(380, 620),
        length=chance.pick((700, 950, 1250, 1600)),
        smile=chance.below(61),
        lit_from_left=bool(chance.below(2)),
    )


def body_box(face: Box) -> Box:
    """The box of the figure that belongs to a face, from its hair to its waist."""
    return part_of(face, -1000, -600, 2000, 3400)


def draw_figure(canvas: Canvas, figure: Figure, palette: Palette) -> None:
    """Hair, shoulders and collar; the face comes on top of them."""
    face, hair = figure.face, figure.hair
    canvas.disc(part_of(face, -150, -210, 1150, max(1000, figure.length)), mix(hair, BLACK, 80))
    _shoulders(canvas, figure, palette)
    if figure.length > 1000:
        canvas.disc(part_of(face, -190, -40, 170, figure.length), hair)
        canvas.disc(part_of(face, 830, -40, 1190, figure.length), hair)
    canvas.disc(part_of(face, -150, -210, 1150, 850), hair)
    canvas.glow(part_of(face, 60, -230, 800, 200), mix(hair, WHITE, 90), 110)


def draw_fringe(canvas: Canvas, figure: Figure) -> None:
    """The hair over the brow, which ends above ``visible_face``."""
    face, parting = figure.face, figure.parting
    for left, right in ((-80, parting + 70), (parting - 70, 1080)):
        canvas.disc(part_of(face, left, -140, right, 190), figure.hair)


def visible_face(figure: Figure) -> Box:
    """The part of the face below the hair, which a detector sees."""
    return part_of(figure.face, 0, 130, 1000, 1000)


def _shoulders(canvas: Canvas, figure: Figure, palette: Palette) -> None:
    face, cloth = figure.face, palette.cloth
    left, right = (-1000, 700) if figure.lit_from_left else (300, 2000)
    canvas.disc(part_of(face, -1150, 1140, 2150, 4200), mix(cloth, BLACK, 60))
    canvas.disc(part_of(face, -1100, 1180, 2100, 4200), cloth)
    canvas.glow(part_of(face, left, 1200, right, 2600), mix(cloth, palette.light, 130), 150)
    canvas.disc(part_of(face, 150, 1150, 850, 1360), mix(cloth, BLACK, 50))
    canvas.disc(part_of(face, 230, 700, 770, 1330), mix(cloth, BLACK, 110))
    canvas.glow(part_of(face, 230, 900, 770, 1330), mix(cloth, palette.light, 60), 90)
