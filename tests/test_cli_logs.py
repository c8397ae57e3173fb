"""`replay`, `verify`, `list` and `show`: what can be told from logs alone."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from stagewright.adapters import open_controller

from .command_line import SMALL, Finished, run_json, stagewright, write_config
from .log_format import flip

pytestmark = pytest.mark.lowest


def listed(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    done = stagewright("list", "--json", *arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_replay_gives_the_result_that_the_run_printed(finished: Finished) -> None:
    """Also with every projection and the lock file deleted."""
    folder, printed = finished
    listed(folder)
    for projection in ("catalogue.sqlite", "learning.jsonl", f"{printed['run_id']}/run.lock"):
        (folder / "runs" / projection).unlink(missing_ok=True)
    for command in ("replay", "show"):
        shown = stagewright(command, "last", "--json", folder=folder)
        assert json.loads(shown.stdout) == printed


def test_replay_until_a_sequence_number_stops_there(finished: Finished) -> None:
    """At event 4 the run is RUNNING, with one image's request answered."""
    folder, _ = finished
    done = stagewright("replay", "last", "--until", "4", "--json", folder=folder)
    result = json.loads(done.stdout)
    assert (result["state"], len(result["events"]), len(result["images"])) == ("RUNNING", 5, 1)


def test_replay_prints_state_and_timeline(finished: Finished) -> None:
    """One line for each event, in order, behind the summary."""
    folder, printed = finished
    lines = stagewright("replay", "last", folder=folder).stdout.splitlines()
    assert lines[0] == f"{printed['run_id']}: COMPLETED"
    numbered = [line.split()[0] for line in lines if line[:1] == " " and line.split()[0].isdigit()]
    assert numbered == [str(seq) for seq in range(len(printed["events"]))]


def test_a_run_is_found_by_id_prefix_last_and_folder(finished: Finished) -> None:
    """All four name the same run; a prefix that fits two is refused, naming them."""
    folder, printed = finished
    run_id = str(printed["run_id"])
    for name in (run_id, run_id[:24], "last", f"runs/{run_id}"):
        for command in ("replay", "show", "resume"):
            done = stagewright(command, name, "--json", folder=folder)
            assert json.loads(done.stdout)["run_id"] == run_id
    run_json(folder / "small.toml")
    done = stagewright("replay", "20", folder=folder)
    assert done.returncode == 2
    assert "fits 2 runs" in done.stderr


