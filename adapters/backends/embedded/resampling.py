"""Pictures at other sizes: filters by name, ways to fit, and what hires and upscale give."""

from __future__ import annotations

from PIL import Image, ImageFilter

from ....statemachine.stages import HiresConfig, UpscaleConfig
from ....statemachine.stages.sizes import Dimensions, floor_to_grid
from .canvas import Box
from .pictures import check_size
from .random_stream import RandomStream
from .scaling import scaled

_PLAIN = {
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
    "none": Image.Resampling.LANCZOS,
}
_KERNEL_SCALE = 128
"""A power of two, so that the filter's single precision sums are exact everywhere."""

_CROP, _FILL, _LATENT = 1, 2, 3


def resample(image: Image.Image, size: Dimensions, upscaler: str) -> Image.Image:
    """``image`` at ``size`` by the filter that ``upscaler`` names.

    Nearest, Lanczos and None are these filters; behind any other name stands one of two
    filters and a mild sharpening, which the name chooses.
    """
    plain = _PLAIN.get(upscaler.lower())
    if plain is not None:
        return scaled(image, size, plain)
    chance = RandomStream("upscaler", upscaler)
    method = chance.pick((Image.Resampling.BICUBIC, Image.Resampling.LANCZOS))
    return _sharpened(scaled(image, size, method), chance.between(1, 16), chance.between(0, 8))


def _sharpened(image: Image.Image, beside: int, across: int) -> Image.Image:
    """Each pixel against its neighbours beside and across, in parts of ``_KERNEL_SCALE``."""
    middle = _KERNEL_SCALE + 4 * (beside + across)
    row = (-across, -beside, -across)
    kernel = (*row, -beside, middle, -beside, *row)
    return image.filter(ImageFilter.Kernel((3, 3), kernel, _KERNEL_SCALE))


def fit(image: Image.Image, size: Dimensions, mode: int) -> Image.Image:
    """``image`` at ``size`` as img2img's resize mode says; of that size it stays as it is.

    0 stretches, 1 crops what is too much, 2 fills what is missing with a blur of the
    picture, 3 stretches as latents are.
    """
    if image.size == size:
        return image
    if mode == _CROP:
        return _covering(image, size)
    if mode == _FILL:
        return _filled(image, size)
    smooth = mode == _LATENT
    return scaled(image, size, Image.Resampling.BILINEAR if smooth else Image.Resampling.BICUBIC)


def _cover_box(source: Dimensions, target: Dimensions) -> Box:
    """The largest part in the middle of ``source`` that has the shape of ``target``."""
    width, height = source
    wide = min(width, max(1, height * target[0] // target[1]))
    high = min(height, max(1, width * target[1] // target[0]))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def _covering(image: Image.Image, size: Dimensions) -> Image.Image:
    part = image.crop(_cover_box(image.size, size))
    return scaled(part, size, Image.Resampling.BICUBIC)


def _filled(image: Image.Image, size: Dimensions) -> Image.Image:
    ground = _covering(image, size).filter(ImageFilter.BoxBlur(max(size) // 32))
    width, height = image.size
    inner = (
        max(1, min(size[0], size[1] * width // height)),
        max(1, min(size[1], size[0] * height // width)),
    )
    place = ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2)
    ground.paste(scaled(image, inner, Image.Resampling.BICUBIC), place)
    return ground


def hires_picture(image: Image.Image, hires: HiresConfig) -> Image.Image:
    """The first pass at the size of the second; a stated size is covered, then cropped.

    Raises PictureError for a size out of bounds.
    """
    width, height = image.size
    if hires.scale is not None:
        check_size((width * hires.scale, height * hires.scale))
    size = hires.size_after(image.size).size or image.size
    check_size(size)
    part = image.crop(_cover_box(image.size, size))
    return resample(part, size, hires.upscaler or "Latent")


def upscaled(image: Image.Image, config: UpscaleConfig) -> Image.Image:
    """``image`` by a factor or at a size, with the second upscaler's picture blended in.

    Raises PictureError for a size out of bounds.
    """
    size = _upscaled_size(image.size, config)
    if config.crop is not False and config.width and config.height:
        image = image.crop(_cover_box(image.size, size))
    result = resample(image, size, config.upscaler or "None")
    if config.upscaler_2 and config.upscaler_2_visibility:
        second = resample(image, size, config.upscaler_2)
        return blend(result, second, config.upscaler_2_visibility)
    return result


def _upscaled_size(size: Dimensions, config: UpscaleConfig) -> Dimensions:
    if config.width and config.height:
        wanted: tuple[float, float] = (config.width, config.height)
        if config.crop is False:
            ratio = max(config.width / size[0], config.height / size[1])
            wanted = (size[0] * ratio, size[1] * ratio)
    else:
        factor = 1.0 if config.factor is None else config.factor
        wanted = (size[0] * factor, size[1] * factor)
    check_size(wanted)
    return floor_to_grid(wanted)


def blend(one: Image.Image, other: Image.Image, share: float) -> Image.Image:
    """``one`` with ``share`` (0 to 1) of ``other``, of the same size, in whole numbers."""
    mask = Image.new("L", one.size, part_of_255(share))
    return Image.composite(other, one, mask)


def part_of_255(share: float) -> int:
    """A share of 0 to 1 as a level of 0 to 255."""
    return int(min(max(share, 0.0), 1.0) * 255 + 0.5)
