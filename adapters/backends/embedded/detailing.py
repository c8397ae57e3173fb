"""Detailing: repaints what a detector finds, and nothing else."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image

from ....statemachine.stages import AdetailerConfig, AdetailerPass
from .canvas import Box, fading
from .masks import chosen_finds, mask_of, merged_masks
from .repainting import repainted
from .resampling import part_of_255
from .settings import DEFAULT_PASS_DENOISE, Scene, pass_scene_of
from .steps import StepCounter


class Detailed(NamedTuple):
    """A picture after all passes, and the boxes of each pass; pixels outside are unchanged."""

    image: Image.Image
    regions: list[list[list[int]]]


def detailed(
    image: Image.Image, config: AdetailerConfig, seed: int, counter: StepCounter
) -> Detailed:
    """All passes of ``config`` in order. Raises GenerationCancelled."""
    regions = []
    for one in config.passes:
        counter.check()
        image, boxes = _after_pass(image, one, pass_scene_of(config, one, seed), counter)
        regions.append([list(box) for box in boxes])
    return Detailed(image, regions)


def _after_pass(
    image: Image.Image, one: AdetailerPass, scene: Scene, counter: StepCounter
) -> tuple[Image.Image, list[Box]]:
    finds = chosen_finds(image, one)
    masks = merged_masks([mask_of(image, find, one) for find in finds], one)
    boxes = [box for box in (mask.getbbox() for mask in masks) if box is not None]
    if not boxes:
        counter.skip(scene.steps)
        return image, []
    painted = repainted(image, finds, one, scene, counter.tick)
    # At the usual denoise of 0.4 the new face has all but replaced the old one.
    rest = 255 - part_of_255(DEFAULT_PASS_DENOISE if one.denoise is None else one.denoise)
    strength = 255 - rest**3 // 255**2
    for mask in masks:
        image = Image.composite(painted, image, mask.point(fading(strength)))
    return image, boxes
