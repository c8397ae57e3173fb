"""The ways to name a run or an image, and the list in which they are found."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from rich.cells import cell_len
from stagewright.adapters import open_controller
from stagewright.events import RunNotFoundError
from stagewright.statemachine.files.run_folder import find_run, run_folders

from .command_line import SMALL, run_json, stagewright, write_config
from .resuming import made
from .support import controller, document, png

NAMES = ("portrait", "portrait", "Große Häuser")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three runs, of which two have the same name."""
    runs = tmp_path / "runs"
    for name in NAMES:
        controller(runs).start(document(name=name, images=2)).wait(30)
    return runs


@pytest.mark.parametrize("place", ["here", "renamed", "archived"])
def test_a_run_is_found_by_each_of_its_names(runs: Path, place: str) -> None:
    """Its id, a prefix, its six digits, its name and ``last``, wherever the folder went."""
    folder = list(run_folders(runs))[-1]
    run_id = folder.name
    if place == "renamed":
        folder = folder.rename(runs / "best of all")
    elif place == "archived":
        (runs / "archive").mkdir()
        folder = folder.rename(runs / "archive" / run_id)
    for name in (run_id, run_id[:-2], run_id[-6:], "Große Häuser", "last", folder.name):
        assert find_run(runs, name) == folder, name
    assert set(run_folders(runs)) == {*list(run_folders(runs))[:2], folder}


def test_what_fits_several_runs_names_them(runs: Path) -> None:
    """A name that two runs have; the digits of one of them are enough."""
    first, second, _ = run_folders(runs)
    for name in ("portrait", "2"):
        with pytest.raises(RunNotFoundError, match=first.name) as caught:
            find_run(runs, name)
        assert second.name in str(caught.value)
    assert find_run(runs, second.name[-6:]) == second
    with pytest.raises(RunNotFoundError, match="no run 'portray'"):
        find_run(runs, "portray")


def test_a_copy_of_a_run_does_not_hide_it(runs: Path) -> None:
    """The folder that bears the id is the run; the copy is found by its own name."""
    first = next(run_folders(runs))
    copy = shutil.copytree(first, runs / "a copy")
    assert find_run(runs, first.name) == first
    assert find_run(runs, "a copy") == copy


@pytest.mark.parametrize("place", ["runs", "archive"])
def test_after_a_salvage_last_is_the_new_run(runs: Path, place: str) -> None:
    """Though the damaged run was the last one before; that of an archived run is not archived."""
    damaged = find_run(runs, "last")
    if place == "archive":
        (runs / "archive").mkdir()
        damaged = damaged.rename(runs / "archive" / damaged.name)
    log = damaged / "events.jsonl"
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    log.write_bytes(data)
    done = stagewright("salvage", "last", "--json", folder=runs.parent)
    new = json.loads(done.stdout)["run_id"]
    assert find_run(runs, "last") == runs / new != damaged


@pytest.mark.parametrize("name", ["last#2", "{digits}#2", "{folder}#2"])
def test_an_image_is_named_by_its_run_and_its_number(runs: Path, name: str) -> None:
    """The number counts from 1; the image is that of the furthest stage."""
    folder = find_run(runs, "last")
    named = name.format(digits=folder.name[-6:], folder=folder)
    shown = json.loads(stagewright("show", named, "--json", folder=runs.parent).stdout)
    assert (shown["run_id"], shown["image_index"]) == (folder.name, 1)
    done = stagewright("show", "last#3", folder=runs.parent)
    assert done.returncode == 2
    assert f"run {folder.name} has no image 3 of 2" in done.stderr


WIDE = """
name = "日本の家 %s"
prompt = "%s"
"""


def test_the_list_fits_the_terminal(tmp_path: Path) -> None:
    """Also with wide characters, long names and line breaks; every run is one line."""
    text = SMALL.replace('prompt = "a lighthouse at dusk"', WIDE % ("x" * 60, "日本 " * 100))
    ids = [run_json(write_config(tmp_path, text))["run_id"] for _ in range(2)]
    ids.append(run_json(write_config(tmp_path), "--set", 'prompt="one\\ntwo"')["run_id"])
    for width in (80, 60):
        env = {**os.environ, "COLUMNS": str(width)}
        header, *rows = stagewright("list", folder=tmp_path, env=env).stdout.splitlines()
        assert header.split() == ["RUN", "DATE", "NAME", "PROMPT", "MODEL", "IMAGES", "STATE"]
        assert [row.split()[0] for row in rows] == [run_id[-6:] for run_id in reversed(ids)]
        assert max(map(cell_len, [header, *rows])) <= width
        assert "one two" in rows[0] or width < 80
        assert all(row.endswith(" 2/2    COMPLETED") for row in rows)