def test_verify_of_a_finished_run_is_sound(finished: Finished) -> None:
    """Exit 0, and nothing in the folder has changed."""
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done = stagewright("verify", "last", folder=folder)
    assert (done.returncode, "sound" in done.stdout) == (0, True)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def cut(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def link(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere.png"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize(
    ("damage", "status", "words"),
    [
        (lambda run: flip(run / "images/00-txt2img/00001-43.png", -20), 4, "00001-43.png: it has"),
        (lambda run: (run / "images/00-txt2img/00000-42.png").unlink(), 4, "is missing"),
        (lambda run: link(run / "images/00-txt2img/00000-42.png"), 4, "it is a link"),
        (lambda run: flip(run / "events.jsonl", 5000), 4, "corrupt"),
        (lambda run: cut(run / "events.jsonl", 10), 1, "cut the torn tail"),
        (lambda run: cut(run / "events.jsonl", 1), 1, "cut the torn tail"),
        (lambda run: flip(run / "events.jsonl", -2), 4, "byte"),
    ],
)
def test_verify_tells_damage_from_an_unfinished_run(
    finished: Finished,
    damage: Callable[[Path], None],
    status: int,
    words: str,
) -> None:
    """Altered or missing images and corrupt logs exit 4 naming the place, torn tails 1."""
    folder, printed = finished
    damage(folder / "runs" / printed["run_id"])
    done = stagewright("verify", "last", folder=folder)
    assert done.returncode == status
    assert words in done.stdout + done.stderr or "byte" in done.stdout


def test_verify_all_checks_every_run_and_exits_with_the_worst(finished: Finished) -> None:
    """One altered image among two runs makes the whole 4."""
    folder, printed = finished
    run_json(folder / "small.toml")
    assert stagewright("verify", "--all", folder=folder).returncode == 0
    flip(folder / "runs" / printed["run_id"] / "images/00-txt2img/00000-42.png", -20)
    done = stagewright("verify", "--all", folder=folder)
    assert done.returncode == 4
    assert "2 runs checked" in done.stdout


def test_a_corrupt_log_is_refused_with_its_offset(finished: Finished) -> None:
    """`replay` exits 4 and names file and byte."""
    folder, printed = finished
    flip(folder / "runs" / printed["run_id"] / "events.jsonl", 60)
    done = stagewright("replay", "last", folder=folder)
    assert done.returncode == 4
    assert "events.jsonl: corrupt at byte 0" in done.stderr


def test_list_answers_with_filters_the_latest_first(tmp_path: Path) -> None:
    """State, model, age and limit narrow the list down."""
    config = write_config(tmp_path)
    first = run_json(config)["run_id"]
    conflicting = tomllib.loads(SMALL) | {"sampler": "DDIM"}  # a program may start such a run
    failed = open_controller(tmp_path / "runs").start(conflicting).wait(60).run_id
    other = run_json(config, "--set", "txt2img.model=Fancy-XL.ckpt")["run_id"]
    ids = [entry["run_id"] for entry in listed(tmp_path)]
    assert ids == [other, failed, first]
    assert [e["run_id"] for e in listed(tmp_path, "--state", "error")] == [failed]
    assert [e["run_id"] for e in listed(tmp_path, "--model", "fancy")] == [other]
    assert [e["run_id"] for e in listed(tmp_path, "--limit", "2")] == [other, failed]
    assert len(listed(tmp_path, "--since", "1h")) == 3
    assert listed(tmp_path, "--since", "2100-01-01") == []
    lines = stagewright("list", folder=tmp_path).stdout.splitlines()
    assert [line[2:8] for line in lines] == ["RUN   ", *(run_id[-6:] for run_id in ids)]


def damaged_page(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)


def older_schema(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE runs")
        database.execute("PRAGMA user_version = 0")
    database.close()


@pytest.mark.parametrize(
    "harm",
    [
        Path.unlink,
        lambda path: path.write_bytes(b"no database at all, " * 100),
        lambda path: path.write_bytes(b""),
        damaged_page,
        older_schema,
    ],
    ids=["missing", "garbage", "empty", "damaged page", "older schema"],
)
def test_the_catalogue_is_rebuilt_whatever_happened_to_it(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    """The same answer as before, from the logs alone."""
    config = write_config(tmp_path)
    run_json(config)
    run_json(config)
    before = listed(tmp_path)
    harm(tmp_path / "runs" / "catalogue.sqlite")
    assert listed(tmp_path) == before


def test_the_catalogue_follows_logs_that_change_appear_and_vanish(tmp_path: Path) -> None:
    """A removed run is gone, a new one there, a damaged one CORRUPT."""
    config = write_config(tmp_path)
    gone, harmed = run_json(config)["run_id"], run_json(config)["run_id"]
    assert len(listed(tmp_path)) == 2
    shutil.rmtree(tmp_path / "runs" / gone)
    flip(tmp_path / "runs" / harmed / "events.jsonl", 100)
    added = run_json(config)["run_id"]
    assert [(e["folder"], e["state"]) for e in listed(tmp_path)] == [
        (added, "COMPLETED"),
        (harmed, "CORRUPT"),
    ]


ON_ALL = [("list",), ("list", "--json"), ("learning",), ("verify", "--all"), ("resume", "--all")]


@pytest.mark.parametrize("words", ON_ALL, ids=" ".join)
def test_a_folder_of_runs_that_is_named_and_not_there_is_wrong_usage(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Exit 2 and one line, where it would else be an answer of no run."""
    done = stagewright(*words, "--runs", "rnus", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "rnus" in done.stderr


@pytest.mark.parametrize("words", ON_ALL, ids=" ".join)
def test_the_usual_folder_of_runs_need_not_be_there_yet(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Before the first run there is no run to be told of."""
    done = stagewright(*words, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_show_tells_where_an_image_came_from(finished: Finished) -> None:
    """Run, stage, index, seed and settings, wherever the image lies now."""
    folder, printed = finished
    run = folder / "runs" / printed["run_id"]
    original = run / printed["images"][1]["path"]
    moved = folder / "moved.png"
    shutil.copy(original, moved)
    for image in (original, moved):
        found = json.loads(stagewright("show", image, "--json", folder=folder).stdout)
        assert (found["run_id"], found["stage_id"]) == (printed["run_id"], "00-txt2img")
        assert (found["image_index"], found["artifact"]["seed"]) == (1, 43)
        assert found["settings"]["sampler"] == "Euler a"
        assert found["exact"] is True
    shown = stagewright("show", moved, folder=folder).stdout
    assert "43" in shown
    assert "base.safetensors" in shown


def test_show_knows_an_image_whose_own_chunk_was_removed(finished: Finished) -> None:
    """The source's digest decides, not what the image says of itself."""
    folder, printed = finished
    data = (folder / "runs" / printed["run_id"] / printed["images"][0]["path"]).read_bytes()
    length = int.from_bytes(data[33:37], "big")
    assert data[37:53] == b"tEXtstagewright\0"
    bare = folder / "bare.png"
    bare.write_bytes(data[:33] + data[33 + 12 + length :])
    found = json.loads(stagewright("show", bare, "--json", folder=folder).stdout)
    assert (found["image_index"], found["exact"]) == (0, False)


def test_show_does_not_believe_an_image_that_lies(finished: Finished) -> None:
    """Our chunk around other pixels is refused: no log vouches for them."""
    folder, printed = finished
    data = (folder / "runs" / printed["run_id"] / printed["images"][0]["path"]).read_bytes()
    length = int.from_bytes(data[33:37], "big")
    Image.new("RGB", (64, 64), "red").save(folder / "red.png")
    red = (folder / "red.png").read_bytes()
    (folder / "liar.png").write_bytes(red[:33] + data[33 : 45 + length] + red[33:])
    done = stagewright("show", "liar.png", folder=folder)
    assert done.returncode == 2
    assert printed["run_id"] in done.stderr
