"""The page about an overnight sweep: a reader's commands, in their order, on a server."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from stagewright.adapters import open_controller

from .command_line import ROOT, Start, stagewright
from .serving import serving

PAGE = ROOT / "docs" / "sweeps.md"
SMALL = {"steps = 25": "steps = 4", "width = 832": "width = 64", "height = 1216": "height = 64"}
"""What a test makes of the page's configuration, to be quick."""


def blocks(kind: str) -> list[str]:
    """The fenced blocks of one kind, in order."""
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def commands() -> list[list[str]]:
    """What the reader types, without the name of the program."""
    lines = "".join(blocks("console")).splitlines()
    assert all(line.startswith("$ stagewright ") for line in lines)
    return [shlex.split(line)[2:] for line in lines]


def write_files(folder: Path, url: str) -> None:
    """The page's files, with small images, and a server of the test."""
    (prompts,), (config,) = blocks("text"), blocks("toml")
    for large, small in {**SMALL, "http://127.0.0.1:7860": url}.items():
        assert large in config
        config = config.replace(large, small)
    (folder / "prompts.txt").write_text(prompts, encoding="utf-8")
    (folder / "night.toml").write_text(config, encoding="utf-8")


def test_the_overnight_sweep_goes_as_its_page_says(start: Start, tmp_path: Path) -> None:
    """It is planned, tried, run, followed, cancelled, looked at and resumed."""
    running: list[subprocess.Popen[str]] = []
    output: dict[str, str] = {}
    with serving(step_delay_s=0.02) as server:
        write_files(tmp_path, server.url)
        for command in commands():
            line = " ".join(command)
            if line in ("run night.toml", "follow last-group"):
                running.append(start(*command, folder=tmp_path))
                wait_for_progress(running[-1])
                continue
            if line == "resume last-group":  # which the follower would follow as well
                assert [process.wait(30) for process in running] == [3, 3]
            done = stagewright(*command, folder=tmp_path)
            assert done.returncode == 0, (line, done.stderr)
            output[line] = done.stdout
    planned = output["plan night.toml"]
    totals = "6 variants, 36 images in each stage, 144 sampling steps, 1 checkpoint change, about "
    assert totals in planned
    trial = output["run night.toml --set sweep.random=2 --set images=1"]
    assert trial.endswith("2 variants: 2 COMPLETED; 6 of 6 images\n")
    assert " 1 CANCELLED" in output["show last-group"]
    assert "night" in output["list"]
    assert "report.html: 6 variants" in output["report last-group"]
    assert output["resume last-group"].endswith("6 variants: 6 COMPLETED; 36 of 36 images\n")


def test_the_calls_of_the_page_run_and_resume_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they stand there, with a controller of the folder of runs."""
    calls = re.findall(r"`(controller\.[^`]+\))`", PAGE.read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    with serving() as server:
        write_files(tmp_path, server.url)
        names = {"controller": open_controller(tmp_path / "runs"), "Path": Path}
        ends = [eval(call, names).wait(30).state for call in calls]
    assert ends == ["COMPLETED", "COMPLETED"]


def wait_for_progress(process: subprocess.Popen[str]) -> None:
    """Wait until a command shows a variant: ``run`` as its progress, ``follow`` as its result."""
    stream = process.stdout if "follow" in process.args else process.stderr  # type: ignore[operator]  # they are a list
    assert stream is not None
    assert any(line.startswith("variant ") for line in iter(stream.readline, ""))
