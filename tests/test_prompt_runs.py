"""Runs with a prompt file, as their user has them: killed, resumed, shown, checked on a server."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters import open_controller
from stagewright.events import CallRequested, iterate
from stagewright.statemachine.errors import PreflightError

from .command_line import stagewright, write_config
from .crashing import KILLED, LOG, check_history, only_run, voyage
from .foreign_runs import foreign, refused
from .foreign_runs import opened as of_opened
from .forking import Json
from .resuming import painter, resumed
from .salvaging import salvage
from .support import TXT2IMG, document
from .test_prompts import opened, ran, rows
from .webui_server import ScriptedWebUI

STAGES = ("txt2img", "img2img", "adetailer")
ROWS = """prompt,negative_prompt,seed
a cat,,
a cat,,
a dog,ugly,7
a dog,ugly,8
a dog,ugly,9
a cow,,
a cow,,
"""
SPANS = [(0, 2), (2, 3), (5, 2)]


def voyage_over_rows(folder: Path) -> Path:
    """A configuration of seven images, whose batches of four end early, and its file."""
    folder.mkdir()
    (folder / "rows.csv").write_text(ROWS, encoding="utf-8")
    txt2img = {**TXT2IMG, "batch_size": 4}
    top: dict[str, Any] = {"images": 1, "prompts": "rows.csv", "txt2img": txt2img}
    config = json.loads(voyage(folder, *STAGES, **top).read_text(encoding="utf-8"))
    del config["prompt"]
    return write_config(folder, json.dumps(config), "voyage.json")


def sources(run: Path) -> dict[tuple[str, int], str]:
    """The digest of the source of every image, over all stages."""
    return {
        (call.rsplit(".", 2)[0].rsplit(".", 1)[-1], image.image_index): image.source_sha256
        for event in iterate(run)
        if (call := getattr(event, "call_id", "")) and hasattr(event, "artifacts")
        for image in event.artifacts
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody interrupts."""
    folder = tmp_path_factory.mktemp("made") / "whole"
    assert stagewright("run", voyage_over_rows(folder), folder=folder).returncode == 0
    return only_run(folder)


@pytest.mark.posix
@pytest.mark.parametrize(
    "at",
    [
        "record-synced CallRequested 00-txt2img.00002",
        "file-renamed images/00-txt2img/00003-",
        "record-half CallCompleted 00-txt2img.00002",
        "record-written CallRequested 01-img2img.00004",
    ],
)
def test_a_killed_run_over_a_prompt_file_ends_with_the_same_images(
    tmp_path: Path, at: str, whole: Path
) -> None:
    """kill -9, then the file is gone: the resume makes what an undisturbed run makes, once."""
    killed = tmp_path / "killed"
    config = voyage_over_rows(killed)
    environment = {**os.environ, "STAGEWRIGHT_FAILPOINT": at}
    assert stagewright("run", config, folder=killed, env=environment).returncode == KILLED
    (killed / "rows.csv").unlink()
    done = stagewright("resume", "last", folder=killed)
    assert done.returncode == 0, done.stderr
    run = only_run(killed)
    check_history(run)
    assert sources(run) == sources(whole)
    assert len(sources(run)) == 21
    asked = {
        (event.image_index, event.count)
        for event in iterate(run)
        if isinstance(event, CallRequested) and event.stage_id == "00-txt2img"
    }
    assert asked <= set(SPANS)


def test_a_salvaged_run_keeps_its_prompts(tmp_path: Path) -> None:
    """What is sound of a damaged log is copied with its requests, and the rest is made."""
    first = ran(tmp_path, rows("a", "b", {"prompt": "c", "seed": 5}, stages=("txt2img", "img2img")))
    run = tmp_path / "runs" / first.run_id
    lines = (run / LOG).read_bytes().split(b"\n")
    lines[6] = lines[6].replace(b"00-txt2img", b"00-txt2imG")
    (run / LOG).write_bytes(b"\n".join(lines))
    saved = Path(salvage(run).folder)
    assert opened(saved).prompts == first.prompts
    assert resumed(saved, painter()).outcome == "completed"
    assert sources(saved).keys() == {(s, n) for s in ("00-txt2img", "01-img2img") for n in range(3)}


