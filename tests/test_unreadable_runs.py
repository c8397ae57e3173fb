"""A run that cannot be read is named, and keeps no command from the other runs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from stagewright.events import RunState, replay
from stagewright.statemachine.files.png import source_of

from .command_line import stagewright, write_config
from .resuming import LOG, image_file, made
from .unreadable import (
    REMOVE,
    STALE,
    command_watched,
    commands_of_anybody,
    folder_of_anybody,
    make_looping,
)

IMG2IMG = """
prompt = "a lighthouse"
input_image = "run:{run}"

[img2img]
model = "base.safetensors"
sampler = "Euler a"
steps = 4
cfg_scale = 7.0
denoise = 0.5
"""


Both = tuple[Path, Path]


@pytest.fixture
def both(tmp_path: Path) -> Both:
    """A finished run, and a later one whose log cannot be read."""
    sound, bad = made(tmp_path / "runs"), made(tmp_path / "runs")
    make_looping(bad)
    return sound, bad


def test_list_shows_an_unreadable_run_as_such(tmp_path: Path, both: Both) -> None:
    """It has a row and an entry, and the reason stands on standard error."""
    sound, bad = both
    done = stagewright("list", "--columns", "run_id,state", folder=tmp_path)
    states = dict(line.split()[:2] for line in done.stdout.splitlines())
    assert done.returncode == 0
    assert (states[sound.name], states[bad.name]) == ("COMPLETED", "UNREADABLE")
    assert done.stderr.count("\n") == 1
    assert bad.name in done.stderr
    assert "symbolic links" in done.stderr
    printed = stagewright("list", "--state", "unreadable", "--json", folder=tmp_path).stdout
    (entry,) = json.loads(printed)
    assert (entry["folder"], entry["resumable"]) == (bad.name, False)
    assert "symbolic links" in entry["error"]


def test_a_run_that_can_be_read_again_is_listed_with_its_own_state(
    tmp_path: Path, both: Both
) -> None:
    """The catalogue does not keep that it could not be read."""
    sound, bad = both
    stagewright("list", folder=tmp_path)
    (bad / LOG).unlink()
    shutil.copy(sound / LOG, bad / LOG)
    entries = json.loads(stagewright("list", "--json", folder=tmp_path).stdout)
    assert [entry["state"] for entry in entries] == ["COMPLETED"] * 2


def test_list_leaves_out_a_run_that_is_removed_meanwhile(tmp_path: Path) -> None:
    """Its folder vanishes while the log of the run before it is read."""
    first, gone = made(tmp_path / "runs"), made(tmp_path / "runs")
    done = command_watched("list", folder=tmp_path, opens=first, deed=REMOVE, other=gone)
    assert (done.returncode, done.stderr) == (0, "")
    assert first.name[-6:] in done.stdout
    assert gone.name not in done.stdout


def test_a_folder_whose_name_is_no_text_is_listed_as_unreadable(tmp_path: Path) -> None:
    """Names of folders may hold any bytes, JSON may not."""
    sound = made(tmp_path / "runs")
    shutil.copytree(sound, tmp_path / "runs" / os.fsdecode(b"\xff"))
    done = stagewright("list", "--json", folder=tmp_path)
    states = {entry["folder"]: entry["state"] for entry in json.loads(done.stdout)}
    assert states == {sound.name: "COMPLETED", "\\udcff": "UNREADABLE"}
    assert stagewright("resume", "--all", folder=tmp_path).returncode == 1


def test_verify_all_goes_on_past_a_run_that_is_removed_meanwhile(tmp_path: Path) -> None:
    """The run that is gone is named, and those after it are checked."""
    first, gone, last = (made(tmp_path / "runs") for _ in range(3))
    done = command_watched("verify", "--all", folder=tmp_path, opens=first, deed=REMOVE, other=gone)
    assert done.returncode == 1
    assert f"{last.name}: sound" in done.stdout
    assert gone.name in done.stderr


def test_resume_all_goes_on_past_an_unreadable_run_and_exits_1(tmp_path: Path, both: Both) -> None:
    """A run that died is resumed, and the unreadable one is named."""
    _, bad = both
    dead = made(tmp_path / "runs", dead=True)
    done = stagewright("resume", "--all", folder=tmp_path)
    assert done.returncode == 1
    assert replay(dead).state is RunState.COMPLETED
    assert bad.name in done.stderr
    assert done.stderr.splitlines()[-1] == "1 completed, 1 failed"


@pytest.mark.parametrize(
    "words",
    [["replay", "last"], ["show", "last"], ["verify", "last"], ["report", "last"],
     ["bundle", "last"], ["diff", "last", "last"], ["follow", "last"]],
    ids=lambda words: words[0],
)  # fmt: skip
def test_last_is_the_last_run_that_can_be_read(
    tmp_path: Path, both: Both, words: list[str]
) -> None:
    """One line on standard error names the run that was passed over."""
    sound, bad = both
    done = stagewright(*words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sound.name in done.stdout
    assert bad.name in done.stderr.splitlines()[0]


def test_a_prefix_finds_its_run_beside_an_unreadable_one(tmp_path: Path, both: Both) -> None:
    """The unreadable run is found by its name as well, and the reason is said in one line."""
    sound, bad = both
    assert stagewright("replay", sound.name[:-1], folder=tmp_path).returncode == 0
    for name in (bad.name[:-1], f"runs/{bad.name}"):
        done = stagewright("replay", name, folder=tmp_path)
        assert done.returncode == 1
        assert "symbolic links" in done.stderr
        assert bad.name in done.stderr
        assert done.stderr.count("\n") == 1


def test_last_of_unreadable_runs_only_is_not_called_no_run(tmp_path: Path, both: Both) -> None:
    """The message says that none can be read."""
    make_looping(both[0])
    done = stagewright("replay", "last", folder=tmp_path)
    assert done.returncode == 2
    assert "can be read" in done.stderr.splitlines()[-1]


def test_show_finds_the_run_of_an_image_beside_an_unreadable_one(tmp_path: Path) -> None:
    """Where no other log knows the image, the answer names the run that was not looked at."""
    bad, sound = made(tmp_path / "runs"), made(tmp_path / "runs")
    data = image_file(sound, "00-txt2img", 0).read_bytes()
    (tmp_path / "copy.png").write_bytes(source_of(data))
    make_looping(bad)
    command = ("show", "copy.png")
    stale = command_watched(*command, folder=tmp_path, opens=bad, deed=STALE)
    assert sound.name in stale.stdout
    shutil.rmtree(sound)
    done = stagewright(*command, folder=tmp_path)
    (recorded,) = (line for line in done.stdout.splitlines() if line.startswith("recorded "))
    assert bad.name in recorded


def test_learning_names_an_unreadable_run(tmp_path: Path, both: Both) -> None:
    """The record of the other run is made, and its own comes once it can be read."""
    sound, bad = both
    done = stagewright("learning", folder=tmp_path)
    assert done.returncode == 0
    assert "1 record of 2 runs" in done.stdout
    assert bad.name in done.stderr
    (bad / LOG).unlink()
    shutil.copy(sound / LOG, bad / LOG)
    done = stagewright("learning", folder=tmp_path)
    assert "2 records of 2 runs" in done.stdout
    assert done.stderr == ""


def test_run_tells_of_a_run_that_can_go_on_beside_an_unreadable_one(
    tmp_path: Path, both: Both
) -> None:
    """The note comes as ever, and the new run completes."""
    dead = made(tmp_path / "runs", dead=True)
    done = stagewright("run", write_config(tmp_path), folder=tmp_path)
    assert done.returncode == 0
    assert f"resume runs/{dead.name}" in done.stderr
    assert both[1].exists()


@pytest.mark.posix
@pytest.mark.parametrize("closed", ["", LOG], ids=["folder", "log"])
def test_what_another_user_may_not_read_is_in_nobodys_way(closed: str) -> None:
    """A run folder of mode 0, and a log of mode 0."""
    with folder_of_anybody() as folder:
        sound, bad = made(folder / "runs"), made(folder / "runs")
        (bad / closed).chmod(0)
        listed, last, verified, resumed = commands_of_anybody(
            ("list", "--json"), ("replay", "last"), ("verify", "--all"), ("resume", "--all"),
            folder=folder,
        )  # fmt: skip
        (bad / closed).chmod(0o700)
    states = {entry["folder"]: entry["state"] for entry in json.loads(listed.stdout)}
    assert states == {sound.name: "COMPLETED", bad.name: "UNREADABLE"}
    assert (last.returncode, sound.name in last.stdout) == (0, True)
    assert (verified.returncode, f"{sound.name}: sound" in verified.stdout) == (1, True)
    assert resumed.returncode == 1
    for done in (listed, last, verified, resumed):
        assert bad.name in done.stderr
        assert "Permission denied" in done.stderr


@pytest.mark.posix
def test_what_is_no_run_and_may_not_be_looked_into_is_passed_over() -> None:
    """The `lost+found` of a disk, and a link to itself: no command speaks of them or fails."""
    with folder_of_anybody() as folder:
        sound = made(folder / "runs")
        (folder / "runs" / "lost+found").mkdir(mode=0)
        (folder / "runs" / "loop").symlink_to("loop")
        found = commands_of_anybody(
            ("list",), ("verify", "--all"), ("resume", "--all"), ("learning",), folder=folder
        )
        (folder / "runs" / "lost+found").chmod(0o700)
    assert [(done.returncode, done.stderr) for done in found] == [(0, "")] * 4
    assert sound.name[-6:] in found[0].stdout
    assert "1 run checked" in found[1].stdout


def test_a_folder_of_runs_that_cannot_be_read_is_said_in_one_line() -> None:
    """The exit status is 2, as for any other wrong folder of runs."""
    with folder_of_anybody() as folder:
        made(folder / "runs")
        (folder / "runs").chmod(0)
        found = commands_of_anybody(
            ("list",), ("verify", "--all"), ("replay", "last"), folder=folder
        )
        (folder / "runs").chmod(0o700)
    for done in found:
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "runs" in done.stderr


def test_an_input_from_an_unreadable_run_is_a_wrong_configuration(
    tmp_path: Path, both: Both
) -> None:
    """The message names the key and the log."""
    config = write_config(tmp_path, IMG2IMG.format(run=both[1].name))
    done = stagewright("plan", config, folder=tmp_path)
    assert done.returncode == 2
    assert "input_image" in done.stderr
    assert "symbolic links" in done.stderr
