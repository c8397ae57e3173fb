"""Faces: a soft one, as a small picture shows it, and a detailed one."""

from __future__ import annotations

from .canvas import Box, Canvas, part_of
from .figure import Figure, draw_fringe, visible_face
from .palette import BLACK, EYES, WHITE, Colour, mix
from .random_stream import RandomStream

FRONT = (-60, -60, 1060, 1060)
"""A face's box with some room around it, for ``part_of``."""

_LEFT_EYE = (200, 410, 400, 530)
_RIGHT_EYE = (600, 410, 800, 530)
_RED: Colour = (168, 52, 60)
_WARM_LIGHT: Colour = (255, 232, 206)


def draw_soft_face(canvas: Canvas, figure: Figure) -> None:
    """The face of a fresh picture: two eyes and a mouth, little more than hinted at."""
    face, skin = visible_face(figure), figure.skin
    canvas.disc(figure.face, skin)
    side = (0, 600) if figure.lit_from_left else (400, 1000)
    canvas.glow(part_of(face, side[0], 150, side[1], 900), mix(skin, _WARM_LIGHT, 130), 140)
    for eye in (_LEFT_EYE, _RIGHT_EYE):
        box = part_of(face, *eye)
        canvas.glow(part_of(box, -200, -500, 1200, 1330), BLACK, 60)
        canvas.disc(part_of(box, 150, 80, 850, 920), (40, 30, 34))
    canvas.glow(part_of(face, 420, 560, 580, 680), mix(skin, BLACK, 110), 120)
    mouth = part_of(face, 390 - figure.smile, 735, 610 + figure.smile, 795)
    canvas.disc(mouth, mix(_RED, skin, 90))
    draw_fringe(canvas, figure)


def draw_detailed_face(canvas: Canvas, face: Box, skin: Colour, chance: RandomStream) -> None:
    """A finished face of this skin in the box ``face``; chance picks eyes, lips and brows."""
    canvas.disc(face, skin)
    _model(canvas, face, skin)
    iris, hair = chance.pick(EYES), mix(mix(skin, BLACK, 190), (60, 36, 28), 90)
    for eye in (_LEFT_EYE, _RIGHT_EYE):
        _draw_eye(canvas, part_of(face, *eye), skin, iris)
        lift = chance.between(70, 95)
        brow = part_of(face, eye[0] - 15, eye[1] - lift, eye[2] + 15, eye[1] - lift + 45)
        canvas.disc(brow, hair, 200)
    _draw_nose(canvas, face, skin)
    _draw_mouth(canvas, face, mix(_RED, skin, chance.between(50, 120)))


def draw_texture(canvas: Canvas, face: Box, skin: Colour, chance: RandomStream) -> None:
    """One more step's worth of a skin's small lights and freckles."""
    for _ in range(3):
        x, y, size = chance.between(120, 880), chance.between(150, 900), chance.between(8, 22)
        spot = part_of(face, x - size, y - size * 3 // 4, x + size, y + size * 3 // 4)
        canvas.glow(spot, mix(skin, chance.pick((WHITE, WHITE, (120, 60, 40))), 90), 70)


def _model(canvas: Canvas, face: Box, skin: Colour) -> None:
    """Light and shade that give the face its roundness."""
    shade, light, blush = mix(skin, (90, 40, 40), 110), mix(skin, WHITE, 120), mix(skin, _RED, 90)
    canvas.glow(part_of(face, 200, 820, 800, 1160), shade, 150)
    canvas.glow(part_of(face, -300, 200, 180, 1000), shade, 140)
    canvas.glow(part_of(face, 820, 200, 1300, 1000), shade, 140)
    canvas.glow(part_of(face, 200, 60, 800, 460), light, 120)
    canvas.glow(part_of(face, 40, 520, 400, 780), blush, 120)
    canvas.glow(part_of(face, 600, 520, 960, 780), blush, 120)
    canvas.glow(part_of(face, 380, 860, 620, 980), light, 90)


def _draw_eye(canvas: Canvas, eye: Box, skin: Colour, iris: Colour) -> None:
    shade, lash = mix(skin, (70, 30, 40), 120), (34, 22, 26)
    canvas.glow(part_of(eye, -250, -500, 1250, 1100), shade, 170)
    canvas.disc(part_of(eye, -40, -60, 1040, 900), lash)
    canvas.disc(part_of(eye, 20, 130, 980, 960), (244, 240, 236))
    canvas.disc(part_of(eye, 230, 90, 770, 960), mix(iris, BLACK, 120))
    canvas.disc(part_of(eye, 270, 150, 730, 890), iris)
    canvas.glow(part_of(eye, 300, 480, 700, 940), mix(iris, WHITE, 130), 200)
    canvas.disc(part_of(eye, 395, 330, 605, 710), (12, 10, 14))
    canvas.disc(part_of(eye, 540, 240, 650, 450), WHITE, 240)


def _draw_nose(canvas: Canvas, face: Box, skin: Colour) -> None:
    shade, light = mix(skin, (80, 36, 36), 130), mix(skin, WHITE, 150)
    canvas.glow(part_of(face, 400, 590, 600, 700), shade, 170)
    canvas.glow(part_of(face, 460, 400, 540, 640), light, 130)
    canvas.glow(part_of(face, 450, 580, 550, 650), light, 170)
    for left in (430, 530):
        canvas.disc(part_of(face, left, 645, left + 40, 662), shade, 220)


def _draw_mouth(canvas: Canvas, face: Box, lips: Colour) -> None:
    dark, light = mix(lips, BLACK, 120), mix(lips, WHITE, 130)
    canvas.disc(part_of(face, 365, 728, 515, 782), lips)
    canvas.disc(part_of(face, 485, 728, 635, 782), lips)
    canvas.disc(part_of(face, 375, 752, 625, 826), mix(lips, WHITE, 30))
    canvas.disc(part_of(face, 362, 757, 638, 772), dark)
    canvas.glow(part_of(face, 430, 778, 570, 814), light, 170)
