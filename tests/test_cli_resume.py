"""``stagewright resume`` as a user calls it: names, exit statuses, words, JSON."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters import open_controller
from stagewright.events import CallCompleted, CallRequested, RunState, replay
from stagewright.events.log.lock import RunLock

from .command_line import SMALL, Start, run_json, stagewright, until, write_config
from .log_format import make_log, split_bodies, split_lines
from .resuming import (
    LOG,
    comparable,
    copied,
    cut,
    cut_before,
    files,
    image_file,
    painter,
    ran,
    small,
)
from .support import png

SLOW = SMALL.replace("steps = 4", "steps = 4000")
EMBEDDED = small("txt2img", "img2img")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sealed run of the embedded backend."""
    handle = open_controller(tmp_path_factory.mktemp("whole")).start(EMBEDDED)
    handle.wait(30)
    return handle.folder


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


@pytest.mark.parametrize("name", ["id", "prefix", "last", "folder", "path"])
def test_a_run_is_named_in_any_of_the_usual_ways(dead: Path, whole: Path, name: str) -> None:
    """Exit 0, and the images of the uninterrupted run."""
    top = dead.parent.parent
    given = {
        "id": dead.name,
        "prefix": dead.name[:20],
        "last": "last",
        "folder": str(dead),
        "path": f"runs/{dead.name}",
    }[name]
    done = stagewright("resume", given, folder=top)
    assert done.returncode == 0, done.stderr
    assert comparable(replay(dead)) == comparable(replay(whole))


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


def test_an_unsealed_finished_run_is_sealed(whole: Path, tmp_path: Path) -> None:
    """Exit 0; ``verify`` is content afterwards."""
    folder = copied(whole, tmp_path / "runs")
    cut(folder, len(split_lines((folder / LOG).read_bytes())) - 1)
    assert stagewright("verify", "last", folder=tmp_path).returncode == 1
    assert stagewright("resume", "last", folder=tmp_path).returncode == 0
    assert stagewright("verify", "last", folder=tmp_path).returncode == 0


def test_a_file_that_is_altered_is_made_again_by_the_command(whole: Path, tmp_path: Path) -> None:
    """``verify`` names it with exit 4; after the resume it is sound."""
    folder = copied(whole, tmp_path / "runs")
    file = image_file(folder, "00-txt2img", 0)
    sound = file.read_bytes()
    file.write_bytes(b"x")
    assert stagewright("verify", "last", folder=tmp_path).returncode == 4
    assert stagewright("resume", "last", folder=tmp_path).returncode == 0
    assert stagewright("verify", "last", folder=tmp_path).returncode == 0
    assert len(file.read_bytes()) == len(sound)
    assert file.with_name(f"{file.name}.altered-1").read_bytes() == b"x"


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


def check_refused(folder: Path, status: int, *words_said: str, arguments: Any = ()) -> None:
    """One line that says these words, and the folder as it was."""
    before = files(folder)
    done = stagewright("resume", folder.name, *arguments, folder=folder.parent.parent)
    assert done.returncode == status, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for word in words_said:
        assert word in lines[0]
    assert done.stdout == ""
    assert files(folder) == before


def test_a_corrupt_log_is_exit_4(dead: Path) -> None:
    """The offset is named and the log is untouched."""
    data = bytearray((dead / LOG).read_bytes())
    data[100] ^= 1
    (dead / LOG).write_bytes(bytes(data))
    check_refused(dead, 4, "corrupt at byte 0")


def test_a_run_that_is_held_is_exit_2_and_names_the_holder(dead: Path) -> None:
    """By its process and host."""
    lock = RunLock(dead)
    lock.note_epoch(7)
    try:
        check_refused(dead, 2, f"process {os.getpid()} on ", "(epoch 7)")
    finally:
        lock.release()


def test_a_run_of_another_kind_of_backend_is_exit_2(tmp_path: Path) -> None:
    """The command has only the embedded backend and WebUI servers."""
    folder = ran(tmp_path / "runs", small(), painter())
    cut_before(folder, CallCompleted)
    check_refused(folder, 2, "'scripted'", "--server")


def test_a_plan_of_a_newer_version_is_exit_1(dead: Path) -> None:
    """It is refused before anything is written."""
    first, *others = split_bodies((dead / LOG).read_bytes())
    newer = first.replace(b'"stage_id":"00-txt2img"', b'"stage_id":"00-txt2img","new_key":1', 1)
    assert newer != first
    (dead / LOG).write_bytes(make_log([newer, *others]))
    check_refused(dead, 1, "new_key")


def test_fruitless_epochs_are_exit_1_until_forced(tmp_path: Path) -> None:
    """Five processes that died before an image was there; ``--force`` tries again."""
    folder = open_controller(tmp_path / "runs").start(small(images=1)).folder
    until(lambda: open_controller(tmp_path).state is RunState.IDLE, "the run's end")
    replayed = replay(folder)
    assert replayed.run_id == folder.name
    for nth in range(5):
        until(lambda: b"RunSealed" in (folder / LOG).read_bytes(), "the seal")
        requests = [one for one in replay(folder).events if isinstance(one, CallRequested)]
        cut(folder, requests[-1].seq + 1)
        if nth < 4:
            assert stagewright("resume", "last", folder=tmp_path).returncode == 0
    check_refused(folder, 1, "5 epochs in a row", "--force")
    assert stagewright("resume", "last", "--force", folder=tmp_path).returncode == 0


def test_an_input_copy_that_is_needed_and_gone_is_exit_4(tmp_path: Path) -> None:
    """The line names the file."""
    (tmp_path / "given.png").write_bytes(png(1))
    config = small("img2img", images=1, input_image=str(tmp_path / "given.png"))
    handle = open_controller(tmp_path / "runs").start(config)
    handle.wait(30)
    cut_before(handle.folder, CallRequested)
    copy = next((handle.folder / "inputs").iterdir())
    copy.unlink()
    check_refused(handle.folder, 4, copy.name)


