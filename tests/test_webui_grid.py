"""Servers whose model works on a coarser grid than 8 give images of other sizes than asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from stagewright.adapters import open_controller
from stagewright.events import RunState
from stagewright.statemachine.resume.verify import verify_run

from . import webui_faults as faults
from .resuming import FOUR, small
from .webui_server import ScriptedWebUI

HIRES = {"upscaler": "Latent", "scale": 2.0, "denoise": 0.4}


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@pytest.mark.parametrize(("grid", "fails_at"), [(16, 2), (64, 0), (64, 6)])
def test_later_stages_and_a_resume_follow_the_size_that_the_server_gave(
    tmp_path: Path, grid: int, fails_at: int
) -> None:
    """Each stage goes on from the image that it got, wherever the run was cut."""
    config = small(*FOUR, images=2, server={"retries": 0})
    config["txt2img"] |= {"width": 72, "height": 40, "hires": HIRES}
    with ScriptedWebUI() as server:
        server.painter.grid = grid
        server.on(fails_at, faults.server_error("KeyError", "broken"))
        controller = open_controller(tmp_path, server.url)
        handle = controller.start(config)
        assert handle.wait(30).state is RunState.ERROR
        result = controller.resume(handle.run_id).wait(30)
    assert result.state is RunState.COMPLETED, result.error
    width, height = (2 * -(-side // grid) * grid for side in (72, 40))
    factor = config["upscale"]["factor"]
    large = (int(width * factor), int(height * factor))
    images = (tmp_path / result.run_id / "images").glob("*/*.png")
    assert {size_of(path) for path in images} == {(width, height), large}
    assert verify_run(tmp_path / result.run_id).sound


@pytest.mark.parametrize(
    ("reported", "made", "is_used"),
    [((80, 48), (80, 48), True), ((72, 40), (80, 48), False), ((80, 48), (88, 48), False),
     ((144, 40), (144, 40), False)],
)  # fmt: skip
def test_another_size_counts_only_where_the_server_reports_it(
    tmp_path: Path, reported: tuple[int, int], made: tuple[int, int], is_used: bool
) -> None:
    """And only if it is near the size that was asked for."""
    config = small("txt2img", images=1, server={"retries": 0})
    config["txt2img"] |= {"width": 72, "height": 40}

    def alter(exchange: Any) -> None:
        body = dict(zip(("width", "height"), made, strict=True))
        exchange.body |= body
        told = dict(zip(("width", "height"), reported, strict=True))
        faults.alters_info(lambda info: info.update(told))(exchange)

    with ScriptedWebUI() as server:
        server.on(0, alter)
        result = open_controller(tmp_path, server.url).start(config).wait(30)
    assert (result.error is None) is is_used, result.error
