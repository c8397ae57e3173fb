"""The page about an overnight sweep: a reader's commands, in their order, on a server."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

from stagewright.adapters import open_controller

from .command_line import ROOT, Start, installed, stagewright, until
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
    """Every command ends well: the sweep is planned, tried, run, cancelled, looked at, resumed."""
    running: list[subprocess.Popen[str]] = []
    output: dict[str, str] = {}
    with serving(step_delay_s=0.01) as server:
        write_files(tmp_path, server.url)
        for command in commands():
            line = " ".join(command)
            if line in ("run night.toml", "follow last-group"):
                trial = len(list(tmp_path.glob("runs/*/images")))
                running.append(start(*command, folder=tmp_path))
                until(lambda: len(list(tmp_path.glob("runs/*/images"))) >= max(trial, 3), "a variant")  # noqa: B023 - called at once
                continue
            done = stagewright(*command, folder=tmp_path)
            assert done.returncode == 0, (line, done.stderr)
            output[line] = done.stdout
    assert [process.wait(30) for process in running] == [3, 3]
    assert "6 variants, 36 images" in output["plan night.toml"].replace(" in each stage", "")
    assert "1 checkpoint change" in output["plan night.toml"]
    assert "estimate" in output["plan night.toml"].lower() or "about" in output["plan night.toml"]
    assert output["resume last-group"].rstrip().endswith("COMPLETED")
    assert len(list(tmp_path.glob("runs/groups/*/group.jsonl"))) == 2
