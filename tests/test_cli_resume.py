"""``stagewright resume`` as a user calls it: names, exit statuses, words, JSON."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from stagewright.events import CallCompleted, CallRequested, replay
from stagewright.events.log.lock import FileLock

from .command_line import run_json, stagewright, write_config
from .log_format import flip, make_log, split_bodies
from .real_disks import assert_one_clear_line
from .resuming import (
    LOG,
    copied,
    cut_before,
    files,
    made,
    painter,
    ran,
    small,
)

EMBEDDED = small("txt2img", "img2img")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sealed run of the embedded backend."""
    return made(tmp_path_factory.mktemp("whole"), EMBEDDED)


@pytest.fixture
def dead(whole: Path, tmp_path: Path) -> Path:
    """A run below ``runs`` whose process died while its second image was being made."""
    folder = copied(whole, tmp_path / "runs")
    cut_before(folder, CallRequested, 1)
    return folder


def opened_later(folder: Path, runs: Path, day: int) -> Path:
    """A copy of a run under the id of a later day, and without its seal."""
    again = runs / re.sub(r"^\d{8}", f"202701{day:02d}", folder.name)
    shutil.copytree(folder, again)
    data = (folder / LOG).read_bytes().replace(folder.name.encode(), again.name.encode())
    stamp, later = rb'"ts":"\d{4}-\d\d-\d\d', f'"ts":"2027-01-{day:02d}'.encode()
    bodies = [re.sub(stamp, later, body) for body in split_bodies(data)]
    (again / LOG).write_bytes(make_log(one for one in bodies if b'"RunSealed"' not in one))
    return again


def test_json_is_one_document_and_nothing_else(dead: Path, whole: Path) -> None:
    """The result of the whole run, as ``replay --json`` prints it."""
    done = stagewright("resume", "last", "--json", folder=dead.parent.parent)
    assert done.returncode == 0
    result = json.loads(done.stdout)
    told = json.loads(stagewright("replay", dead, "--json", folder=dead.parent.parent).stdout)
    assert result == told
    assert (result["state"], result["resumes"]) == ("COMPLETED", 1)
    expected = [image.source_sha256 for image in replay(whole).images]
    assert [image["source_sha256"] for image in result["images"]] == expected


def test_a_finished_run_is_left_as_it_is_with_exit_0(whole: Path, tmp_path: Path) -> None:
    """Once and twice; its result is printed all the same."""
    folder = copied(whole, tmp_path / "runs")
    before = files(folder)
    for _ in range(2):
        done = stagewright("resume", "last", "--json", folder=tmp_path)
        assert done.returncode == 0
        assert json.loads(done.stdout)["state"] == "COMPLETED"
    assert files(folder) == before


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("last", "--all"),
        ("last", "--server", "http://127.0.0.1:1", "--server", "http://127.0.0.1:2"),
        ("nobody",),
        ("2",),
        ("last", "--server", "ftp://x"),
        ("last", "--no-such-option"),
    ],
)
def test_wrong_usage_is_exit_2_and_changes_nothing(dead: Path, arguments: tuple[str, ...]) -> None:
    """One line on standard error, nothing on standard output."""
    opened_later(dead, dead.parent, 1)
    before = files(dead.parent)
    done = stagewright("resume", *arguments, folder=dead.parent.parent)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert files(dead.parent) == before


def test_a_run_of_another_kind_of_backend_is_exit_2(tmp_path: Path) -> None:
    """One line that names the kind and what to do, and the folder as it was."""
    folder = ran(tmp_path / "runs", small(), painter())
    cut_before(folder, CallCompleted)
    before = files(folder)
    done = stagewright("resume", "last", folder=tmp_path)
    assert_one_clear_line(done, "'scripted'", "--server", status=2)
    assert files(folder) == before


@pytest.fixture
def several(dead: Path, whole: Path) -> list[Path]:
    """Runs of one folder, the oldest first: dead, finished, corrupt, dead, unsealed."""
    runs = dead.parent
    finished = opened_later(whole, runs, 1)
    assert stagewright("resume", finished, folder=runs.parent).returncode == 0
    corrupt = opened_later(dead, runs, 2)
    flip(corrupt / LOG, -100)
    later = opened_later(dead, runs, 3)
    unsealed = opened_later(whole, runs, 4)
    return [dead, finished, corrupt, later, unsealed]


def test_all_takes_every_run_that_can_go_on_the_oldest_first(several: list[Path]) -> None:
    """The corrupt one is told and passed over; its exit status is the gravest."""
    dead, finished, corrupt, later, unsealed = several
    before = files(corrupt), files(finished)
    done = stagewright("resume", "--all", "--json", folder=dead.parent.parent)
    assert done.returncode == 4
    results = json.loads(done.stdout)
    assert [one["run_id"] for one in results] == [dead.name, later.name, unsealed.name]
    assert {one["state"] for one in results} == {"COMPLETED"}
    assert (files(corrupt), files(finished)) == before
    (line,) = [one for one in done.stderr.splitlines() if one.startswith("stagewright:")]
    assert corrupt.name in line


def test_all_of_nothing_is_exit_0(tmp_path: Path) -> None:
    """In words, or as an empty list."""
    done = stagewright("resume", "--all", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing to resume" in done.stdout
    told = stagewright("resume", "--all", "--json", folder=tmp_path)
    assert (told.returncode, json.loads(told.stdout)) == (0, [])


def test_run_tells_of_runs_that_can_go_on_beside_its_json(dead: Path) -> None:
    """Standard output stays one document."""
    top = dead.parent.parent
    opened_later(dead, dead.parent, 1)
    told = stagewright("run", write_config(top), "--json", folder=top)
    assert json.loads(told.stdout)["state"] == "COMPLETED"
    assert re.search(r"2 runs .*can be resumed: stagewright resume --all", told.stderr)


def test_run_says_nothing_where_nothing_can_go_on(tmp_path: Path) -> None:
    """A finished run is no news."""
    config = write_config(tmp_path)
    run_json(config)
    done = stagewright("run", config, folder=tmp_path)
    assert "resume" not in done.stdout + done.stderr


def listed(folder: Path) -> dict[str, bool]:
    """By folder, whether ``list --json`` says that a run can go on."""
    done = stagewright("list", "--json", folder=folder)
    return {entry["folder"]: entry["resumable"] for entry in json.loads(done.stdout)}


def test_list_says_which_runs_can_go_on(several: list[Path], tmp_path: Path) -> None:
    """Dead and unsealed ones; not the finished, the corrupt and the held one."""
    dead, finished, corrupt, later, unsealed = several
    lock = FileLock(later)
    try:
        told = listed(tmp_path)
    finally:
        lock.release()
    assert told == {
        dead.name: True, finished.name: False, corrupt.name: False, later.name: False,
        unsealed.name: True,
    }  # fmt: skip
    words = stagewright("list", folder=tmp_path).stdout
    assert re.search(r"3 runs .*can be resumed: stagewright resume", words)
