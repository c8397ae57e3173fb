"""Commands on logs, folders and addresses that somebody else has had a hand in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from .command_line import Finished, run_json, stagewright, write_config
from .log_format import chain_value, changed, flip, make_log, split_bodies
from .posix import make_pipe


def rewrite(log: Path, change: dict[int, dict[str, Any]]) -> None:
    """Change fields of some records of a log, with every checksum right."""
    bodies: list[bytes] = []
    for seq, body in enumerate(split_bodies(log.read_bytes())):
        head = {"head": chain_value(bodies)} if b'"RunSealed"' in body else {}
        bodies.append(changed(body, **change.get(seq, {}), **head))
    log.write_bytes(make_log(bodies))


@pytest.mark.parametrize(
    "plan",
    [
        {"stages": 5},
        {"stages": ["a", "b"]},
        {"stages": [{"stage_id": {}, "config": {}}]},
        {"stages": [{"stage_id": "00-txt2img", "config": "boom"}]},
        {"stages": [{"stage_id": "00-txt2img", "config": {"refiner": "x", "model": [1]}}]},
        {},
    ],
)
def test_a_foreign_plan_harms_no_command(finished: Finished, plan: dict[str, Any]) -> None:
    """`list`, `replay`, `verify` and `show` answer whatever stands in a log's plan."""
    folder, printed = finished
    run = folder / "runs" / printed["run_id"]
    rewrite(run / "events.jsonl", {0: {"plan": plan}})
    for command in (
        ["list"],
        ["replay", "last"],
        ["show", printed["run_id"]],
        ["show", str(run / printed["images"][0]["path"])],
    ):
        done = stagewright(*command, folder=folder)
        assert (done.returncode, done.stderr) == (0, ""), command
    assert stagewright("verify", "last", folder=folder).returncode == 0


def test_a_duration_beyond_all_measure_is_shown(finished: Finished) -> None:
    """A number that no clock could have given does not stop a replay."""
    folder, printed = finished
    log = folder / "runs" / printed["run_id"] / "events.jsonl"
    rewrite(log, {4: {"duration_ms": 1e300}})
    done = stagewright("replay", "last", folder=folder)
    assert (done.returncode, "1e+300 ms" in done.stdout) == (0, True)


def test_an_empty_log_elsewhere_is_in_nobodys_way(finished: Finished) -> None:
    """`show` of an image of a sound run works beside a run whose log is empty."""
    folder, printed = finished
    empty = folder / "runs" / "20200101T000000.000000Z-empty-000000"
    empty.mkdir()
    (empty / "events.jsonl").touch()
    shutil.copy(
        folder / "runs" / printed["run_id"] / printed["images"][0]["path"], folder / "i.png"
    )
    assert stagewright("show", "i.png", folder=folder).returncode == 0
    assert stagewright("list", folder=folder).returncode == 0


def test_last_is_the_run_that_was_opened_last_whatever_its_folder_is_called(
    finished: Finished,
) -> None:
    """A copy of an older run under a later name is not the last run."""
    folder, printed = finished
    shutil.copytree(folder / "runs" / printed["run_id"], folder / "runs" / "zz-old-copy")
    newer = run_json(folder / "small.toml")
    done = stagewright("replay", "last", "--json", folder=folder)
    assert json.loads(done.stdout)["run_id"] == newer["run_id"]


def test_show_of_an_altered_image_exits_4(finished: Finished) -> None:
    """The log records that very path with another digest."""
    folder, printed = finished
    image = folder / "runs" / printed["run_id"] / printed["images"][0]["path"]
    flip(image, -20)
    done = stagewright("show", image, folder=folder)
    assert done.returncode == 4
    assert "altered since it was recorded" in done.stderr


@pytest.mark.posix
def test_verify_does_not_wait_on_a_pipe(finished: Finished) -> None:
    """A pipe in an image's place is no image."""
    folder, printed = finished
    image = folder / "runs" / printed["run_id"] / printed["images"][0]["path"]
    image.unlink()
    make_pipe(image)
    done = stagewright("verify", "last", folder=folder)
    assert (done.returncode, "it is not a file" in done.stdout) == (4, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "small.toml", "--server", "http://user:hunter2@host:7860"],
        ["run", "small.toml", "--set", "server.url=http://user:hunter2@host"],
        ["plan", "small.toml", "--set", "server.url=http://user:hunter2@host"],
    ],
)
def test_a_password_in_an_address_is_refused_and_not_repeated(
    tmp_path: Path, arguments: list[str]
) -> None:
    """Exit 2, no folder, and the words say what to do instead."""
    write_config(tmp_path)
    done = stagewright(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert "hunter2" not in done.stdout + done.stderr
    assert "STAGEWRIGHT_AUTH" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_every_command_takes_runs(tmp_path: Path) -> None:
    """`schema` too; without any command the help is shown, and the exit status is 2."""
    assert stagewright("schema", "--runs", "x", folder=tmp_path).returncode == 0
    done = stagewright(folder=tmp_path)
    assert done.returncode == 2
    assert "Make images:" in done.stdout
    for command in ("run", "plan", "cancel", "replay", "verify", "list", "show", "schema"):
        assert "--runs" in stagewright(command, "--help", folder=tmp_path).stdout
