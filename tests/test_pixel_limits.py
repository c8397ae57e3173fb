"""The limit of pixels, for inputs and results, and the variable that sets another one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from stagewright.statemachine import (
    ConfigurationError,
    InvalidStagePlanError,
    build_stage_execution_plan,
)

from .command_line import stagewright, write_config
from .input_images import (
    saved,
)
from .support import controller, document, png

pytestmark = pytest.mark.lowest


@pytest.mark.parametrize(
    ("stages", "tables", "size"),
    [
        (["txt2img"], {"txt2img": {"width": 16_000, "height": 16_000}}, "16000x16000"),
        (
            ["txt2img"],
            {"txt2img": {"hires": {"scale": 60.0, "denoise": 0.5}, "width": 256, "height": 256}},
            "15360x15360",
        ),
        (["txt2img"], {"txt2img": {"hires": {"resize_x": 16_000, "denoise": 0.5}}}, "16000x16000"),
        (["txt2img", "img2img"], {"img2img": {"width": 16_000, "height": 16_000}}, "16000x16000"),
        (
            ["txt2img", "upscale", "adetailer"],
            {"txt2img": {"width": 512, "height": 512}, "upscale": {"factor": 32.0}},
            "16384x16384",
        ),
    ],
)
def test_results_beyond_the_limit_are_refused_in_the_plan(
    stages: list[str], tables: dict[str, Any], size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names stage, size and limit; the variable raises the limit."""
    config = document(*stages)
    for stage, table in tables.items():
        config[stage] = config[stage] | table
    with pytest.raises(InvalidStagePlanError) as caught:
        build_stage_execution_plan(config)
    assert str(caught.value) == (
        f"{caught.value.key} makes images of {size}: more than 178956970 pixels; "
        "STAGEWRIGHT_MAX_PIXELS sets this limit"
    )
    assert caught.value.key in stages
    monkeypatch.setenv("STAGEWRIGHT_MAX_PIXELS", "3000000000")
    assert build_stage_execution_plan(config).stages


def test_the_limit_holds_for_each_input_of_a_folder(tmp_path: Path) -> None:
    """A large input among small ones is named by the size that it would reach."""
    (tmp_path / "images").mkdir()
    for name, size in {"a.png": (64, 64), "b.png": (4000, 3000)}.items():
        (tmp_path / "images" / name).write_bytes(png(1, size))
    config = write_config(
        tmp_path, 'input_image = "images"\n[upscale]\nupscaler = "Lanczos"\nfactor = 4.0\n'
    )
    done = stagewright("plan", config, folder=tmp_path)
    assert done.returncode == 2
    assert "upscale makes images of 16000x12000: more than 178956970 pixels" in done.stderr


def test_a_raised_limit_holds_for_inputs_too(tmp_path: Path) -> None:
    """Above Pillow's own limit as well; a lower one refuses what is usually accepted."""
    (tmp_path / "in.png").write_bytes(saved("PNG", Image.new("1", (14_000, 13_000))))
    config = write_config(
        tmp_path, 'input_image = "in.png"\n[upscale]\nupscaler = "Lanczos"\nfactor = 0.5\n'
    )
    for value, status in {"": 2, "200000000": 0, "1000000": 2}.items():
        environment = {**os.environ, "STAGEWRIGHT_MAX_PIXELS": value}
        done = stagewright("plan", config, folder=tmp_path, env=environment)
        assert (done.returncode, done.stderr == "") == (status, status == 0), done.stderr


@pytest.mark.parametrize("value", ["many", "0", "-1", "1e9", "9" * 5000, "²"])
@pytest.mark.parametrize("stage", ["txt2img", "upscale"])
def test_a_wrong_limit_is_named(
    tmp_path: Path, value: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must be a whole number of pixels; no input is blamed."""
    (tmp_path / "in.png").write_bytes(saved("PNG"))
    monkeypatch.setenv("STAGEWRIGHT_MAX_PIXELS", value)
    words = r"^STAGEWRIGHT_MAX_PIXELS = .* must be a whole number"
    with pytest.raises(ConfigurationError, match=words):
        controller(tmp_path).validate(document(stage, input_image=str(tmp_path / "in.png")))
