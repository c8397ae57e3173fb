"""Resume: cancels, the controller around a run that was taken up again, and refusals."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stagewright.events import (
    CallRequested,
    CancelMode,
    CancelRequested,
    EventRecorder,
    LogCorruptError,
    LogLockedError,
    LogWriteError,
    RunResumed,
    RunState,
    StageEvent,
    replay,
    signals,
)
from stagewright.events.log.lock import FileLock
from stagewright.statemachine import (
    BackendError,
    CancelToken,
    ControllerBusyError,
    GenerateRequest,
)
from stagewright.statemachine.errors import ResumeRefusedError

from .log_format import changed, flip, make_log, split_bodies, split_lines
from .resuming import (
    LOG,
    Script,
    comparable,
    controller,
    copied,
    cut_before,
    epoch_of,
    files,
    only,
    painter,
    ran,
    resumed,
    small,
    words,
)
from .samples import WatchedStorage

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


@pytest.mark.parametrize("order", [b'{"mode":"now","reason":"late"}', b"no JSON", b""])
def test_an_order_to_cancel_that_is_found_is_removed_and_not_obeyed(
    dead: Path, whole: Path, order: bytes
) -> None:
    """It was meant for the process that died; it is gone before RunResumed is there."""
    (dead / "cancel.request").write_bytes(order)
    there: list[bool] = []

    def look(event: StageEvent) -> None:
        if isinstance(event, RunResumed):
            there.append((dead / "cancel.request").exists())

    def take(_sender: str | None, event: StageEvent, **_more: Any) -> None:
        look(event)

    with signals.event_appended.connected_to(take):
        result = resumed(dead)
    assert there == [False]
    assert comparable(result) == comparable(replay(whole))
    assert only(result.events, CancelRequested) == []


def cancels_at(place: tuple[str, int], mode: CancelMode) -> tuple[Script, list[Any]]:
    """A script that asks for a cancel while one image is made; put its controller in the list."""
    made: list[Any] = []

    def script(request: GenerateRequest, _cancel: CancelToken) -> None:
        if (request.stage_id, request.image_index) == place:
            made[0].cancel(request.run_id, mode=mode)
            if mode is CancelMode.NOW:
                raise BackendError("stopped", interrupted=True)

    return script, made


@pytest.mark.parametrize("mode", list(CancelMode))
@pytest.mark.parametrize("stage_id", ["00-txt2img", "01-img2img"])
def test_a_cancelled_run_is_cleaned_up_and_goes_on(
    whole: Path, tmp_path: Path, mode: CancelMode, stage_id: str
) -> None:
    """``cleanup``, ``RunResumed``, ``start``; what was finished is not made again."""
    script, made = cancels_at((stage_id, 1), mode)
    made.append(controller(tmp_path, painter(script)))
    handle = made[0].start(small("txt2img", "img2img", images=3))
    before = handle.wait(WAIT_S)
    assert before.state is RunState.CANCELLED
    backend = painter()
    result = resumed(handle.folder, backend)
    assert words(epoch_of(result, 1))[:3] == ["cleanup", "RunResumed", "start"]
    assert comparable(result) == comparable(replay(whole))
    finished = 1 + (mode is CancelMode.AFTER_IMAGE) + 3 * (stage_id == "01-img2img")
    assert len(backend.requests) == 6 - finished
    assert backend.requests[0].interrupted is (mode is CancelMode.NOW)


def test_after_a_resume_the_controller_is_free_for_another_run(dead: Path) -> None:
    """Its state is IDLE, its last result that of the resumed run; it starts and resumes again."""
    made = controller(dead.parent)
    result = made.resume(dead.name).wait(WAIT_S)
    assert made.state is RunState.IDLE
    assert made.last_result == result
    plan = made.get_last_stage_execution_plan_for_tests()
    assert plan is not None
    assert len(plan.stages) == 2
    assert made.start(small()).wait(WAIT_S).state is RunState.COMPLETED
    handle = made.resume(dead.name)
    assert handle.result == result
    assert handle.wait_ended(0)
    assert made.state is RunState.IDLE


def test_a_controller_that_has_a_run_resumes_no_other(dead: Path) -> None:
    """ControllerBusyError, also for the run that it works on; nothing is touched."""
    begun, free = threading.Event(), threading.Event()

    def script(_request: GenerateRequest, _cancel: CancelToken) -> None:
        begun.set()
        assert free.wait(WAIT_S)

    made = controller(dead.parent, painter(script))
    handle = made.resume(dead.name)
    assert handle.run_id == dead.name
    try:
        assert begun.wait(WAIT_S)
        assert made.state is RunState.RUNNING
        with pytest.raises(ControllerBusyError):
            made.resume(dead.name)
        with pytest.raises(ControllerBusyError):
            made.start(small())
    finally:
        free.set()
    assert handle.wait(WAIT_S).state is RunState.COMPLETED


def test_subscribers_see_the_new_epoch_in_order_and_nothing_of_the_old(
    dead: Path, recorded_events: EventRecorder
) -> None:
    """Every event of the epoch, once, as it stands in the log."""
    result = resumed(dead)
    assert recorded_events.events == tuple(epoch_of(result, 1))
    recorded_events.assert_lifecycle("RUNNING", "ERROR", "IDLE", "RUNNING", "COMPLETED")


def test_every_file_is_counted_while_it_is_checked(whole: Path, tmp_path: Path) -> None:
    """The hook is told of each image, and of how many there are."""
    folder = copied(whole, tmp_path)
    seen: list[tuple[int, int]] = []
    controller(tmp_path).resume(folder.name, on_file=lambda *told: seen.append(told))
    assert seen == [(nth, 6) for nth in range(1, 7)]


@pytest.mark.parametrize("broken", ["write", "sync"])
def test_a_disk_that_fails_as_a_resume_begins_is_named(dead: Path, broken: str) -> None:
    """LogWriteError with the disk's own words; a later resume goes on."""
    full = OSError(errno.ENOSPC, "No space left on device")
    storage = WatchedStorage()

    def no_space(_file: object, _data: bytes) -> int:
        raise full

    if broken == "write":
        storage.next_writes += [no_space] * 2
    else:
        storage.failures["sync"] = full
    made = controller(dead.parent, storage=storage)
    with pytest.raises(LogWriteError, match="No space left"):
        made.resume(dead.name)
    assert made.state is RunState.IDLE
    assert resumed(dead).state is RunState.COMPLETED


