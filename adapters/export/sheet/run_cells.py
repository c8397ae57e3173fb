"""The cells of a run: each image of a stage, or the reason why it is missing."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt
from pathlib import Path

from ....events.errors import RunNotFoundError
from ....events.folds import Fold
from ....events.log.reader import read_log
from ....events.result import FinishedImage, MissingImage, PipelineRunResult
from ...event_text import why_not_made
from .cells import Block, Cell, Row, SheetContent, SheetRefusedError

_MOST_COLUMNS = 32
"""A square of 1,000 images."""


class RunCells:
    """The images of a run, by index, in one of its stages."""

    def __init__(self, folder: Path, fold: Fold, result: PipelineRunResult) -> None:
        self.folder = folder
        self.fold = fold
        self._result = result
        self.stage_ids = fold.planned_stage_ids()

    @classmethod
    def read(cls, folder: Path) -> RunCells:
        """Those of the run in ``folder``. Raises LogCorruptError, RunNotFoundError, OSError."""
        fold = Fold()
        timeline = read_log(folder, fold.apply_all)
        if fold.opened is None:
            raise RunNotFoundError(f"{folder}: no run is here")
        return cls(folder, fold, fold.result(timeline))

    def find_stage(self, name: str | None) -> str | None:
        """The id of the stage with this id or type, the last of them; the last one for None."""
        fitting = [one for one in self.stage_ids if name in (None, one, one.partition("-")[2])]
        return fitting[-1] if fitting else None

    def cells(self, stage_id: str | None, lead: str = "") -> list[Cell]:
        """A cell for each image of the run; ``lead`` comes before the number in each caption."""
        gaps = {gap.image_index: gap for gap in self._result.missing}
        cells = [
            Cell(f"{lead}#{index + 1}, seed {seed}", self._why_missing(gaps.get(index), stage_id))
            for index, seed in enumerate(self.fold.seeds)
        ]
        removed = self.fold.stages[stage_id].removed if stage_id in self.fold.stages else set()
        for image in self._images(stage_id):
            index, file = image.image_index, self.folder / image.path
            if index < len(cells):
                reason = "removed" if index in removed else _why_unusable(file, image.bytes)
                cells[index] = Cell(
                    caption=f"{lead}#{index + 1}, seed {image.seed}",
                    reason=reason,
                    file=None if reason else file,
                    width=image.width,
                    height=image.height,
                )
        return cells

    def _images(self, stage_id: str | None) -> Sequence[FinishedImage]:
        stages = self._result.stages
        return next((one.images for one in stages if one.stage_id == stage_id), ())

    def _why_missing(self, gap: MissingImage | None, stage_id: str | None) -> str:
        if stage_id is None:
            return "this run has no such stage"
        return why_not_made(self.fold, gap, stage_id)


def _why_unusable(path: Path, size: int) -> str:
    try:
        found = path.stat().st_size
    except OSError as error:
        return f"its file is missing: {error.strerror}"
    return "" if found == size else "its file was altered"


def run_content(folder: Path, stage: str | None) -> SheetContent:
    """The images of a run in a stage, by default its last, in rows of equal length.

    Raises SheetRefusedError, LogCorruptError, RunNotFoundError, OSError.
    """
    run = RunCells.read(folder)
    stage_id = run.find_stage(stage)
    if stage_id is None:
        raise no_such_stage(stage, f"run {run.fold.run_id}", run.stage_ids)
    cells = run.cells(stage_id)
    if not cells:
        raise SheetRefusedError(f"run {run.fold.run_id} has no images")
    wide = min(ceil(sqrt(len(cells))), _MOST_COLUMNS)
    rows = [Row("", tuple(cells[first : first + wide])) for first in range(0, len(cells), wide)]
    title = f"{run.fold.run_id}, {stage_id}"
    return SheetContent(title, ("",) * wide, (Block("", tuple(rows)),))


def no_such_stage(stage: str | None, what: str, stage_ids: list[str]) -> SheetRefusedError:
    """The error for a stage that is not there."""
    named = f"--stage {stage}: " if stage else ""
    known = ", ".join(stage_ids) or "none"
    return SheetRefusedError(f"{named}{what} has no such stage; its stages are {known}")
