"""Pictures at another size, with the same pixels from every version of Pillow."""

from __future__ import annotations

from PIL import Image


def scaled(image: Image.Image, size: tuple[int, int], method: Image.Resampling) -> Image.Image:
    """``image`` at ``size``, one direction after the other.

    Asked for both at once, Pillow rounds to 8 bits in between after a direction that it
    chooses itself, and not all versions choose alike (11 and 13 do not).
    """
    if size[1] < image.height:
        return image.resize((image.width, size[1]), method).resize(size, method)
    return image.resize((size[0], image.height), method).resize(size, method)
