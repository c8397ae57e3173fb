"""The page about the queue: a reader's commands, in their order, on a server."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path

import pytest
from stagewright.statemachine.queue.job_runner import WorkEnd

from .command_line import ROOT, stagewright
from .serving import serving

PAGE = ROOT / "docs" / "queue.md"
SMALL = {"steps = 25": "steps = 4", "width = 832": "width = 64", "height = 1216": "height = 64"}
"""What a test makes of the page's configuration, to be quick."""


def blocks(kind: str) -> list[str]:
    """The fenced blocks of one kind, in order."""
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def write_config(folder: Path, url: str) -> None:
    """The page's configuration, with small images, and a server of the test."""
    (config,) = blocks("toml")
    for large, small in {**SMALL, "http://127.0.0.1:7860": url}.items():
        assert large in config
        config = config.replace(large, small)
    (folder / "portrait.toml").write_text(config, encoding="utf-8")


def test_the_night_goes_as_its_page_says(tmp_path: Path) -> None:
    """Jobs are added, moved, removed, worked on and looked at."""
    with serving() as server:
        write_config(tmp_path, server.url)
        shown: dict[str, list[str]] = {}
        for line in "".join(blocks("console")).splitlines():
            assert line.startswith("$ stagewright ")
            words = shlex.split(line)[2:]
            done = stagewright(*words, folder=tmp_path)
            assert done.returncode == 0, (line, done.stderr)
            shown.setdefault(" ".join(words), []).append(done.stdout)
    before, after, _ = shown["queue list"]
    assert re.findall(r"(sharp|portrait|late) +(?:run|sweep) +\d+ +waiting", before) == [
        "sharp",
        "portrait",
        "late",
    ]
    assert len(re.findall("completed", after)) == 2
    assert "late" not in after
    assert shown["queue work --exit-when-empty"] == ["2 jobs ended; the queue is empty\n"]
    assert shown["queue verify"][0].startswith("queue: sound")


def test_the_program_of_the_page_runs_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it stands there."""
    monkeypatch.chdir(tmp_path)
    (program,) = blocks("python")
    with serving() as server:
        write_config(tmp_path, server.url)
        exec(compile(program, str(PAGE), "exec"), {})
    assert capsys.readouterr().out == f"{WorkEnd.EMPTY}\n"


def test_the_unit_of_the_page_starts_the_worker() -> None:
    """It is a unit file, and stops the worker as the page says: SIGTERM goes to it alone."""
    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # as its docs say
    (text,) = blocks("ini")
    unit.read_string(text.replace("%h", "/home/me"))
    assert unit["Service"]["ExecStart"].endswith("/stagewright queue work")
    assert unit["Service"]["KillMode"] == "mixed"
    assert unit["Install"]["WantedBy"] == "default.target"