def test_a_tail_that_cannot_be_copied_is_not_cut(dead: Path) -> None:
    """The copy fails: the log stays as it is, and the words are the disk's."""
    with (dead / LOG).open("ab") as stream:
        stream.write(b'{"h":"000')
    before = files(dead)
    storage = WatchedStorage()
    storage.failures["write_file"] = OSError(errno.ENOSPC, "No space left on device")
    made = controller(dead.parent, storage=storage)
    with pytest.raises(LogWriteError, match="No space left"):
        made.resume(dead.name)
    assert files(dead) == before
    assert resumed(dead).state is RunState.COMPLETED


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
    lock = FileLock(dead)
    lock.note_epoch(3)
    before = (dead / "run.lock").read_bytes()
    try:
        assert f"process {json.loads(before)['pid']} on " in refused(dead, LogLockedError)
        assert (dead / "run.lock").read_bytes() == before
    finally:
        lock.release()
    assert resumed(dead).state is RunState.COMPLETED


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("plan", "stages", 0, "config", "new_key"), 5),
        (("plan", "stages", 1, "repeat_until_good"), True),
        (("plan", "new_order"), [1]),
        (("plan", "stages", 1, "stage_type"), "vid2vid"),
        (("plan", "stages", 0, "config", "steps"), "as many as it takes"),
        (("config", "run"), {"on_image_error": "ask"}),
        (("config", "run"), {"new_key": 1}),
    ],
)
def test_a_plan_of_a_newer_version_is_not_carried_out_in_part(
    dead: Path, place: tuple[Any, ...], value: object
) -> None:
    """What this version does not understand it refuses, and says so."""

    def change(opened: dict[str, Any]) -> None:
        *outer, last = place
        inner: Any = opened
        for key in outer:
            inner = inner[key]
        inner[last] = value

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
