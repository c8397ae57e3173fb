"""Runs that use the images of earlier runs again: groups, and a controller that finds all runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stagewright.events import CallReused, PipelineRunResult, replay
from stagewright.statemachine import PipelineController
from stagewright.statemachine.files.run_folder import run_folders

from . import support
from .resuming import only, painter, small
from .support import ScriptedBackend

TWO = ("txt2img", "upscale")
FACTORS = "upscale.factor=1.5,2"


class AllRuns:
    """The simplest index: any run may have the answer to any request."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs

    def refresh(self) -> None:
        """It knows nothing that could be old."""

    def find(self, request_sha256: str) -> Sequence[Path]:
        """All runs, the newest first."""
        del request_sha256
        return sorted(run_folders(self._runs), reverse=True)


def reusing(runs: Path, backend: ScriptedBackend | None = None, **parts: Any) -> PipelineController:
    """A controller whose runs use the images of others again."""
    return support.controller(runs, backend or painter(), **{"reuse_index": AllRuns(runs), **parts})


def ran_group(
    runs: Path,
    backend: ScriptedBackend | None = None,
    config: dict[str, Any] | None = None,
    vary: str = FACTORS,
) -> list[Path]:
    """The folders of the runs of a group that has ended, in the order of its variants."""
    handle = reusing(runs, backend).start_group(config or small(*TWO), vary=[vary])
    return [runs / one.run_id for one in handle.wait(60).variants if one.run_id]


def resumed_with_reuse(folder: Path, backend: ScriptedBackend | None = None) -> PipelineRunResult:
    """The result of a run that another process took up, and that may use images again."""
    return reusing(folder.parent, backend).resume(folder.name).wait(30)


def reused(folder: Path) -> list[CallReused]:
    """The records of images that a run used again."""
    return only(replay(folder).events, CallReused)