def test_every_display_has_the_image_s_own_prompt(tmp_path: Path) -> None:
    """plan, list, show, report, diff, learning records and ``config`` of a run and an image."""

    def told(*arguments: str) -> str:
        done = stagewright(*arguments, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    config = json.dumps(rows("a cat", {"prompt": "a dog", "negative_prompt": "ugly", "seed": 7}))
    write_config(tmp_path, config, "animals.json")
    planned = told("plan", "animals.json").partition("prompts by image:")[2]
    assert planned.split() == ["1", "a", "cat", "2", "a", "dog", "negative:", "ugly"]
    told("run", "animals.json")
    assert "a cat" in told("list")
    assert "a dog" in told("show", "last")
    shown: Json = json.loads(told("show", "last#2", "--json"))
    assert (shown["prompt"], shown["negative_prompt"]) == ("a dog", "ugly")
    assert shown["stages"]["00-txt2img"]["prompt"] == "a dog"
    told("report", "last", "--output", "page.html")
    assert "a dog" in (tmp_path / "page.html").read_text(encoding="utf-8")
    record = json.loads((tmp_path / "runs" / "learning.jsonl").read_text(encoding="utf-8"))
    assert [one["prompt"] for one in record["images"]] == ["a cat", "a dog"]
    write_config(tmp_path, told("config", "last"), "again.toml")
    write_config(tmp_path, told("config", "last#2"), "second.toml")
    for name in ("again", "second"):
        told("run", f"{name}.toml")
    first, again, second = sorted(tmp_path.glob(f"runs/*/{LOG}"))
    pictures = [list(sources(log.parent).values()) for log in (first, again, second)]
    assert pictures[0] == pictures[1]
    assert pictures[2] == pictures[0][1:]
    compared = json.loads(
        stagewright("diff", first.parent, second.parent, "--json", folder=tmp_path).stdout
    )
    keys = [one["key"] for one in compared["plan"]]
    assert {"prompts", "txt2img.prompt"} <= set(keys)


def test_dynamic_prompts_are_made_again_without_their_wildcards(tmp_path: Path) -> None:
    """``config`` of a run has the texts that were drawn."""
    (tmp_path / "wildcards").mkdir()
    (tmp_path / "wildcards" / "c.txt").write_text("red\ngreen\nblue\n", encoding="utf-8")
    config = document(prompt="a __c__ {x|y}", dynamic_prompts=True, images=4, seed=-1)
    write_config(tmp_path, json.dumps(config), "dynamic.json")
    assert stagewright("run", "dynamic.json", folder=tmp_path).returncode == 0
    first = opened(only_run(tmp_path))
    written = stagewright("config", "last", folder=tmp_path).stdout
    (tmp_path / "wildcards" / "c.txt").unlink()
    write_config(tmp_path, written, "again.toml")
    assert stagewright("run", "again.toml", folder=tmp_path).returncode == 0
    again = opened(max(log.parent for log in tmp_path.glob(f"runs/*/{LOG}")))
    assert (again.prompts, again.seeds) == (first.prompts, first.seeds)


def test_preflight_looks_for_the_loras_of_every_image(tmp_path: Path) -> None:
    """A LoRA that the server lacks is refused, in whichever row it is; nothing is made."""
    config = rows("a", "b <lora:nowhere:1>")
    with ScriptedWebUI() as server:
        config["server"] = {"url": server.url, "retries": 0}
        with pytest.raises(PreflightError, match=r"prompts.*nowhere"):
            open_controller(tmp_path / "runs").start(config)
    assert not list(tmp_path.glob("runs/*"))


def _without_prompts(event: Json) -> None:
    del event["prompts"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda event: event["plan"].update(prompts="per_row"), "prompts"),
        (lambda event: event["plan"].pop("prompts"), "2 prompts are recorded for 2 images"),
        (lambda event: event["prompts"].pop(), "1 prompts are recorded for 2 images"),
        (_without_prompts, "no prompt is recorded for 00-txt2img"),
    ],
)
def test_a_foreign_log_with_other_prompts_is_not_resumed(
    tmp_path: Path, change: Any, message: str
) -> None:
    """So does an older version with a plan of per-image prompts: it names what it lacks."""
    first = ran(tmp_path, rows("a", "b", stages=("txt2img", "img2img")))
    run = foreign(tmp_path / "runs" / first.run_id, tmp_path / "foreign", of_opened(change))
    assert message in refused(run).stderr