def test_the_date_is_local_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the time zone that the user has set."""
    monkeypatch.setenv("TZ", "XYZ-3:30")
    run_json(write_config(tmp_path))
    (entry,) = json.loads(stagewright("list", "--json", folder=tmp_path).stdout)
    hours, minutes = int(entry["opened"][11:13]), int(entry["opened"][14:16])
    total = (hours * 60 + minutes + 210) % 1440
    _, row = stagewright("list", "--columns", "date", folder=tmp_path).stdout.splitlines()
    assert row.split()[1] == f"{total // 60:02}:{total % 60:02}"


@pytest.mark.parametrize(
    ("terms", "fitting"),
    [
        ("model~XL and state=completed", ["b"]),
        ("model!~xl", ["a", "c"]),
        ("name=A", ["a"]),
        ("name!=a and images>=2", ["b", "c"]),
        ("images=2/2", ["a", "b"]),
        ("images<3", ["a", "b"]),
        ("done<100", []),
        ("done=100%", ["a", "b", "c"]),
        ("prompt~'salt and pepper'", ["c"]),
        ('prompt ~ "salt and pepper" AND name = c', ["c"]),
        ("date>=2020-01-01", ["a", "b", "c"]),
        ("date<2020-01-01", []),
        ("variant='' and resumes=0 and rating!=4", ["a", "b", "c"]),
    ],
)
def test_list_is_narrowed_down_by_conditions(three: Path, terms: str, fitting: list[str]) -> None:
    """Parts of texts, whole texts, numbers and dates; all terms have to fit."""
    done = stagewright("list", "--where", terms, "--json", folder=three)
    assert done.returncode == 0, done.stderr
    assert sorted(entry["name"] for entry in json.loads(done.stdout)) == fitting


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs a, b and c."""
    folder = tmp_path_factory.mktemp("three")
    config = write_config(folder)
    run_json(config, "--set", "name=a")
    run_json(config, "--set", "name=b", "--set", "txt2img.model=sd_XL.ckpt")
    run_json(config, "--set", "name=c", "--set", "prompt=salt and pepper", "--set", "images=3")
    return folder


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--where", "modl~xl"), "no column 'modl'"),
        (("--where", "state=eror"), "no state 'eror'; there are idle, running"),
        (("--where", "model"), "'model' is not a comparison"),
        (("--where", "model~xl and state"), "'state' is not a comparison"),
        (("--where", "model~xl and"), "'' is not a comparison"),
        (("--where", "model~"), "is not a comparison"),
        (("--where", "rating>=x"), "'x' is not a number, and rating can only be compared with one"),
        (("--where", "name=a and images<few"), "'few' is not a number"),
        (("--columns", "run,nothing"), "no column 'nothing'"),
    ],
)
def test_a_wrong_condition_or_column_is_named(
    tmp_path: Path, arguments: tuple[str, str], told: str
) -> None:
    """With what there is instead."""
    done = stagewright("list", *arguments, folder=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr


def cancelled(folder: Path) -> str:
    """A run that was cancelled on purpose after its first image; its id."""
    controlled = open_controller(folder / "runs")
    handle = controlled.start(document(images=60))
    controlled.cancel(handle.run_id)
    assert handle.wait(30).state == "CANCELLED"
    return handle.run_id


def test_what_was_cancelled_is_left_in_peace(tmp_path: Path) -> None:
    """It is marked in the list, but there is no reminder, and --all leaves it out."""
    run_id = cancelled(tmp_path)
    rows = stagewright("list", folder=tmp_path).stdout
    assert f"* {run_id[-6:]}" in rows
    assert "can be resumed" not in rows
    told = stagewright("run", write_config(tmp_path), folder=tmp_path).stderr
    assert "can be resumed" not in told
    done = stagewright("resume", "--all", folder=tmp_path)
    told = done.stdout + done.stderr
    assert "1 run that you cancelled left out; --cancelled resumes them too" in told
    assert "nothing to resume" in told
    done = stagewright("resume", "--all", "--cancelled", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "can be resumed" not in stagewright("list", folder=tmp_path).stdout
    assert stagewright("resume", "last", "--cancelled", folder=tmp_path).returncode == 2


def test_an_archived_run_gets_no_reminder(tmp_path: Path) -> None:
    """It is resumed by its name alone."""
    folder = made(tmp_path / "runs", dead=True)
    (tmp_path / "runs" / "archive").mkdir()
    folder.rename(tmp_path / "runs" / "archive" / folder.name)
    assert "can be resumed" not in stagewright("list", folder=tmp_path).stdout
    assert "nothing to resume" in stagewright("resume", "--all", folder=tmp_path).stdout
    assert stagewright("resume", folder.name[-6:], folder=tmp_path).returncode == 0


def test_verify_prints_what_it_found_as_one_document(runs: Path) -> None:
    """Of one run an object, of all a list; the exit status is the same."""
    (folder, *_) = run_folders(runs)
    next(folder.glob("images/*/*")).unlink()
    one = stagewright("verify", folder, "--json", folder=runs.parent)
    every = stagewright("verify", "--all", "--json", folder=runs.parent)
    assert (one.returncode, every.returncode) == (4, 4)
    found = json.loads(one.stdout)
    assert (found["sound"], found["finished"], found["advice"]) == (
        False,
        True,
        "make 1 image again",
    )
    assert found["flaws"] == [{"place": "images/00-txt2img/00000-100.png", "what": "it is missing"}]
    assert [row["sound"] for row in json.loads(every.stdout)] == [False, True, True]


@pytest.mark.parametrize(
    "words",
    [
        ("list",), ("learning",), ("verify", "--all"), ("resume", "--all"), ("show", "last"),
        ("show", "i.png"), ("config", "last"), ("replay", "last"), ("report", "last"),
        ("bundle", "last"), ("rm", "last", "--yes"), ("archive", "last"), ("cancel", "last"),
        ("follow", "last"), ("salvage", "last"), ("diff", "last", "last"), ("verify", "last"),
    ],
)  # fmt: skip
def test_a_folder_of_runs_that_is_not_there_is_wrong_usage(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    """In every command that reads runs: exit 2 and one line that names it."""
    (tmp_path / "i.png").write_bytes(png(1))
    done = stagewright(*words, "--runs", "missing", folder=tmp_path)
    assert done.returncode == 2
    assert "missing" in done.stderr
    assert len(done.stderr.splitlines()) == 1
