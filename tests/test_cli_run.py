"""`run`, `plan`, `schema` and `cancel` as a user meets them."""

from __future__ import annotations

import json
import os
import subprocess
from hashlib import sha256
from pathlib import Path

import pexpect
import pytest
from PIL import Image

from .command_line import SCRIPT, SMALL, Start, run_json, stagewright, until, write_config

pytestmark = pytest.mark.lowest

LONG = SMALL.replace("images = 2", "images = 400").replace("64", "512")


def pixels(folder: Path, result: dict[str, object]) -> list[str]:
    """A digest of the pixels of each final image."""
    run = folder / "runs" / str(result["run_id"])
    found = []
    for image in result["images"]:  # type: ignore[attr-defined]  # a JSON list
        with Image.open(run / image["path"]) as picture:
            found.append(sha256(picture.tobytes()).hexdigest())
    return found


def test_a_run_ends_in_completed_and_says_where_everything_is(tmp_path: Path) -> None:
    """The printed image folder holds images that open, the printed log is there."""
    done = stagewright("run", write_config(tmp_path), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "COMPLETED" in done.stdout
    places = dict(
        line.split(None, 1)
        for line in done.stdout.splitlines()
        if line[:7] in ("images:", "log:   ")
    )
    images = sorted((tmp_path / places["images:"]).iterdir())
    assert [image.name for image in images] == ["00000-42.png", "00001-43.png"]
    for image in images:
        with Image.open(image) as picture:
            assert picture.size == (64, 64)
    assert (tmp_path / places["log:"]).is_file()


def test_progress_is_plain_lines_where_the_output_is_no_terminal(tmp_path: Path) -> None:
    """One line for the stage's start, each image and its end; no control characters."""
    done = stagewright("run", write_config(tmp_path), folder=tmp_path)
    lines = done.stderr.splitlines()
    assert lines[0] == "00-txt2img: 2 images to make"
    assert lines[1:3] == [
        "00-txt2img: 1 of 2 finished: images/00-txt2img/00000-42.png",
        "00-txt2img: 2 of 2 finished: images/00-txt2img/00001-43.png",
    ]
    assert lines[3].startswith("00-txt2img: completed in ")
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stdout.startswith("2")


@pytest.mark.posix
def test_progress_is_a_live_line_on_a_terminal(tmp_path: Path) -> None:
    """On a terminal stage n of m, image i of k, the step, elapsed and estimate are shown."""
    config = write_config(tmp_path, LONG.replace("images = 400", "images = 50"))
    child = pexpect.spawn(
        str(SCRIPT), ["run", str(config)], cwd=str(tmp_path), dimensions=(24, 160), timeout=60
    )
    child.expect(r"stage 1 of 1 00-txt2img +image \d+ of 50")
    child.expect(r"step \d+ of 4 .*\d+\.\d s, about \d+\.\d s left")
    child.expect("COMPLETED")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_a_drawn_seed_stands_in_the_log_and_reproduces_the_images(tmp_path: Path) -> None:
    """seed = -1 is drawn once, below 2^31, and given as a fixed seed makes the same images."""
    config = write_config(tmp_path)
    drawn = run_json(config, "--set", "seed=-1")
    opened = drawn["events"][0]
    assert opened["config"]["seed"] == -1
    assert opened["seeds"] == drawn["seeds"]
    assert opened["plan"]["stages"][0]["config"]["seed"] == drawn["seeds"][0]
    assert 0 <= drawn["seeds"][0] < 2**31
    again = run_json(config, "--set", f"seed={drawn['seeds'][0]}")
    assert pixels(tmp_path, drawn) == pixels(tmp_path, again)


def test_the_run_folder_is_laid_out_as_the_contract_says(tmp_path: Path) -> None:
    """Log, lock, configuration and images stand where they are promised; nothing else does."""
    result = run_json(write_config(tmp_path))
    run = tmp_path / "runs" / result["run_id"]
    found = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
    assert found == [
        "config.toml",
        "events.jsonl",
        "images/00-txt2img/00000-42.png",
        "images/00-txt2img/00001-43.png",
        "run.lock",
    ]


@pytest.mark.parametrize(
    ("command", "override", "words"),
    [
        ("run", "txt2img.steps=0", ["txt2img.steps", "0", "at least 1"]),
        ("run", "txt2img.enabled=false", ["No pipeline stages enabled"]),
        ("plan", "txt2img.model=", ["txt2img.model", "missing"]),
        ("plan", "txt2img.stepz=3", ["txt2img.stepz", "did you mean txt2img.steps?"]),
        ("plan", "txt2img.steps=many", ["txt2img.steps", "many", "whole number"]),
    ],
)
def test_an_invalid_configuration_is_one_clear_line_and_no_folder(
    tmp_path: Path, command: str, override: str, words: list[str]
) -> None:
    """Exit 2, one line on standard error that names key, value and reason, nothing started."""
    config = write_config(tmp_path)
    done = stagewright(command, config, "--set", override, folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    for word in words:
        assert word in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["small.toml"]


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    """A line for each on standard error; `plan --json` also prints them, for forms."""
    config = write_config(tmp_path, "promt = 'x'\n" + SMALL.replace("steps = 4", "stepz = 4"))
    plan = stagewright(
        "plan", config, "--json", "--set", "txt2img.width=100", "--set", "images=x", folder=tmp_path
    )
    assert plan.returncode == 2
    errors = json.loads(plan.stdout)["errors"]
    shown = [line.removeprefix("stagewright: ") for line in plan.stderr.splitlines()]
    assert [one["message"] for one in errors] == shown
    assert {one["key"]: one["nearest"] for one in errors} == {
        "promt": "prompt",
        "images": None,
        "txt2img.stepz": "txt2img.steps",
        "txt2img.width": None,
        "txt2img.steps": None,
    }
    assert {one["key"]: one["value"] for one in errors}["txt2img.width"] == 100
    assert [line for line in shown if not line.startswith((f"{config}: ", "--set: "))] == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [("rnu", "run"), ("plna", "plan"), ("resum", "resume"), ("x", None)],
)
def test_a_command_that_is_near_is_suggested(tmp_path: Path, name: str, meant: str | None) -> None:
    """In the one line that says that there is no such command."""
    done = stagewright(name, folder=tmp_path)
    said = f"; did you mean {meant}?" if meant else "."
    assert (done.returncode, done.stderr) == (2, f"stagewright: No such command {name!r}{said}\n")


def test_a_conflict_shows_in_the_plan_and_is_refused_by_run(tmp_path: Path) -> None:
    """`plan` exits 0 and lists it; `run` exits 2 with the reason, and makes no folder."""
    config = write_config(tmp_path, "sampler = 'DDIM'\n" + SMALL)
    plan = stagewright("plan", config, folder=tmp_path)
    assert plan.returncode == 0
    assert "conflict: txt2img: sampler = 'DDIM' but txt2img.sampler = 'Euler a'" in plan.stdout
    done = stagewright("run", config, folder=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "conflict: txt2img: sampler = 'DDIM' but txt2img.sampler = 'Euler a'" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "missing.toml"], "missing.toml"),
        (["run"], "CONFIG"),
        (["plan", "small.toml", "--nonsense"], "--nonsense"),
        (["frobnicate"], "frobnicate"),
        (["init", "--server", "http://a", "--server", "http://b"], "--server"),
        (["run", "small.toml", "--set", "images"], "KEY=VALUE"),
        (["cancel", "last"], "no run yet"),
        (["follow", "last"], "no run yet"),
        (["follow", "last", "--json", "--events"], "--events"),
        (["replay", "last", "--until", "-1"], "--until"),
        (["doctor"], "--server"),
        (["doctor", "--server", "http://127.0.0.1:1", "--set", "seed=1"], "--set needs a CONFIG"),
        (["doctor", "--server", "http://user:secret@127.0.0.1:1"], "server"),
        (["doctor", "--server", "ftp://127.0.0.1:1"], "http, https"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    """Every mistake in a call is answered by one line that names it, and repeats no password."""
    write_config(tmp_path)
    done = stagewright(*arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "secret" not in done.stderr
    assert words in done.stderr


def test_control_characters_of_a_configuration_never_reach_the_terminal(tmp_path: Path) -> None:
    """Escape sequences in names are shown as text."""
    config = write_config(tmp_path, SMALL.replace("base.safetensors", "\\u001b[31mred"))
    done = stagewright("plan", config, folder=tmp_path)
    assert "\x1b" not in done.stdout
    assert "\\x1b[31mred" in done.stdout
    done = stagewright("plan", config, "--set", "nöt\x1b[2Ja.key=1", folder=tmp_path)
    assert "\x1b" not in done.stderr


def test_schema_describes_the_configuration(tmp_path: Path) -> None:
    """The JSON Schema names every table, and the bounds that the builder checks."""
    schema = json.loads(stagewright("schema", folder=tmp_path).stdout)
    document = schema["$defs"]["RunDocument"]["properties"]
    assert {"prompt", "txt2img", "img2img", "upscale", "adetailer", "server"} <= set(document)
    img2img = schema["$defs"]["Img2ImgConfig"]["properties"]["denoise"]
    assert {"type": "number", "minimum": 0, "maximum": 1} in img2img["anyOf"]


def started(folder: Path, images: int = 1) -> Path:
    """The folder of the run that was just started, once it has finished ``images`` images."""

    def enough() -> bool:
        return len(list(folder.glob("runs/*/images/00-txt2img/*.png"))) >= images

    until(enough, f"{images} images")
    return next(folder.glob("runs/*/events.jsonl")).parent


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    output, errors = process.communicate(timeout=30)
    assert "Traceback" not in errors
    return output, errors


@pytest.mark.parametrize("flags", [[], ["--after-image"]])
def test_another_process_cancels_a_run_within_a_second(
    start: Start, tmp_path: Path, flags: list[str]
) -> None:
    """`cancel last` stops the run of another process, which ends with exit 3."""
    process = start("run", write_config(tmp_path, LONG), folder=tmp_path)
    run = started(tmp_path)
    done = stagewright("cancel", "last", *flags, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    finish(process)
    assert process.returncode == 3
    assert not (run / "cancel.request").exists()
    replayed = json.loads(stagewright("replay", "last", "--json", folder=tmp_path).stdout)
    asked = [event for event in replayed["events"] if event["type"] == "CancelRequested"]
    assert [event["mode"] for event in asked] == ["after_image" if flags else "now"]
    assert replayed["state"] == "CANCELLED"


def test_cancel_of_a_run_that_nobody_runs_is_refused(tmp_path: Path) -> None:
    """Exit 2, and nothing is written into the run's folder."""
    result = run_json(write_config(tmp_path))
    done = stagewright("cancel", "last", folder=tmp_path)
    assert done.returncode == 2
    assert "is not running" in done.stderr
    assert not (tmp_path / "runs" / result["run_id"] / "cancel.request").exists()


def test_words_that_a_stream_cannot_write_are_shown_by_number(tmp_path: Path) -> None:
    """A prompt in letters that the terminal's encoding does not have is no error of ours."""
    config = write_config(tmp_path)
    latin = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    shown = stagewright("plan", config, "--set", "prompt=\u65e5\u672c", folder=tmp_path, env=latin)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "\\u65e5\\u672c" in shown.stdout
