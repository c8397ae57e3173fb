"""Paints detailed faces and figures in place of detected ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from PIL import Image, ImageStat

from ....statemachine.stages import AdetailerPass
from .canvas import Box, Canvas
from .detector import Find, face_mask, skin_mask
from .face import draw_detailed_face, draw_texture
from .masks import is_inverted, shows_person
from .palette import Colour
from .portrait import paint
from .random_stream import RandomStream
from .scaling import scaled
from .settings import DEFAULT_PADDING, DEFAULT_SIDE, Scene

_MOST_PATCH = 1024
_LEAST_PATCH = 8


class _Patch(NamedTuple):
    """A face being painted at a size of its own; ``box`` is its place in the picture."""

    box: Box
    canvas: Canvas
    skin: Colour
    chance: RandomStream


def repainted(
    image: Image.Image,
    finds: list[Find],
    one: AdetailerPass,
    scene: Scene,
    after_step: Callable[[], None],
) -> Image.Image:
    """A copy of ``image`` with all that the masks of ``finds`` may let through painted anew.

    Faces alone, or the whole scene for a figure, or for everything but what was found.
    """
    if is_inverted(one):
        return paint(scene, image.size, after_step)
    patches = [_patch(image, find.box, one, scene) for find in finds]
    if shows_person(one):
        ground = paint(scene, image.size, after_step)
        _add_texture(patches, scene.steps, _nothing)
    else:
        ground = image.copy()
        _add_texture(patches, scene.steps, after_step)
    for patch in patches:
        left, top, right, bottom = patch.box
        size = (right - left, bottom - top)
        face = scaled(patch.canvas.image, size, Image.Resampling.BICUBIC)
        shape = face_mask(image, patch.box) if shows_person(one) else None
        ground.paste(face, (left, top), shape)
    return ground


def _patch(image: Image.Image, box: Box, one: AdetailerPass, scene: Scene) -> _Patch:
    """A face begun: in the colours of the one in ``box``, with all its features."""
    chance = RandomStream("patch", scene.prompt, scene.negative_prompt, scene.seed, scene.style)
    part = image.crop(box)
    skin = _mean_skin(part)
    canvas = Canvas(scaled(part, _patch_size(image.size, box, one), Image.Resampling.BICUBIC))
    draw_detailed_face(canvas, (0, 0, *canvas.image.size), skin, chance)
    return _Patch(box, canvas, skin, chance)


def _patch_size(whole: tuple[int, int], box: Box, one: AdetailerPass) -> tuple[int, int]:
    """The size that a face is painted at: as much of the inpaint size as falls to it.

    Only the masked part and its padding, or else the whole picture, fill the inpaint size.
    """
    width, height = box[2] - box[0], box[3] - box[1]
    around = 2 * (DEFAULT_PADDING if one.padding is None else one.padding)
    filled = whole if one.only_masked is False else (width + around, height + around)
    paint_width, paint_height = one.width or DEFAULT_SIDE, one.height or DEFAULT_SIDE
    scale = min(paint_width * 1000 // filled[0], paint_height * 1000 // filled[1])
    return _bounded(width * scale // 1000), _bounded(height * scale // 1000)


def _bounded(side: int) -> int:
    return max(_LEAST_PATCH, min(_MOST_PATCH, side))


def _mean_skin(part: Image.Image) -> Colour:
    """The mean of the pixels that have a skin's colour; of all where none has."""
    mask = skin_mask(part)
    found = ImageStat.Stat(part, mask if mask.getbbox() else None)
    red, green, blue = (
        int(total) // count for total, count in zip(found.sum, found.count, strict=True)
    )
    return red, green, blue


def _add_texture(patches: list[_Patch], steps: int, after_step: Callable[[], None]) -> None:
    for _ in range(steps):
        for patch in patches:
            canvas = patch.canvas
            draw_texture(canvas, (0, 0, *canvas.image.size), patch.skin, patch.chance)
        after_step()


def _nothing() -> None:
    """The steps of a figure's faces are not counted beside the figure's own."""
