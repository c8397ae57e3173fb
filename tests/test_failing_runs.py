"""Runs on a disk that fails: the cause is recorded where that is possible, nothing is made up."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from stagewright.events import (
    LifecycleChanged,
    LogWriteError,
    PipelineRunResult,
    RunState,
    replay,
)
from stagewright.events.log.lock import is_locked
from stagewright.events.log.storage import AppendFile, Storage
from stagewright.statemachine import (
    BackendError,
    CancelToken,
    GenerateRequest,
    RunHandle,
)
from stagewright.statemachine.resume.verify import verify_run

from .command_line import until
from .support import ScriptedBackend, controller, document


class FailingDisk(Storage):
    """The real file system, but for the calls that are told to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.fail_image: Callable[[Path], bool] = lambda _path: False
        self.fail_rename: Callable[[Path], bool] = lambda _path: False
        self.writes_left = 10**9
        self.failing_writes = 10**9
        self.syncs_left = 10**9

    def write_part(self, path: Path, data: bytes, *, durable: bool = True) -> Path:
        if self.fail_image(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write_part(path, data, durable=durable)

    def rename(self, source: Path, target: Path) -> None:
        if self.fail_rename(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().rename(source, target)

    def open_append(self, path: Path) -> AppendFile:
        return FailingFile(path, self)


class FailingFile(AppendFile):
    """A log file on such a disk."""

    def __init__(self, path: Path, disk: FailingDisk) -> None:
        super().__init__(path, disk)
        self._disk = disk

    def write(self, data: bytes) -> int:
        self._disk.writes_left -= 1
        if self._disk.writes_left < 0 and self._disk.failing_writes > 0:
            self._disk.failing_writes -= 1
            super().write(data[:7])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)

    def sync(self) -> None:
        self._disk.syncs_left -= 1
        if self._disk.syncs_left < 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync()


def start(runs: Path, disk: FailingDisk) -> RunHandle:
    made = controller(runs, storage=disk)
    return made.start(document("txt2img", "upscale", images=3))


@pytest.mark.parametrize("name", ["00000-100.png", "00002-102.png"])
def test_an_image_that_cannot_be_written_ends_in_error_with_the_cause(
    tmp_path: Path, name: str
) -> None:
    """ERROR names stage, image and the disk's words; what was finished verifies."""
    disk = FailingDisk()
    disk.fail_image = lambda path: path.name == name and path.parent.name == "01-upscale"
    result = start(tmp_path, disk).wait(30)
    assert result.state is RunState.ERROR
    assert result.error is not None
    assert (result.error.kind, result.error.stage_id) == ("LogWriteError", "01-upscale")
    assert result.error.image_index == int(name[:5])
    assert "No space left" in result.error.message
    assert verify_run(tmp_path / result.run_id).flaws == ()
    assert result.stages[1].image_count == int(name[:5])


def fail_beside(runs: Path, disk: FailingDisk) -> tuple[PipelineRunResult, ScriptedBackend]:
    """Run six images on two slots: the first fails while the second is being made.

    The second is given only when the slot of the first has ended.
    """
    second_asked = threading.Event()

    def slots() -> int:
        return sum(thread.name == "stagewright-slot" for thread in threading.enumerate())

    def script(request: GenerateRequest, _cancel: CancelToken) -> None:
        if request.image_index == 0:
            assert second_asked.wait(20)
            raise BackendError("no such model")
        second_asked.set()
        until(lambda: slots() == 1, "the slot of the first image has ended")

    backend = ScriptedBackend(script, slots=2)
    made = controller(runs, backend, storage=disk)
    return made.start(document(images=6)).wait(30), backend


def test_after_a_failure_no_slot_begins_another_request(tmp_path: Path) -> None:
    """What is under way is finished and kept."""
    result, backend = fail_beside(tmp_path, FailingDisk())
    assert (result.state, len(backend.requests)) == (RunState.ERROR, 2)
    assert result.error is not None
    assert (result.error.kind, result.error.image_index) == ("BackendError", 0)
    assert [image.image_index for image in result.images] == [1]


def test_a_disk_that_fails_is_reported_before_an_image_that_failed_earlier(tmp_path: Path) -> None:
    """Of the failures of two slots the one that concerns every image counts."""
    disk = FailingDisk()
    disk.fail_image = lambda path: path.name == "00001-101.png"
    result, _ = fail_beside(tmp_path, disk)
    assert result.error is not None
    assert (result.error.kind, result.error.image_index) == ("LogWriteError", 1)
    assert {gap.image_index: gap.error and gap.error.kind for gap in result.missing[:2]} == {
        0: "BackendError",
        1: None,
    }


@pytest.mark.parametrize("failing", ["fail_image", "fail_rename"])
@pytest.mark.parametrize("name", ["00000-100.png", "00002-102.png"])
def test_a_batch_of_which_one_image_cannot_be_written_leaves_no_temporary_file(
    tmp_path: Path, name: str, failing: str
) -> None:
    """On a full disk the images written beside it are removed; the cause is recorded."""
    disk = FailingDisk()
    setattr(disk, failing, lambda path: path.name == name)
    config = document(images=4)
    config["txt2img"] = {**config["txt2img"], "batch_size": 4}
    result = controller(tmp_path, storage=disk).start(config).wait(30)
    assert result.error is not None
    assert "No space left" in result.error.message
    assert list((tmp_path / result.run_id / "images").rglob("*.part")) == []
    assert list(result.images) == []


@pytest.mark.sampled(3)
@pytest.mark.parametrize("writes", range(1, 12))
def test_a_record_that_cannot_be_written_is_followed_by_the_failure_on_a_new_descriptor(
    tmp_path: Path, writes: int
) -> None:
    """The log is cut back to whole records and its next one is `fail`, with the cause."""
    disk = FailingDisk()
    disk.writes_left, disk.failing_writes = writes, 1
    result = start(tmp_path, disk).wait(30)
    assert result.state is RunState.ERROR
    failure = result.events[writes + 1]
    assert isinstance(failure, LifecycleChanged)
    assert failure.trigger == "fail"
    assert failure.error is not None
    assert failure.error.kind == "LogWriteError"
    assert "No space left" in failure.error.message
    assert verify_run(tmp_path / result.run_id).flaws == ()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("writes", range(1, 12))
def test_a_disk_that_stays_full_leaves_a_log_that_ends_in_running(
    tmp_path: Path, writes: int
) -> None:
    """The caller gets LogWriteError; the log is whole, RUNNING, and nobody holds its lock."""
    disk = FailingDisk()
    disk.writes_left = writes
    handle = start(tmp_path, disk)
    with pytest.raises(LogWriteError, match="No space left"):
        handle.wait(30)
    result = replay(handle.folder)
    assert result.state is RunState.RUNNING
    assert len(result.events) == writes + 1
    assert not is_locked(handle.folder)
    assert verify_run(handle.folder).flaws == ()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("syncs", range(1, 8))
def test_after_a_failing_sync_nothing_more_is_written(tmp_path: Path, syncs: int) -> None:
    """Not even the failure: the caller gets LogWriteError and the log ends where it was."""
    disk = FailingDisk()
    disk.syncs_left = syncs
    handle = start(tmp_path, disk)
    with pytest.raises(LogWriteError, match=r"nothing more can be written|could not be synced"):
        handle.wait(30)
    assert replay(handle.folder).state is RunState.RUNNING
    assert not is_locked(handle.folder)


def test_a_start_that_cannot_be_recorded_raises_and_frees_the_controller(tmp_path: Path) -> None:
    """The first transition fails: no thread is left, the lock is free, a new run can start."""
    disk = FailingDisk()
    disk.writes_left = 0
    disk.failing_writes = 1
    made = controller(tmp_path, storage=disk)
    with pytest.raises(LogWriteError):
        made.start(document())
    assert made.state is RunState.IDLE
    (folder,) = tmp_path.iterdir()
    assert replay(folder).state is RunState.IDLE
    assert not is_locked(folder)
    assert made.start(document()).wait(30).state is RunState.COMPLETED


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    """A file where the folder of runs should be: LogWriteError naming it, nothing else."""
    place = tmp_path / "runs"
    place.write_text("in the way")
    made = controller(place)
    with pytest.raises(LogWriteError, match="runs"):
        made.start(document())
    assert made.state is RunState.IDLE
    assert place.read_text() == "in the way"
