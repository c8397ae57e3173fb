"""What the tests of learning records share: runs that end, and a rebuild elsewhere."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from stagewright.adapters import LearningRecordWriter
from stagewright.events import CancelMode
from stagewright.statemachine import CancelToken, GenerateRequest, PipelineController

from .resuming import LOG, controller, painter

NAME = "learning.jsonl"
Json = dict[str, Any]


def bytes_of(runs: Path) -> bytes:
    """The file of records; nothing where there is none."""
    path = runs / NAME
    return path.read_bytes() if path.exists() else b""


def records(runs: Path) -> list[Json]:
    """The records in the file."""
    return [json.loads(line) for line in bytes_of(runs).splitlines()]


def rebuilt(runs: Path) -> bytes:
    """What rebuilding makes of the logs alone, in a place where there is nothing else."""
    with tempfile.TemporaryDirectory() as elsewhere:
        for log in runs.glob(f"*/{LOG}"):
            copy = Path(elsewhere) / log.parent.name
            copy.mkdir()
            shutil.copyfile(log, copy / LOG)
        LearningRecordWriter(elsewhere).rebuild()
        return bytes_of(Path(elsewhere))


def remade(runs: Path) -> list[Json]:
    """The records after a rebuild in place."""
    LearningRecordWriter(runs).rebuild()
    assert bytes_of(runs) == rebuilt(runs)
    return records(runs)


def record_of(folder: Path) -> Json:
    """The record of one run."""
    (found,) = [one for one in remade(folder.parent) if one["folder"] == folder.name]
    return found


def cancelled(runs: Path, config: Json, place: tuple[str, int] = ("00-txt2img", 0)) -> Path:
    """The folder of a run that was cancelled while it made an image, which it finished."""
    controllers: list[PipelineController] = []

    def script(request: GenerateRequest, _cancel: CancelToken) -> None:
        if (request.stage_id, request.image_index) == place:
            controllers[0].cancel(request.run_id, mode=CancelMode.AFTER_IMAGE)

    controllers.append(controller(runs, painter(script)))
    handle = controllers[0].start(config)
    handle.wait(30)
    return handle.folder
