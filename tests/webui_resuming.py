"""What the tests of resume on WebUI servers share."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from stagewright.adapters import open_controller
from stagewright.events import (
    PipelineRunResult,
    RunState,
    replay,
)

from .command_line import stagewright
from .resuming import check_story, comparable, small
from .support import png
from .test_webui_settling import INTERNAL_PROGRESS
from .webui_server import ScriptedWebUI


def configured(folder: Path, *stages: str, images: int = 2, **tables: Any) -> Path:
    """A configuration file of these stages."""
    table = {
        "retries": 0,
        "backoff_s": 0.01,
        "wait_s": 0,
        "stall_timeout_s": 20.0,
        **tables.pop("server", {}),
    }
    config = small(*stages, images=images, server=table, **tables)
    if "txt2img" not in stages:
        config["images"] = 1
        config["input_image"] = "given"
        (folder / "given").mkdir()
        for place in range(images):
            (folder / "given" / f"{place}.png").write_bytes(png(place, (64, 48)))
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def only_run(folder: Path) -> Path:
    """The folder of the only run."""
    (log,) = (folder / "runs").glob("*/events.jsonl")
    return log.parent


def expected_of(folder: Path, config: Path, server: str) -> dict[str, Any]:
    """What the run comes to where nothing interrupts it."""
    handle = open_controller(folder / "whole", server).start(config)
    result = handle.wait(30)
    assert result.state is RunState.COMPLETED
    return comparable(result)


def kill(process: subprocess.Popen[str]) -> None:
    """kill -9."""
    process.kill()
    process.wait(30)


def asked_about(server: ScriptedWebUI, call_id: str) -> bool:
    """Whether somebody asked the server how this task is."""
    return any(
        one.path == INTERNAL_PROGRESS and one.body["id_task"] == call_id
        for one in list(server.requests)
    )


def resume(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> int:
    """Resume the only run; the exit status."""
    given = None if env is None else {**os.environ, **env}
    done = stagewright("resume", "last", *arguments, folder=folder, env=given)
    return done.returncode


def check_equal(folder: Path, expected: dict[str, Any]) -> PipelineRunResult:
    """The only run ended as the uninterrupted one."""
    result = replay(only_run(folder))
    assert comparable(result) == expected
    check_story(result.events)
    return result
