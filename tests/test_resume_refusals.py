"""What resume refuses, each time without a trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stagewright.events import (
    CallRequested,
    LogCorruptError,
    LogLockedError,
    RunNotFoundError,
    RunState,
    replay,
)
from stagewright.events.log.lock import RunLock
from stagewright.statemachine import (
    BackendError,
    CancelToken,
    GenerateRequest,
)
from stagewright.statemachine.errors import ResumeRefusedError

from .log_format import changed, flip, make_log, split_bodies, split_lines
from .resuming import (
    LOG,
    Script,
    controller,
    copied,
    cut_before,
    files,
    painter,
    ran,
    resumed,
    small,
)

WAIT_S = 20


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sealed run of two stages and three images."""
    return ran(tmp_path_factory.mktemp("whole"), small("txt2img", "img2img", images=3))


@pytest.fixture
def dead(whole: Path, tmp_path: Path) -> Path:
    """A run whose process died while its second image was being made."""
    folder = copied(whole, tmp_path)
    cut_before(folder, CallRequested, 2)
    return folder


def refused(folder: Path, error: type[Exception], **options: Any) -> str:
    """The words of a refusal that leaves every byte as it was, the state IDLE and no thread."""
    before, backend = files(folder), painter()
    made = controller(folder.parent, backend)
    with pytest.raises(error) as caught:
        made.resume(folder.name, **options)
    assert files(folder) == before
    assert backend.requests == []
    assert made.state is RunState.IDLE
    made.start(small()).wait(WAIT_S)
    return str(caught.value)


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the first record of a log, whose checksums and chain fit again afterwards."""
    first, *others = split_bodies((folder / LOG).read_bytes())
    opened = json.loads(first)
    change(opened)
    bodies = [changed(first, **opened), *others]
    sound = [body for body in bodies if json.loads(body)["type"] != "RunSealed"]
    (folder / LOG).write_bytes(make_log(sound))


def fails_after(images: int) -> Script:
    """A script that gives so many images first."""
    given = iter(range(images))

    def script(_request: GenerateRequest, _cancel: CancelToken) -> None:
        if next(given, None) is None:
            raise BackendError("the GPU fell off")

    return script


def failed(tmp_path: Path, *epochs: int) -> Path:
    """A run whose epochs gave so many images each and then failed."""
    folder = ran(tmp_path, small(images=9), painter(fails_after(epochs[0])))
    for images in epochs[1:]:
        resumed(folder, painter(fails_after(images)), force=True)
    return folder


@pytest.mark.parametrize("epochs", [(0,) * 5, (1, 0, 0, 0, 0, 0), (0,) * 6])
def test_five_fruitless_epochs_in_a_row_are_enough(tmp_path: Path, epochs: tuple[int, ...]) -> None:
    """Refused in one line that says why and what to do; forced, it tries again."""
    folder = failed(tmp_path, *epochs)
    said = refused(folder, ResumeRefusedError)
    assert "\n" not in said
    assert "--force" in said
    assert "the GPU fell off" in said
    assert resumed(folder, force=True).state is RunState.COMPLETED


@pytest.mark.parametrize("epochs", [(0,) * 4, (0, 0, 0, 0, 1), (0, 0, 0, 1, 0, 0, 0, 0)])
def test_four_or_an_image_in_between_are_not_enough(
    tmp_path: Path, epochs: tuple[int, ...]
) -> None:
    """The count starts anew with each finished image."""
    assert resumed(failed(tmp_path, *epochs)).state is RunState.COMPLETED


def test_a_finished_run_is_not_refused(tmp_path: Path) -> None:
    """However many epochs it took, a sealed run is left alone with status COMPLETED."""
    folder = failed(tmp_path, 0, 0, 0, 0, 0)
    resumed(folder, force=True)
    before = files(folder)
    assert resumed(folder).state is RunState.COMPLETED
    assert files(folder) == before


@pytest.mark.parametrize("place", [0, 1, -2])
def test_a_corrupt_log_is_never_written_to(whole: Path, tmp_path: Path, place: int) -> None:
    """A flipped bit in its first, second or last but one record."""
    folder = copied(whole, tmp_path)
    lines = split_lines((folder / LOG).read_bytes())
    flip(folder / LOG, len(b"".join(lines[:place])) + 80)
    assert "corrupt at byte" in refused(folder, LogCorruptError)


def test_a_run_that_another_process_holds_is_left_to_it(dead: Path) -> None:
    """The refusal names who holds it."""
    lock = RunLock(dead)
    lock.note_epoch(3)
    before = (dead / "run.lock").read_bytes()
    try:
        assert f"process {json.loads(before)['pid']} on " in refused(dead, LogLockedError)
        assert (dead / "run.lock").read_bytes() == before
    finally:
        lock.release()
    assert resumed(dead).state is RunState.COMPLETED


def add_to_config(opened: dict[str, Any]) -> None:
    opened["plan"]["stages"][0]["config"]["new_key"] = 5


def add_to_stage(opened: dict[str, Any]) -> None:
    opened["plan"]["stages"][1]["repeat_until_good"] = True


def add_to_plan(opened: dict[str, Any]) -> None:
    opened["plan"]["new_order"] = [1]


def add_stage_type(opened: dict[str, Any]) -> None:
    opened["plan"]["stages"][1]["stage_type"] = "vid2vid"


def change_value(opened: dict[str, Any]) -> None:
    opened["plan"]["stages"][0]["config"]["steps"] = "as many as it takes"


def add_policy(opened: dict[str, Any]) -> None:
    opened["config"]["run"] = {"on_image_error": "ask"}


def add_run_key(opened: dict[str, Any]) -> None:
    opened["config"]["run"] = {"new_key": 1}


@pytest.mark.parametrize(
    "change",
    [add_to_config, add_to_stage, add_to_plan, add_stage_type, change_value, add_policy,
     add_run_key],
)  # fmt: skip
def test_a_plan_of_a_newer_version_is_not_carried_out_in_part(
    dead: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    """What this version does not understand it refuses, and says so."""
    rewritten(dead, change)
    assert "this version" in refused(dead, ResumeRefusedError)


def test_a_field_that_a_newer_version_added_to_an_event_is_no_obstacle(dead: Path) -> None:
    """Unknown fields are kept out of the way."""
    rewritten(dead, lambda opened: opened.update(weather="fine"))
    assert resumed(dead).state is RunState.COMPLETED


def test_a_run_with_a_conflict_is_refused(tmp_path: Path) -> None:
    """Its configuration would contradict itself once more."""
    config = small(steps=99)
    folder = ran(tmp_path, config)
    error = replay(folder).error
    assert error is not None
    assert error.kind == "StageConflictError"
    assert "contradicts itself" in refused(folder, ResumeRefusedError)
    refused(folder, ResumeRefusedError, force=True)


@pytest.mark.parametrize("name", ["", "nobody", "..", "../x", "a/b", "\x00", "x" * 300])
def test_a_name_that_is_no_run_is_said(dead: Path, name: str) -> None:
    """Nothing is looked up outside the folder of runs."""
    with pytest.raises(RunNotFoundError):
        controller(dead.parent).resume(name)
