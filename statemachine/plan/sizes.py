"""The sizes that images take on their way through a plan, in pixels."""

from __future__ import annotations

import msgspec

from ..config.schema import InputImage
from ..config.stage_configs import HiresConfig, UpscaleTable

GRID = 8
"""Servers cut every size to a multiple of this."""

MAX_PIXELS = 178_956_970
"""Of any image, in or out: Pillow's own limit, larger than any upscale that a server answers."""

_HAIR = 1e-6
"""A product such as 24 * 1.3333333333 may fall this far from the whole number that it is."""

Dimensions = tuple[int, int]


class SizeTrack(msgspec.Struct):
    """Follows one image through the stages; ``now`` is None while its size is not known.

    Sizes that follow from others are floored to multiples of 8, with a warning that says so.
    """

    now: Dimensions | None = None
    warnings: list[str] = []

    def state(self, width: int | None, height: int | None) -> None:
        """A stage states its size; what it leaves open stays as it was, on the grid."""
        if self.now is None:
            self.now = (width, height) if width and height else None
            return
        if width is None or height is None:
            self.floor("input", (width or self.now[0], height or self.now[1]))
        else:
            self.now = (width, height)

    def hires(self, hires: HiresConfig) -> None:
        """The second pass: by a factor, or to a size of which one side may be open."""
        if self.now is None:
            return
        width, height = self.now
        if hires.scale is not None:
            self.floor("txt2img.hires.scale", (width * hires.scale, height * hires.scale))
        elif hires.resize_x and hires.resize_y:
            self.now = (hires.resize_x, hires.resize_y)
        elif hires.resize_x:
            self.floor("txt2img.hires.resize_x", (hires.resize_x, height * hires.resize_x / width))
        elif hires.resize_y:
            self.floor("txt2img.hires.resize_y", (width * hires.resize_y / height, hires.resize_y))

    def upscale(self, upscale: UpscaleTable) -> None:
        """By a factor, or to a stated size, which without ``crop`` is covered."""
        if upscale.width and upscale.height:
            wanted = (upscale.width, upscale.height)
            if upscale.crop is not False:
                self.now = wanted
            elif self.now is not None:
                ratio = max(part / whole for part, whole in zip(wanted, self.now, strict=True))
                self.floor("upscale.crop", (self.now[0] * ratio, self.now[1] * ratio))
        elif upscale.factor is not None and self.now is not None:
            width, height = self.now
            self.floor("upscale.factor", (width * upscale.factor, height * upscale.factor))

    def floor(self, cause: str, size: tuple[float, float]) -> None:
        """Put ``size``, which follows from ``cause``, on the grid."""
        floored = floor_to_grid(size)
        if any(abs(made - side) > _HAIR for made, side in zip(floored, size, strict=True)):
            self.warnings.append(
                f"{cause}: {size[0]:g}x{size[1]:g} is made {floored[0]}x{floored[1]}, "
                f"multiples of {GRID}"
            )
        self.now = floored


class SizeTracks:
    """Follows images of one or more sizes through the stages, together."""

    def __init__(self) -> None:
        self._tracks = [SizeTrack(warnings=[])]

    def begin_with(self, inputs: tuple[InputImage, ...]) -> None:
        """Take the inputs' sizes, each once."""
        sizes = dict.fromkeys((image.width, image.height) for image in inputs)
        if sizes:
            self._tracks = [SizeTrack(now=size, warnings=[]) for size in sizes]

    @property
    def now(self) -> Dimensions | None:
        """The size that all images have, or None where it is not known or not one."""
        sizes = {track.now for track in self._tracks}
        return sizes.pop() if len(sizes) == 1 else None

    def state(self, width: int | None, height: int | None) -> None:
        """See ``SizeTrack``, here and below."""
        for track in self._tracks:
            track.state(width, height)

    def hires(self, hires: HiresConfig) -> None:
        for track in self._tracks:
            track.hires(hires)

    def upscale(self, upscale: UpscaleTable) -> None:
        for track in self._tracks:
            track.upscale(upscale)

    def warnings(self) -> list[str]:
        """What was floored, said once for every size."""
        return list(dict.fromkeys(line for track in self._tracks for line in track.warnings))


def floor_to_grid(size: tuple[float, float]) -> Dimensions:
    """The largest multiples of 8 that are no larger, and no smaller than 8."""
    width, height = (max(GRID, int(side + _HAIR) // GRID * GRID) for side in size)
    return width, height
