"""Runs whose logs somebody else wrote, and the commands that meet with them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stagewright.events import CallRequested

from .command_line import stagewright
from .log_format import make_log, split_bodies
from .resuming import LOG, copied, cut_before, files

Change = Callable[[dict[str, Any]], object]


def foreign(whole: Path, runs: Path, change: Change | None = None, *, dead: bool = True) -> Path:
    """A run whose log somebody else wrote: sound in form, its events changed at will."""
    runs.mkdir(exist_ok=True)
    folder = copied(whole, runs)
    if dead:
        cut_before(folder, CallRequested, 2)
    bodies = []
    for body in split_bodies((folder / LOG).read_bytes()):
        event = json.loads(body)
        if event["type"] == "RunSealed":
            continue
        if event["type"] == "RunOpened":
            event["backend"] = {"kind": "embedded"}
        if change is not None:
            change(event)
        bodies.append(json.dumps(event, separators=(",", ":")).encode())
    (folder / LOG).write_bytes(make_log(bodies))
    return folder


def opened(change: Change) -> Change:
    return lambda event: change(event) if event["type"] == "RunOpened" else None


def refused(folder: Path) -> subprocess.CompletedProcess[str]:
    """A resume that refuses in one clear line, and leaves every byte as it was."""
    before = files(folder)
    done = stagewright("resume", folder.name, "--runs", folder.parent, folder=folder.parent.parent)
    assert done.returncode in (1, 4), done
    assert "internal error" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert files(folder) == before
    return done
