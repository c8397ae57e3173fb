"""``salvage`` that breaks off leaves no half run; and the command line."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from pathlib import Path
from random import Random
from typing import Any

import pytest
from stagewright.events import LogWriteError, RunState
from stagewright.statemachine.files.run_folder import run_folders
from stagewright.statemachine.resume.verify import verify_run

from .command_line import SCRIPT, run_json, stagewright, write_config
from .faulty_storage import Deed, Fault, FaultyStorage, SimulatedCrash
from .salvaging import LOG, check_salvaged, controller, lines_of, salvage, spoil, state_of
from .simulated_disk import SimulatedDisk, Sync
from .support import document, png
from .tools import needs_strace


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A corrupt run of one image that was made from another."""
    (tmp_path / "in.png").write_bytes(png(1))
    config = document("img2img", input_image=str(tmp_path / "in.png"))
    handle = controller(tmp_path / "runs").start(config)
    assert handle.wait(60).state == RunState.COMPLETED
    spoil(handle.folder, 4)
    return handle.folder


def on_disk(runs: Path, fault: Fault | None = None) -> FaultyStorage:
    """A storage whose process meets with a fault."""
    return FaultyStorage(SimulatedDisk(runs, Random(0)), fault)


def operations_of_a_salvage(run: Path) -> int:
    """How many operations a salvage takes that nothing disturbs."""
    storage = on_disk(run.parent)
    shutil.rmtree(salvage(run, storage).folder)
    return storage.operations


def test_a_salvage_that_dies_leaves_no_run_or_a_whole_one(run: Path) -> None:
    """Before every operation: a folder without a log is no run, and the next try works."""
    before, whole = state_of(run), 0
    operations = operations_of_a_salvage(run)
    assert operations > 20
    for at in range(1, operations + 1):
        with pytest.raises(SimulatedCrash):
            salvage(run, on_disk(run.parent, Fault(at=at, deed=Deed.DIE_BEFORE)))
        assert state_of(run) == before
        for folder in set(run_folders(run.parent)) - {run}:
            assert verify_run(folder).sound
            whole += 1
        for folder in set(run.parent.iterdir()) - {run}:
            shutil.rmtree(folder)
    assert whole > 0
    check_salvaged(run)


def test_a_disk_that_fails_is_said_and_nothing_is_left(run: Path) -> None:
    """Whichever operation fails: LogWriteError with the cause, and no new folder."""
    last = operations_of_a_salvage(run)  # removes the draft; the simulated disk always does that
    for at in range(1, last):
        with pytest.raises(LogWriteError, match="Input/output error"):
            salvage(run, on_disk(run.parent, Fault(at=at, deed=Deed.FAIL)))
        assert list(run.parent.iterdir()) == [run]


def stands_after_power_loss(
    run: Path, root: Path, fault: Fault, seed: int, ignored: frozenset[Sync] = frozenset()
) -> bool:
    """Whether all is well when the power fails at a deed of a salvage, or after its end."""
    root.mkdir()
    old = shutil.copytree(run, root / run.name)
    before = [content for *_, content in state_of(old)]
    disk, ended = SimulatedDisk(root, Random(seed), ignored=ignored), False
    with contextlib.suppress(SimulatedCrash):
        salvage(old, FaultyStorage(disk, fault))
        ended = True
    disk.lose_power()
    assert [content for *_, content in state_of(old)] == before
    new = [folder for folder in run_folders(root) if folder != old]
    whole = [
        verify_run(folder).finished
        and verify_run(folder).sound
        and (folder / f"{LOG}.corrupt").is_file()
        and (folder / f"{LOG}.corrupt").read_bytes() == (old / LOG).read_bytes()
        for folder in new
    ]
    shutil.rmtree(root)
    return all(whole) and (not ended or len(new) == 1)


def faults(run: Path) -> list[Fault]:
    """The end of the process before and after each of its operations, and none at all."""
    return [
        Fault(at=at, deed=deed)
        for deed in (Deed.DIE_BEFORE, Deed.DIE_WITHIN)
        for at in range(1, operations_of_a_salvage(run) + 2)
    ]


def test_a_power_loss_leaves_no_run_or_a_whole_one(run: Path, tmp_path: Path) -> None:
    """At every operation, whatever of the unsynced is lost: files are durable before the log."""
    for fault in faults(run):
        for seed in range(2):
            assert stands_after_power_loss(run, tmp_path / "disk", fault, seed), (fault, seed)


@pytest.mark.parametrize("ignored", [Sync.LOG, Sync.FOLDER])
def test_without_a_sync_a_power_loss_takes_what_was_salvaged(
    run: Path, tmp_path: Path, ignored: Sync
) -> None:
    """The tests above can fail: without syncs of files, or of folders, they do."""
    assert not all(
        stands_after_power_loss(run, tmp_path / "disk", fault, seed, frozenset({ignored}))
        for fault in faults(run)
        for seed in range(2)
    )


