"""File systems that cannot sync folders, empty the drive's cache, or lock files."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from stagewright.events import RunState, StorageLimited, iterate, replay
from stagewright.events.log import storage as storage_module
from stagewright.events.log.storage import Storage

from .command_line import installed, stagewright, write_config
from .real_disks import FEW, assert_one_clear_line, only_run
from .tools import needs_compiler

SOURCE = Path(__file__).with_name("refusing_disk.c")
UNSUPPORTED = ["EINVAL", "EBADF", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "ENOTTY", "EPERM", "EACCES"]

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes system calls fail."""
    path = tmp_path_factory.mktemp("library") / "refusing_disk.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", path, SOURCE, "-ldl"], check=True)
    return path


@pytest.fixture
def on_disk(library: Path, tmp_path: Path) -> Command:
    """Runs a command whose disk refuses the given calls, each with an error of that name."""

    def run(*arguments: str | Path, **refused: str) -> subprocess.CompletedProcess[str]:
        numbers = {name: str(getattr(errno, error)) for name, error in refused.items()}
        environment = {**os.environ, "LD_PRELOAD": str(library), **numbers}
        return installed(*arguments, folder=tmp_path, env=environment)

    return run


def limits(run: Path) -> list[tuple[str, int, int]]:
    """What the log says of its file system, with the epoch."""
    found = [event for event in iterate(run) if isinstance(event, StorageLimited)]
    return [(event.what, event.errno, event.epoch) for event in found]


@pytest.mark.linux
@needs_compiler
@pytest.mark.sampled(4)
@pytest.mark.parametrize("error", UNSUPPORTED)
def test_a_run_continues_where_folders_cannot_be_synced(
    on_disk: Command, tmp_path: Path, error: str
) -> None:
    """The log records the limit once, one line reports it, and the run is sound."""
    done = on_disk("run", write_config(tmp_path, FEW), FOLDER_SYNC=error)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: the file system cannot sync folders") == 1
    run = only_run(tmp_path / "runs")
    assert limits(run) == [("folder_sync", getattr(errno, error), 0)]
    assert stagewright("verify", run, folder=tmp_path).returncode == 0


@pytest.mark.linux
@needs_compiler
def test_a_resume_reports_the_limit_for_its_own_epoch(on_disk: Command, tmp_path: Path) -> None:
    """The run may have been moved to another disk meanwhile."""
    on_disk("run", write_config(tmp_path, FEW))
    run = only_run(tmp_path / "runs")
    (run / "images/00-txt2img/00001-43.png").unlink()
    done = on_disk("resume", "last", FOLDER_SYNC="ENOTSUP")
    assert done.returncode == 0, done.stderr
    assert limits(run) == [("folder_sync", errno.ENOTSUP, 1)]
    assert replay(run).state is RunState.COMPLETED


@pytest.mark.linux
@needs_compiler
@pytest.mark.parametrize(
    "refused", [{"FOLDER_SYNC": "EIO"}, {"FOLDER_SYNC": "ENOSPC"}, {"FILE_SYNC": "EIO"}], ids=str
)
def test_a_sync_that_fails_is_no_limit(
    on_disk: Command, tmp_path: Path, refused: dict[str, str]
) -> None:
    """A disk that loses data ends the run, or keeps it from being made."""
    done = on_disk("run", write_config(tmp_path, FEW), **refused)
    assert_one_clear_line(done)
    assert list((tmp_path / "runs").glob("*/images/*/*.png")) == []


@pytest.mark.linux
@needs_compiler
def test_the_durability_process_needs_no_sync_in_any_command(
    on_disk: Command, tmp_path: Path
) -> None:
    """Run and resume work on a disk on which every sync fails."""
    config = write_config(tmp_path, FEW)
    refused = {"FOLDER_SYNC": "EIO", "FILE_SYNC": "EIO"}
    done = on_disk("run", config, "--set", "run.durability=process", **refused)
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path / "runs")
    (run / "images/00-txt2img/00001-43.png").unlink()
    assert on_disk("resume", "last", **refused).returncode == 0
    assert (replay(run).state, limits(run)) == (RunState.COMPLETED, [])


@pytest.mark.linux
@needs_compiler
@pytest.mark.sampled(2)
@pytest.mark.parametrize("error", ["ENOLCK", "ENOSYS", "ENOTSUP", "EINVAL"])
def test_a_file_system_without_locks_is_reported(
    on_disk: Command, tmp_path: Path, error: str
) -> None:
    """Nothing is made there, and the message says what to do."""
    done = on_disk("run", write_config(tmp_path, FEW), FILE_LOCK=error)
    assert_one_clear_line(done, "no file locks", "--runs DIR")
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.linux
@needs_compiler
def test_a_run_that_cannot_be_locked_is_read_and_not_resumed(
    on_disk: Command, tmp_path: Path
) -> None:
    """It was made elsewhere, and is now on a file system without locks."""
    assert stagewright("run", write_config(tmp_path, FEW), folder=tmp_path).returncode == 0
    assert_one_clear_line(on_disk("resume", "last", FILE_LOCK="ENOLCK"), "no file locks")
    for command in ("verify", "replay", "show"):
        assert on_disk(command, "last", FILE_LOCK="ENOLCK").returncode == 0


def test_a_drive_that_refuses_a_full_sync_is_synced_in_the_plain_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS refuses F_FULLFSYNC on network volumes; it is tried once, and the limit is noted."""
    tried = []

    def refuse(descriptor: int) -> None:
        tried.append(descriptor)
        raise OSError(errno.ENOTSUP, "made by the test")

    monkeypatch.setattr(storage_module, "sync_drive", refuse)
    storage = Storage()
    for name in ("a", "b"):
        storage.write_file(tmp_path / name, b"bytes")
    assert storage.limits == {"drive_sync": errno.ENOTSUP}
    assert len(tried) == 1
