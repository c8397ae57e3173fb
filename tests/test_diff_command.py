"""``diff`` as people use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stagewright.statemachine import BackendError, GenerateRequest

from .command_line import run_json, stagewright, write_config
from .resuming import LOG, painter, ran, small
from .salvaging import spoil
from .stories import Story, save_log
from .test_diff import with_answers


def diff(*arguments: str | Path, folder: Path, status: int = 0) -> str:
    """What is printed of two runs."""
    done = stagewright("diff", *arguments, folder=folder)
    assert done.returncode == status, done.stderr
    return done.stdout


def test_equal_runs_are_told_in_one_line(tmp_path: Path) -> None:
    """Two runs of one configuration on the embedded backend."""
    config = write_config(tmp_path)
    first, second = (run_json(config)["run_id"] for _ in range(2))
    said = diff(first, second, "--exit-code", folder=tmp_path)
    assert said == f"no difference: {first} and {second}, 1 stage, 2 images\n"
    assert json.loads(diff(first, "last", "--json", folder=tmp_path))["same"] is True


def test_what_differs_is_told_by_section(tmp_path: Path) -> None:
    """From left to right, under a heading each; exit status 1 if that was asked for."""
    config = write_config(tmp_path)
    first = run_json(config)["run_id"]
    second = run_json(config, "--set", "txt2img.steps=6", "--set", "images=3")["run_id"]
    said = diff(first, second, "--exit-code", folder=tmp_path, status=1)
    assert said == diff(first, second, folder=tmp_path)
    blocks = [block.splitlines() for block in said.split("\n\n")]
    assert [block[0] for block in blocks[1:]] == [
        "configuration as given",
        "resolved plan",
        "settings used",
        "images",
        "durations (not counted as a difference)",
    ]
    assert blocks[1][1:] == ["  images: 2 -> 3", "  txt2img.steps: 4 -> 6"]
    assert "  txt2img.steps: 4 -> 6 (all 2 images)" in blocks[3]
    assert "  txt2img: 2 different (1-2), 1 only right (3)" in blocks[4]


def test_another_image_of_the_same_request_stands_out(tmp_path: Path) -> None:
    """It is what a person looks for who hunts a server that is not deterministic."""
    left = ran(tmp_path / "runs", small(), painter())
    right = ran(tmp_path / "runs", small(), painter(salt="other"))
    said = diff(left, right, folder=tmp_path)
    assert "images\n  txt2img: 2 different (1-2)\n    same request, different image: 1-2\n" in said


def test_long_values_are_shortened_to_where_they_differ(tmp_path: Path) -> None:
    """``--json`` has them whole."""
    long = "a lighthouse at dusk, " * 20
    left, right = (with_answers(tmp_path / name, {"prompt": long + name}) for name in "xy")
    (line,) = [x for x in diff(left, right, folder=tmp_path).splitlines() if "prompt" in x]
    assert len(line) < 120
    assert 'dusk, x" -> ...' in line
    found: Any = json.loads(diff(left, right, "--json", folder=tmp_path))
    (used,) = found["stages"][0]["answers"]["used"]
    assert (used["left"], used["right"]) == (long + "x", long + "y")


def test_the_message_of_an_error_is_shown_whole(tmp_path: Path) -> None:
    """What went wrong stands at the end of many a message."""
    message = "CUDA out of memory: " + "tried to allocate " * 10 + "and there was none"

    def fail(_request: GenerateRequest, _cancel: object) -> None:
        raise BackendError(message)

    left = ran(tmp_path / "runs", small(), painter())
    right = ran(tmp_path / "runs", small(), painter(fail))
    assert message in diff(left, right, folder=tmp_path)


def test_sections_without_end_are_cut(tmp_path: Path) -> None:
    """Forty lines, and how many more there are."""
    left = with_answers(tmp_path / "x", {f"k{n:03d}": 1 for n in range(100)})
    right = with_answers(tmp_path / "y", {f"k{n:03d}": 2 for n in range(100)})
    said = diff(left, right, folder=tmp_path)
    assert "  ... and 60 more (--json has them all)" in said


def test_a_hostile_log_cannot_steer_the_terminal(tmp_path: Path) -> None:
    """Control characters are shown as escapes, in keys as in values."""
    left = with_answers(tmp_path / "x", {"\x1b[31mred": "\x1b]0;title\x07"})
    right = with_answers(tmp_path / "y", {"steps": 1})
    said = diff(left, right, folder=tmp_path)
    assert "\x1b" not in said
    assert "\\x1b[31mred" in said


@pytest.mark.parametrize("corrupt", ["a", "b"])
def test_a_corrupt_log_is_one_line_and_exit_status_4(tmp_path: Path, corrupt: str) -> None:
    """It names the log and the place; nothing is printed of the other run."""
    events = Story("txt2img").move("start").stage("txt2img").events
    folders = [save_log(tmp_path / name, events) for name in ("a", "b")]
    spoil(tmp_path / corrupt, 3)
    done = stagewright("diff", *folders, folder=tmp_path)
    assert (done.returncode, done.stdout) == (4, "")
    assert f"{corrupt}/{LOG}: corrupt at byte" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["nothing", "nothing"], ["one"], ["a", "b", "c"]])
def test_wrong_usage_is_one_line(tmp_path: Path, arguments: list[str]) -> None:
    """No such run, one run, three runs: exit status 2."""
    done = stagewright("diff", *arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
