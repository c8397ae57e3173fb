"""Selects the detections of a detailing pass, and makes their masks."""

from __future__ import annotations

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from ....statemachine.stages import AdetailerPass
from .canvas import Box
from .detector import Find, face_mask, find_faces
from .figure import body_box
from .settings import DEFAULT_CONFIDENCE, DEFAULT_DILATION, DEFAULT_MASK_BLUR

_MOST_BLUR = 64
_MOST_SPREAD = 64


def chosen_finds(image: Image.Image, one: AdetailerPass) -> list[Find]:
    """What the pass's detector finds and its settings let through."""
    model = (one.model or "none").lower()
    if model == "none" or "hand" in model:
        return []  # our pictures have no hands
    least = DEFAULT_CONFIDENCE if one.confidence is None else one.confidence
    low = 0.0 if one.mask_min_ratio is None else one.mask_min_ratio
    high = 1.0 if one.mask_max_ratio is None else one.mask_max_ratio
    whole = image.width * image.height
    finds = [
        find
        for find in find_faces(image)
        if find.confidence >= least and low * whole <= _area(find.box) <= high * whole
    ]
    if one.mask_filter != "Confidence":
        finds.sort(key=lambda find: (-_area(find.box), find.box))
    return finds[: one.mask_k] if one.mask_k else finds


def mask_of(image: Image.Image, find: Find, one: AdetailerPass) -> Image.Image:
    """The mask of a detection: grown, blurred and shifted, with the size of the picture."""
    spread = DEFAULT_DILATION if one.dilate_erode is None else one.dilate_erode
    spread = max(-_MOST_SPREAD, min(_MOST_SPREAD, spread))
    blur = min(_MOST_BLUR, DEFAULT_MASK_BLUR if one.mask_blur is None else one.mask_blur)
    if shows_person(one):
        box = body_box(find.box)
        shape = _ellipse((box[2] - box[0], box[3] - box[1]))
        blur = max(blur, min(_MOST_BLUR, shape.width // 12))
    else:
        box, shape = find.box, face_mask(image, find.box)
    room = abs(spread) + blur + 1
    local = Image.new("L", (shape.width + 2 * room, shape.height + 2 * room))
    local.paste(shape, (room, room))
    local = _spread(local, spread).filter(ImageFilter.BoxBlur(blur))
    mask = Image.new("L", image.size)
    x, y = _shift(one, image.size)
    mask.paste(local, (box[0] - room + x, box[1] - room + y))
    return mask


def _ellipse(size: tuple[int, int]) -> Image.Image:
    shape = Image.new("L", size)
    ImageDraw.Draw(shape).ellipse((0, 0, size[0] - 1, size[1] - 1), fill=255)
    return shape


def _spread(mask: Image.Image, pixels: int) -> Image.Image:
    """A mask of 0 and 255 grown, or for a negative number shrunk, by half as many pixels."""
    if pixels == 0:
        return mask
    if pixels < 0:
        return ImageChops.invert(_spread(ImageChops.invert(mask), -pixels))
    soft = mask.filter(ImageFilter.BoxBlur((pixels + 1) // 2))
    return soft.point([0] + [255] * 255)


def _shift(one: AdetailerPass, size: tuple[int, int]) -> tuple[int, int]:
    """The offset in pixels, to the right and down; in the settings y points up."""
    width, height = size
    x, y = one.x_offset or 0, -(one.y_offset or 0)
    return max(-width, min(width, x)), max(-height, min(height, y))


def merged_masks(masks: list[Image.Image], one: AdetailerPass) -> list[Image.Image]:
    """The masks separately, merged, or merged and inverted."""
    if not masks or one.merge in (None, "None"):
        return masks
    union = masks[0]
    for mask in masks[1:]:
        union = ImageChops.lighter(union, mask)
    return [ImageChops.invert(union) if is_inverted(one) else union]


def shows_person(one: AdetailerPass) -> bool:
    """Whether the detector finds whole figures."""
    return "person" in (one.model or "").lower()


def is_inverted(one: AdetailerPass) -> bool:
    """Whether the pass repaints everything except its detections."""
    return one.merge == "Merge and Invert"


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
