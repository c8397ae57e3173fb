"""The embedded backend's txt2img and img2img: pictures are a pure function of the request."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from PIL import Image, ImageChops
from stagewright.statemachine.stages import HiresConfig, RefinerConfig, StageConfig, Txt2ImgConfig

from .pictures import (
    HIRES,
    IMG2IMG,
    TXT2IMG,
    answer,
    changed,
    distance,
    made,
    request,
    same_pixels,
)


@pytest.mark.parametrize("config", [TXT2IMG, changed(TXT2IMG, hires=HIRES)])
def test_a_batch_gives_what_single_requests_give(config: Txt2ImgConfig) -> None:
    """Image k of a batch has the bytes of a request for its seed alone."""
    batch = answer(request(changed(config, batch_size=3), count=3))
    for place in range(3):
        single = answer(request(config, seed=42 + place))
        assert batch.images[place] == single.images[0]
    assert batch.info["all_seeds"] == [42, 43, 44]


def assert_all_differ(before: StageConfig, configs: list[StageConfig]) -> None:
    """Each configuration makes another picture than ``before``."""
    plain = made(before)
    for config in configs:
        assert not same_pixels(plain, made(config)), config


def test_every_setting_of_txt2img_shows_in_the_pixels() -> None:
    """Changing any one setting changes the picture."""
    settings: list[dict[str, Any]] = [
        {"prompt": "a garden"},
        {"negative_prompt": "sharp"},
        {"model": "other.safetensors"},
        {"vae": "some.vae"},
        {"clip_skip": 2},
        {"sampler": "DPM++ 2M"},
        {"scheduler": "Karras"},
        {"steps": 7},
        {"cfg_scale": 7.5},
        {"width": 104},
        {"height": 136},
        {"tiling": True},
        {"restore_faces": True},
        {"styles": ("ink",)},
        {"refiner": RefinerConfig(model="r", switch_at=0.5)},
        {"refiner": RefinerConfig(model="r", switch_at=0.8)},
        {"hires": HIRES},
    ]
    assert_all_differ(TXT2IMG, [changed(TXT2IMG, **fields) for fields in settings])


def test_every_setting_of_hires_shows_in_the_pixels() -> None:
    """Changing any one setting of the second pass changes the picture."""
    settings: list[dict[str, Any]] = [
        {"upscaler": "4x-UltraSharp"},
        {"scale": 2.0},
        {"steps": 4},
        {"denoise": 0.6},
        {"sampler": "Heun"},
        {"scheduler": "Exponential"},
        {"model": "refiner.safetensors"},
        {"prompt": "a garden"},
        {"negative_prompt": "sharp"},
    ]
    others = [msgspec.structs.replace(HIRES, **fields) for fields in settings]
    before = changed(TXT2IMG, hires=HIRES)
    assert_all_differ(before, [changed(TXT2IMG, hires=hires) for hires in others])


def test_disabled_tables_and_spellings_of_numbers_change_nothing() -> None:
    """A refiner and a hires that are switched off, and 7 for 7.0, give the same pixels."""
    off = changed(
        TXT2IMG,
        cfg_scale=7,
        refiner=RefinerConfig(enabled=False, model="r", switch_at=0.5),
        hires=msgspec.structs.replace(HIRES, enabled=False),
    )
    assert same_pixels(made(off), made(TXT2IMG))


@pytest.mark.parametrize(
    ("hires", "size"),
    [
        (HiresConfig(scale=1.5, denoise=0.4), (144, 192)),
        (HiresConfig(scale=1.3, denoise=0.4), (120, 160)),
        (HiresConfig(resize_x=144, denoise=0.4), (144, 192)),
        (HiresConfig(resize_y=160, denoise=0.4), (120, 160)),
        (HiresConfig(resize_x=160, resize_y=160, denoise=0.4), (160, 160)),
    ],
)
def test_hires_gives_the_size_of_the_plan(hires: HiresConfig, size: tuple[int, int]) -> None:
    """By scale or to one or two stated sides, the size is that of the plan."""
    assert made(changed(TXT2IMG, hires=hires)).size == size


def test_img2img_without_denoise_keeps_every_pixel() -> None:
    """A denoise of 0 gives back the input, cut to the grid by nothing but its size."""
    before = made(TXT2IMG)
    assert same_pixels(made(changed(IMG2IMG, denoise=0.0), before), before)


def test_img2img_with_full_denoise_is_txt2img() -> None:
    """A denoise of 1 gives the picture that txt2img gives for the same settings and size."""
    alone = Txt2ImgConfig(
        prompt=IMG2IMG.prompt or "",
        seed=7,
        model=IMG2IMG.model,
        sampler=IMG2IMG.sampler,
        steps=IMG2IMG.steps,
        cfg_scale=7.0,
        width=96,
        height=128,
    )
    after = made(changed(IMG2IMG, denoise=1.0), Image.new("RGB", (96, 128), "red"), seed=7)
    assert same_pixels(after, made(alone, seed=7))


def test_img2img_moves_away_from_its_input_as_denoise_grows() -> None:
    """The distance from the input grows with denoise."""
    before = made(TXT2IMG)
    config = changed(IMG2IMG, model="another")
    moved = [
        distance(before, made(changed(config, denoise=fifth / 5), before, seed=9))
        for fifth in range(6)
    ]
    assert moved[0] == 0
    assert moved == sorted(set(moved))


def test_a_mask_confines_the_change() -> None:
    """Where the mask is black no pixel changes; where it is white the picture does."""
    before = made(TXT2IMG)
    mask = Image.new("L", before.size)
    mask.paste(255, (16, 24, 56, 72))
    after = made(changed(IMG2IMG, denoise=0.9), before, seed=9, mask=mask)
    assert ImageChops.difference(before, after).getbbox() == (16, 24, 56, 72)


def test_img2img_takes_the_size_that_is_set() -> None:
    """Every resize mode ends at the configured size, each with pixels of its own."""
    before = made(TXT2IMG)
    config = changed(IMG2IMG, width=160, height=96, denoise=0.0)
    resized = [made(changed(config, resize_mode=mode), before) for mode in range(4)]
    assert {image.size for image in resized} == {(160, 96)}
    assert len({image.tobytes() for image in resized}) == 4
