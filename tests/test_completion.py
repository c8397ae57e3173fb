"""What a shell completes, asked in the way that its script does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from .command_line import SMALL, run_json, stagewright, write_config


def completed(line: str, folder: Path) -> list[str]:
    """What the last word of a line can be completed to."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    env = {**os.environ, **words, "_STAGEWRIGHT_COMPLETE": "bash_complete"}
    done = stagewright(folder=folder, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.split(",", 1)[1] for line in done.stdout.splitlines()]


def test_runs_are_completed(tmp_path: Path) -> None:
    """By their digits, the newest first, also of another folder; where none fits, by files."""
    config = write_config(tmp_path, SMALL)
    first, second = run_json(config)["run_id"], run_json(config)["run_id"]
    other = run_json(config, "--runs", "more")["run_id"]
    for command in ("show", "resume", "verify", "rm", "archive", "diff last", "config"):
        assert completed(f"stagewright {command} ", tmp_path) == [second[-6:], first[-6:], "last"]
    assert first[-6:] in completed(f"stagewright show {first[-6:-2]}", tmp_path)
    assert completed("stagewright report --runs more ", tmp_path) == [other[-6:], "last"]
    assert completed("stagewright show pict", tmp_path) == ["pict"]
    assert completed("stagewright show --runs missing ", tmp_path) == [""]


@pytest.mark.parametrize("command", ["run", "plan"])
def test_keys_of_a_configuration_are_completed(tmp_path: Path, command: str) -> None:
    """Also those of tables within tables, and of the first pass of a list."""
    begin = f"stagewright {command} a.toml --set "
    assert completed(f"{begin}txt2img.refiner.sw", tmp_path) == ["txt2img.refiner.switch_at="]
    assert "adetailer.passes.0.denoise=" in completed(f"{begin}adetailer.", tmp_path)
    keys = completed(begin, tmp_path)
    assert {"seed=", "server.retries=", "img2img.denoise=", "run.durability="} <= set(keys)
    assert len(keys) == len(set(keys)) > 100


@pytest.mark.posix
def test_a_report_lies_beside_its_run_and_is_opened(tmp_path: Path) -> None:
    """In the browser of the user; where there is none, a line says so."""
    run_id = run_json(write_config(tmp_path))["run_id"]
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n', encoding="ascii")
    browser.chmod(0o755)
    page = tmp_path / "runs" / f"{run_id}.html"
    env = {**os.environ, "BROWSER": f"{browser} %s"}
    done = stagewright("report", "last", "--open", folder=tmp_path, env=env)
    assert (done.returncode, page.is_file()) == (0, True), done.stderr
    assert (tmp_path / "opened").read_text(encoding="utf-8").strip() == page.as_uri()
    nothing = {"BROWSER": "", "PATH": "/nowhere", "HOME": str(tmp_path)}
    kept = {key: value for key, value in os.environ.items() if key != "DISPLAY"}
    done = stagewright("report", "last", "--open", folder=tmp_path, env={**kept, **nothing})
    assert done.returncode == 0
    assert sys.platform == "darwin" or "no browser was found; open runs" in done.stderr
