"""Makes one picture for one seed, for each type of stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from PIL import Image, ImageChops, ImageFilter

from ....statemachine.stages import (
    AdetailerConfig,
    Img2ImgConfig,
    Txt2ImgConfig,
    UpscaleConfig,
)
from ....statemachine.stages.sizes import Dimensions, floor_to_grid
from .canvas import fading
from .detailing import detailed
from .detector import face_mask, find_faces
from .pictures import PictureError, check_size
from .portrait import paint
from .resampling import blend, fit, hires_picture, part_of_255, upscaled
from .settings import (
    DEFAULT_DENOISE,
    DEFAULT_SIDE,
    hires_of,
    scene_of,
    second_scene_of,
)
from .steps import StepCounter


class Sources(NamedTuple):
    """The decoded input pictures of a request."""

    image: Image.Image | None
    mask: Image.Image | None

    def needed(self) -> Image.Image:
        """The input image. Raises PictureError where none was sent."""
        if self.image is None:
            raise PictureError("this stage needs an input image, and none was sent")
        return self.image


class Made(NamedTuple):
    """A picture, the size in its infotext, and facts other than settings."""

    image: Image.Image
    size: Dimensions
    facts: Mapping[str, Any] = {}


def make_txt2img(config: Txt2ImgConfig, seed: int, _: Sources, counter: StepCounter) -> Made:
    """A picture from a prompt."""
    wanted = (config.width or DEFAULT_SIDE, config.height or DEFAULT_SIDE)
    check_size(wanted)
    size = floor_to_grid(wanted)
    image = paint(scene_of(config, seed), size, counter.tick)
    hires = hires_of(config)
    if hires is None:
        return Made(image, size)
    counter.check()
    larger = hires_picture(image, hires)
    again = paint(second_scene_of(config, hires, seed), larger.size, counter.tick)
    denoise = DEFAULT_DENOISE if hires.denoise is None else hires.denoise
    return Made(blend(larger, again, denoise), size)


def make_img2img(config: Img2ImgConfig, seed: int, sources: Sources, counter: StepCounter) -> Made:
    """A picture painted over the input image, within the mask if there is one."""
    image, mask = sources.needed(), sources.mask
    wanted = (config.width or image.width, config.height or image.height)
    check_size(wanted)
    size, mode = floor_to_grid(wanted), config.resize_mode or 0
    before = fit(image, size, mode)
    after = paint(scene_of(config, seed), size, counter.tick)
    denoise = DEFAULT_DENOISE if config.denoise is None else config.denoise
    if mask is None:
        return Made(blend(before, after, denoise), size)
    where = fit(mask, size, mode).convert("L").point(fading(part_of_255(denoise)))
    return Made(Image.composite(after, before, where), size)


def make_adetailer(
    config: AdetailerConfig, seed: int, sources: Sources, counter: StepCounter
) -> Made:
    """The input image with its finds painted anew."""
    image = sources.needed()
    result, regions = detailed(image, config, seed, counter)
    changed = ImageChops.difference(image, result).getbbox() is not None
    return Made(result, image.size, {"changed": changed, "regions": regions})


def make_upscale(config: UpscaleConfig, _: int, sources: Sources, counter: StepCounter) -> Made:
    """The input image, larger."""
    image = sources.needed()
    if config.upscale_first:
        image = _with_restored_faces(upscaled(image, config), config)
    else:
        image = upscaled(_with_restored_faces(image, config), config)
    counter.tick()
    return Made(image, image.size)


def _with_restored_faces(image: Image.Image, config: UpscaleConfig) -> Image.Image:
    """Faces smoothed: lightly by GFPGAN, the more by CodeFormer the less its weight."""
    if config.gfpgan_visibility:
        image = _smoothed_faces(image, 1, config.gfpgan_visibility)
    if config.codeformer_visibility:
        radius = 1 + (255 - part_of_255(config.codeformer_weight or 0.0)) // 32
        image = _smoothed_faces(image, radius, config.codeformer_visibility)
    return image


def _smoothed_faces(image: Image.Image, radius: int, visibility: float) -> Image.Image:
    result = image.copy()
    for find in find_faces(image):
        part = image.crop(find.box)
        smooth = blend(part, part.filter(ImageFilter.BoxBlur(radius)), visibility)
        result.paste(smooth, find.box[:2], face_mask(image, find.box))
    return result
