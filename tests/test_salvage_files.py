"""``salvage``: the files of a corrupt run, images that were made again, and refusals."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from stagewright.events import (
    CallRequested,
    LogCorruptError,
    LogLockedError,
    RunNotFoundError,
    RunOpened,
    RunState,
    StageEvent,
    StageStart,
    iterate,
)
from stagewright.events.log.lock import FileLock
from stagewright.statemachine import CancelToken, GenerateRequest
from stagewright.statemachine.resume.salvage import SalvageRefusedError
from stagewright.statemachine.resume.verify import verify_run

from .resuming import copied, image_file, linked, made_a_folder, piped, rewritten
from .salvaging import (
    LOG,
    answers_of,
    check_ends_the_same,
    check_salvaged,
    controller,
    lines_of,
    made,
    rewrite,
    salvage,
    spoil,
    state_of,
)
from .support import ScriptedBackend, document, png


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two stages and two images; nobody may change it."""
    return made(tmp_path_factory.mktemp("finished"), "txt2img", "img2img")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return copied(finished, tmp_path / "runs")


def below_a_link(file: Path) -> None:
    shutil.move(file.parent, file.parent.parent / "elsewhere")
    file.parent.symlink_to(file.parent.parent / "elsewhere")


@pytest.mark.parametrize(
    "harm",
    [
        Path.unlink,
        rewritten,
        linked,
        below_a_link,
        pytest.param(piped, marks=pytest.mark.posix),
        made_a_folder,
    ],
)
def test_an_image_that_is_not_there_as_recorded_is_left_out(
    run: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    """Its records go with it, no link is followed, and a resume makes it and nothing else."""
    whole = shutil.copytree(run, tmp_path / run.name)
    lost = [image_file(run, "01-img2img", 1)]
    if harm is below_a_link:
        lost.insert(0, image_file(run, "01-img2img", 0))
    spoil(run, 2)
    harm(lost[-1])
    found = check_salvaged(run)
    assert found.images == 4 - len(lost)
    assert sorted(flaw.place for flaw in found.lost_files) == [
        str(file.relative_to(run)) for file in lost
    ]
    assert not any(path.is_symlink() for path in Path(found.folder).rglob("*"))
    asked = check_ends_the_same(found, whole)
    assert asked == [("01-img2img", int(file.name[:5])) for file in lost]


def test_an_answer_of_several_images_counts_whole_or_not_at_all(tmp_path: Path) -> None:
    """Of a batch that lacks a file nothing is copied, and the same whole request is repeated."""
    table = {**document()["txt2img"], "batch_size": 2}
    run = made(tmp_path / "runs", txt2img=table, images=3)
    whole = shutil.copytree(run, tmp_path / run.name)
    spoil(run, 2)
    image_file(run, "00-txt2img", 1).unlink()
    found = check_salvaged(run)
    assert found.images == 1
    assert check_ends_the_same(found, whole) == [("00-txt2img", 0)]


def test_of_an_image_that_was_made_twice_the_last_one_is_kept(run: Path, tmp_path: Path) -> None:
    """Its file was rewritten, and a resume made it again: its second answer fits the file."""
    rewritten(image_file(run, "00-txt2img", 0))
    controller(run.parent).resume(run.name).wait(60)
    whole = shutil.copytree(run, tmp_path / run.name)
    spoil(run, 2)
    found = check_salvaged(run)
    assert (found.images, check_ends_the_same(found, whole)) == (4, [])


@pytest.mark.parametrize("lost", [(), ("CallRequested",), ("CallRequested", "CallCompleted")])
def test_an_image_of_a_source_that_was_replaced_is_made_again(
    tmp_path: Path, lost: Sequence[str]
) -> None:
    """The run failed between the new source and what is made of it; also if records are lost."""
    handle = controller(tmp_path, ScriptedBackend()).start(document("txt2img", "img2img"))
    handle.wait(60)
    rewritten(image_file(handle.folder, "00-txt2img", 0))

    def fail(request: GenerateRequest, _cancel: CancelToken) -> None:
        if request.stage_id == "01-img2img":
            raise RuntimeError("the server is gone")

    other = ScriptedBackend(fail, images=lambda request: [png(request.seed + 7)])
    assert controller(tmp_path, other).resume("last").wait(60).state == RunState.ERROR
    first = [event for event in iterate(handle.folder) if event.epoch == 0]
    spoil(
        handle.folder,
        1,
        *(event.seq for event in first[first.index(stage_start(first, "01-img2img")) :]
          if type(event).__name__ in lost),
    )  # fmt: skip
    found = check_salvaged(handle.folder)
    assert found.images == 1
    again = ScriptedBackend(images=lambda request: [png(request.seed + 7)])
    controller(tmp_path, again).resume(found.run_id).wait(60)
    assert [request.stage_id for request in again.requests] == ["01-img2img"]


def test_a_lost_request_of_an_image_that_was_made_again_costs_nothing(tmp_path: Path) -> None:
    """Its source had become another one: the request of the first attempt is not taken for it."""
    handle = controller(tmp_path, ScriptedBackend()).start(document("txt2img", "img2img"))
    handle.wait(60)
    rewritten(image_file(handle.folder, "00-txt2img", 0))
    other = ScriptedBackend(images=lambda request: [png(request.seed + 7)])
    assert controller(tmp_path, other).resume("last").wait(60).state == RunState.COMPLETED
    answers = answers_of(handle.folder)[-2:]
    spoil(
        handle.folder, [e.seq for e in iterate(handle.folder) if isinstance(e, CallRequested)][-1]
    )
    assert answers_of(Path(check_salvaged(handle.folder).folder)) == answers


def stage_start(events: Sequence[StageEvent], stage_id: str) -> StageEvent:
    return next(one for one in events if isinstance(one, StageStart) and one.stage_id == stage_id)


def test_a_salvaged_run_goes_on_with_the_backend_that_worked_on_it_last(run: Path) -> None:
    """A run that was resumed on another server goes on there."""
    rewritten(image_file(run, "01-img2img", 0))
    controller(run.parent, ScriptedBackend()).resume(run.name).wait(60)
    spoil(run, 2)
    opened = next(iterate(check_salvaged(run).folder))
    assert isinstance(opened, RunOpened)
    assert opened.backend == ScriptedBackend().description


def test_what_descends_from_a_lost_image_is_looked_at_when_that_one_differs(
    tmp_path: Path,
) -> None:
    """A server that gives another picture now: what was made of the first is made again too."""
    first = ScriptedBackend()
    handle = controller(tmp_path, first).start(document("txt2img", "img2img"))
    handle.wait(60)
    spoil(handle.folder, 3)
    image_file(handle.folder, "00-txt2img", 0).unlink()
    found = check_salvaged(handle.folder)
    again = ScriptedBackend(images=lambda request: [png(request.seed + 7)])
    controller(tmp_path, again).resume(found.run_id).wait(60)
    assert [request.stage_id for request in again.requests] == ["00-txt2img", "01-img2img"]


@pytest.mark.parametrize("harm", [None, rewritten, Path.unlink])
def test_inputs_are_copied_and_a_damaged_one_is_said(
    tmp_path: Path, harm: Callable[[Path], None] | None
) -> None:
    """A run made from a file and a mask goes on with their copies; without them it says so."""
    for name in ("in.png", "mask.png"):
        (tmp_path / name).write_bytes(png(1))
    img2img = {**document("img2img")["img2img"], "mask": str(tmp_path / "mask.png")}
    run = made(tmp_path / "runs", "img2img", img2img=img2img, input_image=str(tmp_path / "in.png"))
    whole = shutil.copytree(run, tmp_path / run.name)
    requests = [event for event in iterate(run) if isinstance(event, CallRequested)]
    spoil(run, requests[0].seq, 8)
    if harm is None:
        answers = answers_of(whole)
        found = check_salvaged(run)
        assert answers_of(Path(found.folder)) == answers
        image_file(Path(found.folder), "00-img2img", 1).unlink()
        assert check_ends_the_same(found, whole) == [("00-img2img", 1)]
        return
    harm(run / "inputs" / "mask.png")
    found = salvage(run)
    assert [flaw.place for flaw in found.lost_files] == ["inputs/mask.png"]
    assert found.images == 2
    assert [flaw.place for flaw in verify_run(Path(found.folder)).flaws] == ["inputs/mask.png"]


def test_what_newer_versions_write_costs_no_image(run: Path) -> None:
    """Unknown events, and unknown fields of known ones, stay in the damaged log that is kept."""

    def newer(events: list[dict[str, Any]]) -> None:
        events[3]["more"] = {"deep": [1, None, "ü"]}
        envelope = {key: events[3][key] for key in ("run_id", "ts", "epoch")}
        events.append({"type": "Note", "v": 9, **envelope, "seq": len(events), "text": ["?"]})
        events.append({"type": "Note", "v": 9, **envelope, "seq": -1})

    rewrite(run, newer)
    found = check_salvaged(run)
    assert (found.images, found.lost_records) == (4, 0)


def test_a_salvaged_run_that_is_damaged_again_is_salvaged_again(run: Path, tmp_path: Path) -> None:
    """The new run holds the damaged log of the second, which holds that of the first."""
    whole = shutil.copytree(run, tmp_path / run.name)
    spoil(run, 4)
    first = Path(check_salvaged(run).folder)
    spoil(first, 5)
    second = check_salvaged(first)
    assert (second.images, check_ends_the_same(second, whole)) == (4, [])


def test_a_log_that_is_not_corrupt_is_refused(run: Path) -> None:
    """A sound one, a torn one, and a folder without any: nothing is made."""
    before = state_of(run.parent)
    with pytest.raises(SalvageRefusedError, match="sound"):
        salvage(run)
    assert state_of(run.parent) == before
    (run / LOG).write_bytes(b"".join(lines_of(run))[:-3])
    with pytest.raises(SalvageRefusedError, match="resume repairs it"):
        salvage(run)
    (run / LOG).unlink()
    with pytest.raises(RunNotFoundError):
        salvage(run)
    assert list(run.parent.iterdir()) == [run]


def test_a_run_that_is_held_is_refused(run: Path) -> None:
    """Whoever holds the lock is named, and the lock file stays as it is."""
    spoil(run, 4)
    lock = FileLock(run)
    before = state_of(run)
    with pytest.raises(LogLockedError, match=f"process {os.getpid()} "):
        salvage(run)
    lock.release()
    assert state_of(run) == before
    assert list(run.parent.iterdir()) == [run]


@pytest.mark.parametrize("log", [b"", b"garbage\n", None])
def test_without_its_plan_nothing_can_be_salvaged(run: Path, log: bytes | None) -> None:
    """The error is that of a corrupt log, and names the folder of the images."""
    spoil(run, 0)
    if log is not None:
        (run / LOG).write_bytes(log)
    with pytest.raises(LogCorruptError, match="nothing can be salvaged") as raised:
        salvage(run)
    assert str(run / "images") in str(raised.value)
    assert list(run.parent.iterdir()) == [run]
