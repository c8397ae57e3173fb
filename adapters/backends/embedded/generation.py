"""Makes one picture for one seed, for each type of stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from msgspec.structs import replace
from PIL import Image, ImageChops, ImageFilter

from ....statemachine.stages import (
    AdetailerConfig,
    Img2ImgConfig,
    StageConfig,
    Txt2ImgConfig,
    UpscaleConfig,
)
from ....statemachine.stages.sizes import Dimensions, floor_to_grid
from ...imaging import pillow_settings
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


def _txt2img(config: Txt2ImgConfig, seed: int, _: Sources, counter: StepCounter) -> Made:
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


def _img2img(config: Img2ImgConfig, seed: int, sources: Sources, counter: StepCounter) -> Made:
    image, mask = sources.needed(), sources.mask
    wanted = (config.width or image.width, config.height or image.height)
    check_size(wanted)
    size, mode = floor_to_grid(wanted), config.resize_mode or 0
    before = fit(image, size, mode)
    if mask is None:
        config = replace(config, mask_content=None, mask_area=None, mask_padding=None)
    after = paint(scene_of(config, seed), size, counter.tick)
    denoise = DEFAULT_DENOISE if config.denoise is None else config.denoise
    if mask is None:
        return Made(blend(before, after, denoise), size)
    where = fit(mask, size, mode).convert("L")
    if config.mask_invert:
        where = ImageChops.invert(where)
    if config.mask_blur:
        where = where.filter(ImageFilter.BoxBlur(config.mask_blur))
    where = where.point(fading(part_of_255(denoise)))
    return Made(Image.composite(after, before, where), size)


def _adetailer(config: AdetailerConfig, seed: int, sources: Sources, counter: StepCounter) -> Made:
    image = sources.needed()
    result, regions = detailed(image, config, seed, counter)
    changed = ImageChops.difference(image, result).getbbox() is not None
    return Made(result, image.size, {"changed": changed, "regions": regions})


def _upscale(config: UpscaleConfig, _: int, sources: Sources, counter: StepCounter) -> Made:
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


_MAKERS: Mapping[str, Callable[[Any, int, Sources, StepCounter], Made]] = {
    "txt2img": _txt2img,
    "img2img": _img2img,
    "upscale": _upscale,
    "adetailer": _adetailer,
}
"""The stages that the backend serves."""


def make(config: StageConfig, seed: int, sources: Sources, counter: StepCounter) -> Made:
    """The picture of one seed.

    Raises GenerationCancelled, and PictureError for a stage that the backend does not serve, a
    size out of bounds or a lacking image.
    """
    maker = _MAKERS.get(config.stage_type)
    if maker is None:
        raise PictureError(f"the embedded backend does not serve the stage {config.stage_type!r}")
    with pillow_settings:
        return maker(config, seed, sources, counter)
