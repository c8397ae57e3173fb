"""Resume and what images are made from: copied inputs, masks, and images that failed before."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from stagewright.events import (
    CallRequested,
    RunState,
    replay,
)
from stagewright.events.errors import ImageAlteredError
from stagewright.statemachine import BackendError, CancelToken, GenerateRequest

from .resuming import (
    FOUR,
    STAGE_IDS,
    asked,
    check_story,
    comparable,
    cut_before,
    files,
    linked,
    only,
    painter,
    ran,
    removed,
    resumed,
    rewritten,
    small,
)
from .support import png

# ---------------------------------------------------------------- inputs


def input_folder(folder: Path, count: int = 2) -> Path:
    """A folder of input images."""
    folder.mkdir()
    for place in range(count):
        (folder / f"{place}.png").write_bytes(png(place))
    return folder


def from_inputs(tmp_path: Path, *stages: str) -> Path:
    """A run that is made from two input images, and ended."""
    where = input_folder(tmp_path / "given")
    return ran(tmp_path / "runs", small(*stages, images=1, input_image=str(where)))


def input_copies(folder: Path) -> list[Path]:
    """The copies of a run's inputs."""
    return sorted(path for path in (folder / "inputs").iterdir() if path.is_file())


@pytest.mark.parametrize("damage", [removed, rewritten, linked])
def test_a_needed_copy_of_an_input_that_is_gone_is_said_and_nothing_written(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """ImageAlteredError names the file; put back, the run goes on."""
    folder = from_inputs(tmp_path, "img2img", "upscale")
    expected = comparable(replay(folder))
    cut_before(folder, CallRequested, 1)
    copy = input_copies(folder)[1]
    data = copy.read_bytes()
    damage(copy)
    before = files(folder)
    with pytest.raises(ImageAlteredError, match=copy.name):
        resumed(folder)
    assert files(folder) == before
    copy.unlink(missing_ok=True)
    copy.write_bytes(data)
    assert comparable(resumed(folder)) == expected


@pytest.mark.parametrize("damage", [removed, rewritten])
@pytest.mark.parametrize(
    ("stages", "requests", "gone"),
    [(("img2img", "upscale"), 2, slice(None)), (("img2img",), 1, slice(1))],
    ids=["only upscales are left", "the image of the other input is left"],
)
def test_a_copy_of_an_input_that_no_image_needs_any_more_may_be_gone(
    tmp_path: Path,
    damage: Callable[[Path], None],
    stages: tuple[str, ...],
    requests: int,
    gone: slice,
) -> None:
    """All images that are made from it are there."""
    folder = from_inputs(tmp_path, *stages)
    expected = comparable(replay(folder))
    cut_before(folder, CallRequested, requests)
    for copy in input_copies(folder)[gone]:
        damage(copy)
    assert comparable(resumed(folder)) == expected


def test_the_given_inputs_and_configuration_are_not_looked_at(tmp_path: Path) -> None:
    """The recorded plan and copies count, whatever has become of the originals."""
    where = input_folder(tmp_path / "given")
    folder = ran(tmp_path / "runs", small("img2img", images=1, input_image=str(where)))
    expected = comparable(replay(folder))
    cut_before(folder, CallRequested, 1)
    (where / "0.png").write_bytes(png(99))
    (where / "1.png").unlink()
    backend = painter()
    assert comparable(resumed(folder, backend)) == expected
    assert backend.requests[0].inputs[0].data == png(1)


def masked(tmp_path: Path, *stages: str) -> Path:
    """A run whose img2img has a mask."""
    mask = tmp_path / "mask.png"
    mask.write_bytes(png(7, mode="L"))
    config = small(*stages, images=2 if "txt2img" in stages else 1)
    config["img2img"] = {**config["img2img"], "mask": str(mask)}
    if "txt2img" not in stages:
        config["input_image"] = str(input_folder(tmp_path / "given"))
    folder = ran(tmp_path / "runs", config)
    mask.unlink()
    return folder


@pytest.mark.parametrize("stages", [("img2img",), ("txt2img", "img2img")])
def test_a_mask_is_taken_from_its_copy(tmp_path: Path, stages: tuple[str, ...]) -> None:
    """The requests of the resumed run have the same digests."""
    folder = masked(tmp_path, *stages)
    expected = replay(folder)
    told, last = comparable(expected), only(expected.events, CallRequested)[-1]
    cut_before(folder, CallRequested, len(stages) * 2 - 1)
    backend = painter()
    result = resumed(folder, backend)
    assert comparable(result) == told
    (request,) = backend.requests
    assert request.mask is not None
    assert request.mask.data == png(7, mode="L")
    assert request.request_sha256 == last.request_sha256


def test_inputs_from_another_run_do_not_need_that_run_any_more(tmp_path: Path) -> None:
    """They were copied; their parent may be gone."""
    runs = tmp_path / "runs"
    parent = ran(runs, small())
    folder = ran(runs, small("img2img", images=1, input_image=f"run:{parent.name}"))
    expected = comparable(replay(folder))
    shutil.rmtree(parent)
    cut_before(folder, CallRequested, 1)
    assert comparable(resumed(folder)) == expected


# ---------------------------------------------------------------- on_image_error = continue


def continuing(tmp_path: Path, *places: tuple[str, int]) -> Path:
    """A run that went on past these failures."""

    def script(request: GenerateRequest, _cancel: CancelToken) -> None:
        if (request.stage_id, request.image_index) in places:
            raise BackendError("the GPU fell off")

    config = small(*FOUR, images=3, run={"on_image_error": "continue"})
    return ran(tmp_path, config, painter(script))


@pytest.mark.parametrize(
    "places",
    [
        [("00-txt2img", 0)],
        [("00-txt2img", 2), ("02-upscale", 1)],
        [("01-img2img", index) for index in range(3)],
        [("00-txt2img", index) for index in range(3)],
    ],
    ids=["first", "two stages", "all of one", "all of the first"],
)
def test_resume_tries_what_a_partial_run_lacks(
    tmp_path: Path, places: list[tuple[str, int]]
) -> None:
    """Those images and what descends from them, no other; the outcome becomes completed."""
    expected = replay(ran(tmp_path / "whole", small(*FOUR, images=3)))
    folder = continuing(tmp_path, *places)
    assert replay(folder).outcome == "partial"
    backend = painter()
    result = resumed(folder, backend)
    wanted = {
        (stage_id, index)
        for failed, index in places
        for stage_id in STAGE_IDS[STAGE_IDS.index(failed) :]
    }
    assert set(asked(backend)) == wanted
    assert len(backend.requests) == len(wanted)
    assert (result.state, result.outcome) == (RunState.COMPLETED, "completed")
    assert comparable(result)["stages"] == comparable(expected)["stages"]
    assert comparable(result)["images"] == comparable(expected)["images"]
    assert (result.missing, result.error) == ((), None)
    check_story(result.events)
