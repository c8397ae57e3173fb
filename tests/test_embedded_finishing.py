"""The embedded backend's upscale and adetailer: what they change, and what they leave alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from PIL import Image, ImageChops
from stagewright.adapters.backends.embedded import EmbeddedBackend
from stagewright.statemachine.run.cancel_token import CancelToken
from stagewright.statemachine.stages import AdetailerPass, UpscaleConfig

from .pictures import (
    ADETAILER,
    FACE,
    TXT2IMG,
    UPSCALE,
    Steps,
    answer,
    changed,
    made,
    opened,
    request,
    same_pixels,
    source,
)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (UpscaleConfig(upscaler="Lanczos", factor=2.0), (192, 256)),
        (UpscaleConfig(upscaler="Lanczos", factor=1.3), (120, 160)),
        (UpscaleConfig(upscaler="Lanczos", width=160, height=160, crop=True), (160, 160)),
        (UpscaleConfig(upscaler="Lanczos", width=160, height=160, crop=False), (160, 208)),
    ],
)
def test_upscale_gives_the_size_of_the_plan(config: UpscaleConfig, size: tuple[int, int]) -> None:
    """By factor or to a stated size, the size is that of the plan."""
    assert made(config, made(TXT2IMG)).size == size


def test_each_upscaler_has_its_own_pixels() -> None:
    """Names choose filters: plain ones are Pillow's, and no two names here agree."""
    before = made(TXT2IMG)
    names = ["Nearest", "Lanczos", "R-ESRGAN 4x+", "4x-UltraSharp", "Latent", "ScuNET"]
    results = {name: made(changed(UPSCALE, upscaler=name), before) for name in names}
    assert len({image.tobytes() for image in results.values()}) == len(names)
    plain = before.resize((192, 256), Image.Resampling.NEAREST)
    assert same_pixels(results["Nearest"], plain)


def test_every_extra_of_upscale_shows_in_the_pixels(face: Image.Image) -> None:
    """A second upscaler and face restoration change the picture, and nobody's size."""
    extras: list[dict[str, Any]] = [
        {},
        {"upscaler_2": "Nearest", "upscaler_2_visibility": 0.5},
        {"gfpgan_visibility": 1.0},
        {"codeformer_visibility": 1.0},
        {"codeformer_visibility": 1.0, "codeformer_weight": 0.5},
        {"gfpgan_visibility": 1.0, "upscale_first": True},
    ]
    enlarged = [made(changed(UPSCALE, factor=1.0, **fields), face) for fields in extras]
    assert {image.size for image in enlarged} == {face.size}
    assert len({image.tobytes() for image in enlarged}) == len(extras)


@pytest.mark.parametrize("seed", range(6))
def test_adetailer_changes_the_face_and_nothing_else(seed: int) -> None:
    """A face is found in every picture of ours; outside the reported boxes no pixel moves."""
    before = made(changed(TXT2IMG, width=192, height=256, prompt=f"portrait {seed}"), seed=seed)
    result = answer(request(ADETAILER, source(before), seed=seed))
    after = opened(result)
    assert after.size == before.size
    assert result.info["changed"] is True
    [[box]] = result.info["regions"]
    moved = ImageChops.difference(before, after).getbbox()
    assert moved is not None
    assert box[0] <= moved[0] <= moved[2] <= box[2]
    assert box[1] <= moved[1] <= moved[3] <= box[3]
    assert box[2] - box[0] < before.width * 3 // 4


def test_a_picture_without_a_face_comes_back_unchanged() -> None:
    """Nothing found: the very pixels, no regions, and ``changed`` says so."""
    for colour in ("#808080", "#e2ae8a"):
        before = Image.new("RGB", (128, 128), colour)
        result = answer(request(ADETAILER, source(before)))
        assert same_pixels(opened(result), before)
        assert result.info["changed"] is False
        assert result.info["regions"] == [[]]


def test_passes_that_let_nothing_through_change_nothing(face: Image.Image) -> None:
    """Where no find, or nothing of it, is left, the input comes back."""
    for one in (
        AdetailerPass(model="hand_yolov8n.pt"),
        AdetailerPass(model="face_yolov8n.pt", confidence=1.0),
        AdetailerPass(model="face_yolov8n.pt", mask_min_ratio=0.9),
        AdetailerPass(model="face_yolov8n.pt", mask_max_ratio=0.001),
        AdetailerPass(model="face_yolov8n.pt", denoise=0.0),
        AdetailerPass(model="face_yolov8n.pt", x_offset=10**6),
    ):
        result = answer(request(changed(ADETAILER, passes=(one,)), source(face)))
        assert same_pixels(opened(result), face), one
        assert result.info["changed"] is False


def test_every_setting_of_a_pass_shows_in_the_pixels(face: Image.Image) -> None:
    """Changing any one setting of a pass changes what it paints."""
    settings: list[dict[str, Any]] = [
        {"prompt": "blue eyes"},
        {"negative_prompt": "freckles"},
        {"classes": "woman"},
        {"denoise": 0.6},
        {"dilate_erode": 24},
        {"dilate_erode": -24},
        {"mask_blur": 16},
        {"x_offset": 10},
        {"y_offset": 10},
        {"merge": "Merge and Invert"},
        {"only_masked": False},
        {"padding": 64},
        {"width": 256, "height": 256},
        {"steps": 9},
        {"cfg_scale": 5.0},
        {"sampler": "Heun"},
        {"checkpoint": "other"},
        {"model": "person_yolov8n-seg.pt"},
        {"model": "mediapipe_face_full"},
    ]
    plain = made(ADETAILER, face)
    for fields in settings:
        other = msgspec.structs.replace(FACE, **fields)
        assert not same_pixels(plain, made(changed(ADETAILER, passes=(other,)), face)), fields


def test_passes_follow_one_another_and_report_their_own_regions(face: Image.Image) -> None:
    """Each pass works on what the one before left, and its steps count whatever it finds."""
    steps = Steps()
    passes = (FACE, AdetailerPass(model="hand", steps=3), AdetailerPass(model="person"))
    asked = request(changed(ADETAILER, passes=passes), source(face))
    result = EmbeddedBackend().generate_images(asked, cancel=CancelToken(), on_step=steps)
    assert [len(boxes) for boxes in result.info["regions"]] == [1, 0, 1]
    assert steps.told[-1] == (11, 11)
    assert "ADetailer model 2nd" in result.info["extra_generation_params"]