@pytest.fixture
def corrupt(tmp_path: Path) -> Path:
    """A corrupt run of two images in a folder that commands are called in."""
    folder: Path = tmp_path / "runs" / run_json(write_config(tmp_path))["run_id"]
    spoil(folder, 6)
    return folder


def test_the_command_makes_a_run_that_can_be_verified_resumed_and_shown(corrupt: Path) -> None:
    """One corrupt record in the middle: nothing is lost, and the old folder stays as it is."""
    folder, before = corrupt.parent.parent, state_of(corrupt)
    done = stagewright("salvage", corrupt.name[:30], "--json", folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    new = folder / "runs" / found["run_id"]
    assert (found["salvaged_from"], found["corrupt_at"]) == (
        corrupt.name, len(b"".join(lines_of(corrupt)[:6])),
    )  # fmt: skip
    assert (found["images"], found["lost_records"], found["lost_files"]) == (2, 1, [])
    assert stagewright("verify", "last", folder=folder).returncode == 0
    assert stagewright("resume", found["run_id"], folder=folder).returncode == 0
    assert stagewright("verify", "last", folder=folder).returncode == 0
    for image in sorted(new.glob("images/*/*.png")):
        shown = stagewright("show", image, "--json", folder=folder)
        assert json.loads(shown.stdout)["run_id"] == found["run_id"], shown.stderr
    assert state_of(corrupt) == before


def test_the_command_says_what_is_copied_and_what_is_not(corrupt: Path) -> None:
    """In a few lines: images, damage, lost files, and what a resume would do."""
    next((corrupt / "images" / "00-txt2img").glob("00001-*")).unlink()
    done = stagewright("salvage", "last", folder=corrupt.parent.parent)
    assert (done.returncode, done.stderr) == (0, "")
    for words in (
        f"salvaged from {corrupt.name}",
        "1 image is kept; the damaged log is kept as events.jsonl.corrupt",
        "lost: 1 record",
        "not copied: images/00-txt2img/00001-43.png: it is missing",
        "would make 1 image",
    ):
        assert words in done.stdout


def test_a_run_elsewhere_gets_its_new_one_beside_it(corrupt: Path, tmp_path: Path) -> None:
    """RUN may be a path; only a --runs that the user gives is another place."""
    away = tmp_path / "away"
    away.mkdir()
    assert stagewright("salvage", corrupt, folder=away).returncode == 0
    assert len(list(run_folders(corrupt.parent))) == 2
    assert stagewright("salvage", corrupt, "--runs", "here", folder=away).returncode == 0
    assert len(list(run_folders(away / "here"))) == 1


def test_the_command_refuses_in_one_line(corrupt: Path) -> None:
    """Exit 4 where the plan is lost, 2 where nothing is corrupt or there is no such run."""
    folder = corrupt.parent.parent
    spoil(corrupt, 0)
    lost = stagewright("salvage", "last", folder=folder)
    (corrupt / LOG).write_bytes(b"".join(lines_of(corrupt)))
    none = stagewright("salvage", "nothing", folder=folder)
    spoil(corrupt, 0, 6)  # both bits turned back
    sound = stagewright("salvage", "last", "--json", folder=folder)
    assert [done.returncode for done in (lost, none, sound)] == [4, 2, 2]
    for done in (lost, none, sound):
        assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert str(Path("images")) in lost.stderr
    assert list(run_folders(corrupt.parent)) == [corrupt]


def test_an_image_whose_answer_is_lost_can_be_shown(tmp_path: Path) -> None:
    """Its announcement is there, and says which stage and image of the run it is."""
    spoil(tmp_path / "runs" / run_json(write_config(tmp_path))["run_id"], 4)
    done = stagewright("salvage", "last", "--json", folder=tmp_path)
    found = json.loads(done.stdout)
    (image,) = Path(tmp_path / found["folder"]).glob("images/00-txt2img/00000-*")
    shown = stagewright("show", image, "--json", folder=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert json.loads(shown.stdout)["image_index"] == 0


@pytest.mark.linux
@needs_strace
def test_an_image_that_cannot_be_read_is_said_and_left_out(corrupt: Path) -> None:
    """The old run keeps it; the new one makes it again."""
    image = next((corrupt / "images" / "00-txt2img").glob("00001-*"))
    command = ["strace", "-f", "-qq", "-o", corrupt.parent.parent / "trace", "-P", image,
               "-e", "trace=openat", "-e", "inject=openat:error=EACCES"]  # fmt: skip
    done = subprocess.run(
        [*map(str, command), str(SCRIPT), "salvage", corrupt, "--json"],
        cwd=corrupt.parent.parent, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    (flaw,) = json.loads(done.stdout)["lost_files"]
    assert flaw["what"] == "it cannot be read: Permission denied"
    assert json.loads(done.stdout)["images"] == 1