@pytest.fixture
def several(dead: Path, whole: Path) -> list[Path]:
    """Runs of one folder, the oldest first: dead, finished, corrupt, dead, unsealed."""
    runs = dead.parent
    finished = opened_later(whole, runs, 1)
    assert stagewright("resume", finished, folder=runs.parent).returncode == 0
    corrupt = opened_later(dead, runs, 2)
    data = bytearray((corrupt / LOG).read_bytes())
    data[-100] ^= 1
    (corrupt / LOG).write_bytes(bytes(data))
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


def test_all_goes_on_past_a_refused_run_and_one_that_is_held(dead: Path, whole: Path) -> None:
    """The refused one decides the exit status; the held one is not waiting to be resumed."""
    runs = dead.parent
    held = opened_later(dead, runs, 1)
    foreign = ran(runs, small(), painter())
    cut_before(foreign, CallCompleted)
    lock = RunLock(held)
    before = files(held), files(foreign)
    try:
        done = stagewright("resume", "--all", folder=runs.parent)
    finally:
        lock.release()
    assert done.returncode == 2
    assert (files(held), files(foreign)) == before
    assert comparable(replay(dead)) == comparable(replay(whole))


def test_run_tells_of_runs_that_can_go_on(dead: Path) -> None:
    """One by its path, several by ``--all``; with --json standard output stays one document."""
    top = dead.parent.parent
    config = write_config(top)
    done = stagewright("run", config, folder=top)
    assert f"stagewright resume runs/{dead.name}" in done.stdout
    opened_later(dead, dead.parent, 1)
    several = stagewright("run", config, folder=top)
    assert re.search(r"2 runs .*can be resumed: stagewright resume --all", several.stdout)
    told = stagewright("run", config, "--json", folder=top)
    assert json.loads(told.stdout)["state"] == "COMPLETED"
    assert "stagewright resume --all" in told.stderr


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
    lock = RunLock(later)
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


@pytest.mark.parametrize(("records", "expected"), [(1, True), (2, True), (5, True), (99, False)])
def test_list_follows_a_run_from_death_to_end(
    whole: Path, tmp_path: Path, records: int, *, expected: bool
) -> None:
    """Also where only RunOpened is there; after the resume there is nothing left to do."""
    folder = copied(whole, tmp_path / "runs")
    cut(folder, min(records, len(split_lines((folder / LOG).read_bytes()))))
    assert listed(tmp_path) == {folder.name: expected}
    assert stagewright("resume", "--all", folder=tmp_path).returncode == 0
    assert listed(tmp_path) == {folder.name: False}


def first_image(runs: Path) -> bool:
    """Whether the log of the only run has a finished image."""
    return any(b'"CallCompleted"' in log.read_bytes() for log in runs.glob("*/events.jsonl"))


def test_a_killed_run_goes_on_with_its_own_plan(start: Start, tmp_path: Path) -> None:
    """kill -9 in the middle; the configuration that has changed since does not matter."""
    config = write_config(tmp_path, SMALL.replace("images = 2", "images = 60"))
    expected = run_json(config, "--runs", "whole")
    process = start("run", config, folder=tmp_path)
    until(lambda: first_image(tmp_path / "runs"), "the first image")
    process.kill()
    process.wait(30)
    config.write_text("nonsense", encoding="utf-8")
    (folder,) = (path.parent for path in (tmp_path / "runs").glob("*/events.jsonl"))
    assert replay(folder).state is RunState.RUNNING
    assert "(died)" in stagewright("list", folder=tmp_path).stdout
    done = stagewright("resume", "last", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [one["source_sha256"] for one in result["images"]] == [
        one["source_sha256"] for one in expected["images"]
    ]
    assert stagewright("verify", "last", folder=tmp_path).returncode == 0


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "cancel"])
def test_a_resumed_run_is_stopped_as_any_other(start: Start, tmp_path: Path, how: str) -> None:
    """Exit 3, CANCELLED, sealed; and it goes on from there."""
    folder = open_controller(tmp_path / "runs").start(small(images=400)).folder
    until(lambda: b'"CallCompleted"' in (folder / LOG).read_bytes(), "the first image")
    stagewright("cancel", folder.name, folder=tmp_path)
    until(lambda: b'"RunSealed"' in (folder / LOG).read_bytes(), "the end")
    finished = len(replay(folder).images)
    assert 0 < finished < 400
    process = start("resume", "last", "--json", folder=tmp_path)
    until(lambda: b'"RunResumed"' in (folder / LOG).read_bytes(), "the second epoch")
    if how == "cancel":
        assert stagewright("cancel", "last", folder=tmp_path).returncode == 0
    else:
        process.send_signal(signal.SIGINT if how == "Ctrl-C" else signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 3
    result = json.loads(output)
    assert (result["state"], result["resumes"]) == ("CANCELLED", 1)
    assert len(result["images"]) >= finished
    assert stagewright("verify", "last", folder=tmp_path).returncode == 0


def test_two_processes_that_resume_one_run(start: Start, dead: Path, whole: Path) -> None:
    """Exactly one goes on; the other names the holder, or comes late and finds nothing to do."""
    top = dead.parent.parent
    processes = [start("resume", "last", "--json", folder=top) for _ in range(2)]
    ended = [process.communicate(timeout=30) for process in processes]
    codes = sorted(process.returncode for process in processes)
    assert codes in ([0, 0], [0, 2])
    assert codes == [0, 0] or any("another process" in words for _, words in ended)
    assert replay(dead).resumes == 1
    assert comparable(replay(dead)) == comparable(replay(whole))
