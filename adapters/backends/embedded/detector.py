"""Detects faces from pixels: skin-coloured ellipses with something dark in them."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image, ImageChops, ImageFilter

from .canvas import Box

_LOOKED_AT = 96
"""Pixels of the longer side, at most, of the picture that is searched."""
_SKIN_LUMA = (80, 250)
_SKIN_BLUE = (94, 122)
_SKIN_RED = (138, 172)
"""Luma and chroma (JPEG's YCbCr) of skin, light and dark."""

_LEAST_SIDE = 4
_FILL, _ASPECT = 740, 1270
"""A face's share of its box, and its height by its width, in thousandths."""


class Find(NamedTuple):
    """A face: its box in the picture, and how sure the detector is, 0 to 1."""

    box: Box
    confidence: float


_Rows = dict[int, tuple[int, int]]
"""Connected pixels of the searched picture: the first and the last column of each row."""


def find_faces(image: Image.Image) -> list[Find]:
    """Every face, the most certain first; boxes lie within the picture."""
    shrink = max(1, -(-max(image.size) // _LOOKED_AT))
    small = image.reduce(shrink) if shrink > 1 else image
    mask = skin_mask(small)
    found = []
    for blob in _blobs(_solid(mask)):
        confidence = _confidence(blob, mask)
        if confidence > 0:
            found.append(Find(_exact_box(image, blob, shrink), confidence))
    return sorted(found, key=lambda find: (-find.confidence, find.box))


def skin_mask(image: Image.Image) -> Image.Image:
    """255 where a pixel has a skin's colour, 0 elsewhere."""
    bands = image.convert("YCbCr").split()
    mask = Image.new("L", image.size, 255)
    for band, (low, high) in zip(bands, (_SKIN_LUMA, _SKIN_BLUE, _SKIN_RED), strict=True):
        table = [255 if low <= level <= high else 0 for level in range(256)]
        mask = ImageChops.darker(mask, band.point(table))
    return mask


def face_mask(image: Image.Image, box: Box) -> Image.Image:
    """255 on the face in ``box``, eyes and mouth included; as large as the box."""
    part = _solid(skin_mask(image.crop(box)))
    turn = Image.Transpose.TRANSPOSE
    # Eyes are enclosed from all sides, a curl of hair at the edge from one only.
    upright = _rows_filled(part.transpose(turn)).transpose(turn)
    return ImageChops.darker(_rows_filled(part), upright)


def _solid(mask: Image.Image) -> Image.Image:
    """A mask without lines and specks, such as the blended edges between other colours."""
    radius = max(1, min(mask.size) // 64)
    return mask.filter(ImageFilter.BoxBlur(radius)).point([0] * 128 + [255] * 128)


def _rows_filled(mask: Image.Image) -> Image.Image:
    """Each row of a mask filled from its first to its last pixel of 255."""
    width, height = mask.size
    pixels = bytearray(mask.tobytes())
    for start in range(0, width * height, width):
        first = pixels.find(255, start, start + width)
        if first >= 0:
            last = pixels.rfind(255, start, start + width)
            pixels[first : last + 1] = b"\xff" * (last + 1 - first)
    return Image.frombytes("L", mask.size, bytes(pixels))


def _blobs(mask: Image.Image) -> list[_Rows]:
    """Pixels of 255 that hang together, side by side or one above the other."""
    width = mask.width
    open_pixels = bytearray(mask.tobytes())
    found = []
    start = open_pixels.find(255)
    while start >= 0:
        found.append(_flood(open_pixels, width, start))
        start = open_pixels.find(255, start)
    return found


def _flood(open_pixels: bytearray, width: int, start: int) -> _Rows:
    """Take the blob around ``start`` out of ``open_pixels``."""
    rows: _Rows = {}
    waiting = [start]
    open_pixels[start] = 0
    while waiting:
        place = waiting.pop()
        row, column = divmod(place, width)
        first, last = rows.get(row, (column, column))
        rows[row] = (min(first, column), max(last, column))
        left = place - 1 if column else place
        right = place + 1 if column + 1 < width else place
        for neighbour in (left, right, place - width, place + width):
            if 0 <= neighbour < len(open_pixels) and open_pixels[neighbour]:
                open_pixels[neighbour] = 0
                waiting.append(neighbour)
    return rows


def _box_of(rows: _Rows) -> Box:
    left = min(first for first, _ in rows.values())
    right = max(last for _, last in rows.values())
    return left, min(rows), right + 1, max(rows) + 1


def _confidence(rows: _Rows, mask: Image.Image) -> float:
    """How much a blob is like a face: an upright ellipse with eyes or a mouth in it.

    ``mask`` says which pixels have a skin's colour, small features included.
    """
    left, top, right, bottom = _box_of(rows)
    width, height = right - left, bottom - top
    if min(width, height) < _LEAST_SIDE or (width, height) == mask.size:
        return 0.0
    covered = sum(last + 1 - first for first, last in rows.values())
    points = 980 - 2 * abs(covered * 1000 // (width * height) - _FILL)
    points -= abs(height * 1000 // width - _ASPECT) // 2
    if not _has_features(rows, mask):
        points -= 500
    return max(0, points) / 1000


def _has_features(rows: _Rows, mask: Image.Image) -> bool:
    """Whether anything inside a blob, its edges apart, has another colour than skin."""
    pixels, width = mask.tobytes(), mask.width
    return any(
        0 in pixels[row * width + first + 1 : row * width + last]
        for row, (first, last) in rows.items()
        if min(rows) < row < max(rows)
    )


def _exact_box(image: Image.Image, rows: _Rows, shrink: int) -> Box:
    """The blob's box to the pixel, from the picture as it is."""
    left, top, right, bottom = _box_of(rows)
    coarse = (
        max(0, (left - 1) * shrink),
        max(0, (top - 1) * shrink),
        min(image.width, (right + 1) * shrink),
        min(image.height, (bottom + 1) * shrink),
    )
    exact = _solid(skin_mask(image.crop(coarse))).getbbox()
    if exact is None:
        return coarse
    return coarse[0] + exact[0], coarse[1] + exact[1], coarse[0] + exact[2], coarse[1] + exact[3]
