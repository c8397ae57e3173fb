"""Colours: 8-bit red, green and blue, mixed by whole numbers only."""

from __future__ import annotations

from typing import NamedTuple

from .random_stream import RandomStream

Colour = tuple[int, int, int]

WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)

# No hue of a scene lies between 320 and 80 degrees: those are left to skin, so that the
# detector, which goes by colour, is not led astray.
_FIRST_HUE, _HUES = 80, 240
_MOST_APART = 50

SKINS: tuple[Colour, ...] = (
    (252, 216, 192),
    (242, 196, 164),
    (226, 174, 138),
    (200, 144, 106),
    (164, 112, 82),
    (132, 88, 64),
)
HAIRS: tuple[Colour, ...] = (
    (30, 26, 34),
    (52, 36, 34),
    (66, 38, 28),
    (214, 176, 78),
    (214, 84, 20),
    (202, 206, 216),
    (92, 60, 140),
    (36, 92, 116),
)
EYES: tuple[Colour, ...] = ((74, 50, 34), (46, 96, 140), (58, 112, 74), (110, 92, 52))


class Palette(NamedTuple):
    """The colours of one scene; ``backdrop`` is three neighbouring hues."""

    backdrop: tuple[Colour, Colour, Colour]
    light: Colour
    cloth: Colour


def colour_of(hue: int, saturation: int, value: int) -> Colour:
    """From degrees, and saturation and value of 0 to 255."""
    sector, offset = divmod(hue % 360, 60)
    low = value * (255 - saturation) // 255
    rising = low + (value - low) * offset // 60
    falling = value - (value - low) * offset // 60
    return (
        (value, rising, low),
        (falling, value, low),
        (low, value, rising),
        (low, falling, value),
        (rising, low, value),
        (value, low, falling),
    )[sector]


def mix(one: Colour, other: Colour, share: int) -> Colour:
    """``one`` with ``share`` parts of 255 of ``other`` in it."""
    red, green, blue = (
        (a * (255 - share) + b * share + 127) // 255 for a, b in zip(one, other, strict=True)
    )
    return red, green, blue


def palette_of(prompt: str, negative_prompt: str) -> Palette:
    """The colours that a prompt stands for; the negative prompt turns the contrast."""
    words, avoided = RandomStream("prompt", prompt), RandomStream("avoided", negative_prompt)
    # Far enough from the range's ends that its neighbours are neighbours on the wheel too.
    hue = words.between(_MOST_APART, _HUES - _MOST_APART)
    side = words.pick((-1, 1))
    near = hue + side * words.between(20, _MOST_APART)
    third = hue - side * (words.between(15, _MOST_APART - 10) + avoided.between(-10, 10))
    far = hue + words.between(105, 150) + avoided.between(-15, 15)
    value = words.pick((80, 120, 165, 205))
    return Palette(
        backdrop=(
            _scene_colour(hue, words.between(140, 200), value),
            _scene_colour(near, words.between(110, 170), min(255, value + words.between(25, 50))),
            _scene_colour(third, words.between(120, 180), value + words.between(-15, 40)),
        ),
        light=_scene_colour(near, words.between(20, 60), 255),
        cloth=_scene_colour(far + words.between(-20, 20), words.between(130, 200), 120),
    )


def _scene_colour(hue: int, saturation: int, value: int) -> Colour:
    return colour_of(_FIRST_HUE + hue % _HUES, saturation, value)
