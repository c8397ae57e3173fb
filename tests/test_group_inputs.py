"""What a group found when it began is what its variants use, however it changes afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stagewright.events import RunOpened, RunState, replay
from stagewright.statemachine import CancelToken, GenerateRequest, GroupResult

from .resuming import painter, removed, rewritten, small
from .support import TXT2IMG, controller, png
from .test_group_logs import forge, forget_runs

Alter = Callable[[Path], None]
Portrait = list[Any]
SOURCES = ("wildcards/colour.txt", "rows.txt", "given.png", "mask.png")
"""The files that configurations name; each has one configuration."""


def configuration(folder: Path, source: str) -> Path:
    """A configuration that names a file, and the file."""
    folder.mkdir()
    (folder / source).parent.mkdir(exist_ok=True)
    config = small(images=2, txt2img=TXT2IMG)
    if source.startswith("wildcards"):
        (folder / source).write_text("red\ngreen\nblue\nblack\nwhite\n")
        config |= {"dynamic_prompts": True, "prompt": "a __colour__ house"}
    elif source.endswith(".txt"):
        (folder / source).write_text("a cat\na dog\na cow\n")
        del config["prompt"]
        config["prompts"] = source
    else:
        (folder / "given.png").write_bytes(png(1))
        config = small("img2img", images=2, input_image="given.png")
        if source == "mask.png":
            (folder / source).write_bytes(png(2, mode="L"))
            config["img2img"]["mask"] = source
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


def axis_of(source: str) -> str:
    """The axis of the configuration of a file."""
    return "txt2img.cfg_scale=5,6" if source.endswith(".txt") else "img2img.denoise=0.3,0.4"


def portrait(runs: Path, result: GroupResult) -> Portrait:
    """Of each variant, the prompts, inputs, seeds and pictures of its run."""
    assert result.state == RunState.COMPLETED, result
    shown = []
    for variant in result.variants:
        run = replay(runs / (variant.run_id or ""))
        opened = run.events[0]
        assert isinstance(opened, RunOpened)
        inputs = [(one.path, one.sha256, one.original) for one in opened.inputs]
        pictures = [image.source_sha256 for image in run.images]
        shown.append((opened.prompts, inputs, run.seeds, pictures))
    return shown


@pytest.fixture(scope="module", params=SOURCES)
def source(request: pytest.FixtureRequest) -> str:
    """A file that a configuration names."""
    return str(request.param)


@pytest.fixture(scope="module")
def expected(source: str, tmp_path_factory: pytest.TempPathFactory) -> Portrait:
    """What comes of it where nothing changes."""
    folder = tmp_path_factory.mktemp("unchanged")
    config = configuration(folder / "given", source)
    handle = controller(folder / "runs", painter()).start_group(config, vary=[axis_of(source)])
    return portrait(folder / "runs", handle.wait(30))


@pytest.mark.parametrize("alter", [rewritten, removed])
def test_a_file_that_changes_after_the_start_changes_nothing(
    source: str, alter: Alter, expected: Portrait, tmp_path: Path
) -> None:
    """Neither for the variants that begin later, nor for those that a resume begins or makes."""
    config, axis = configuration(tmp_path / "given", source), axis_of(source)
    altered: list[str] = []

    def change(request: GenerateRequest, _cancel: CancelToken) -> None:
        if not altered:
            altered.append(request.call_id)
            alter(config.parent / source)

    runs = tmp_path / "runs"
    handle = controller(runs, painter(change)).start_group(config, vary=[axis])
    assert portrait(runs, handle.wait(30)) == expected
    assert altered
    forget_runs(runs, 1)
    forge(
        runs, lambda bodies: bodies[:3]
    )  # as if it had died while it made the folder of its second run
    backend = painter()
    handle = controller(runs, backend).resume_group("last-group")
    assert portrait(runs, handle.wait(30)) == expected
    assert len(backend.requests) == len(expected[0][-1])
