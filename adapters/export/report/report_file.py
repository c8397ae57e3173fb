"""Writes the report of a run folder as one file, atomically."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

import msgspec
from markupsafe import Markup

from ....events.errors import StagewrightError
from ....events.version import VERSION
from ....statemachine.files.recorded_files import FileState
from ..output_file import atomic_output, may_replace
from .calls import CALL_WORDS
from .event_blocks import event_blocks, shown_seqs
from .gantt import BAR, LABEL, MARK_WORDS, draw
from .logged_run import LoggedRun
from .overview import notices, overview_of
from .page import FIRST_BYTES, assets, render
from .pictures import ImageInspector
from .quantities import json_lines
from .stages import (
    MAX_INPUTS,
    caption_of,
    images_shown,
    input_tiles,
    stage_ids,
    stage_sheets,
    stage_view,
)

_MAX_CONFIG = 256 * 1024
_COPIED = 1024 * 1024


class ReportRefusedError(StagewrightError, ValueError):
    """The output file exists and is not a report."""


class WrittenReport(msgspec.Struct, frozen=True, kw_only=True):
    """A report that was written.

    ``corrupt`` says where the log is corrupt, "" if it is sound. ``altered`` and ``missing``
    (or unreadable) are paths of recorded files.
    """

    path: str
    run_id: str
    bytes: int
    events: int
    images: int
    corrupt: str
    altered: tuple[str, ...]
    missing: tuple[str, ...]


def write_report(
    folder: Path,
    output: Path,
    *,
    thumbnails: bool = True,
    on_file: Callable[[int, int], None] | None = None,
) -> WrittenReport:
    """Write the report of the run in ``folder`` to ``output``, in place of an earlier report.

    ``on_file`` receives the number of checked images and their total. Of a corrupt log, the
    events before the corrupt record are reported. Raises ReportRefusedError if ``output`` is
    another file, RunNotFoundError, OSError; nothing is written then.
    """
    if not may_replace(output, _is_report):
        raise ReportRefusedError(
            f"{output} exists and is not a report; name another file with --output"
        )
    return _Writer(LoggedRun(folder), thumbnails=thumbnails, on_file=on_file).write(output)


class _Writer:
    """Writes one report; renders the stages first, as the head of the page counts their images."""

    def __init__(
        self, run: LoggedRun, *, thumbnails: bool, on_file: Callable[[int, int], None] | None
    ) -> None:
        self._run = run
        self._stage_ids = stage_ids(run)
        total = self._total_images()
        on_done = None if on_file is None else lambda done: on_file(done, total)
        self._inspector = ImageInspector(run.folder, thumbnails=thumbnails, on_file=on_done)
        self._images = 0
        self._thumbnails = thumbnails

    def write(self, output: Path) -> WrittenReport:
        text: dict[str, Any] = {"encoding": "utf-8", "newline": "\n"}
        with atomic_output(output) as stream:
            page = io.TextIOWrapper(stream, **text)
            with tempfile.TemporaryFile("w+", dir=output.parent, **text) as stages_file:
                self._write_stages(stages_file)
                self._write_page(page, stages_file)
            page.flush()
            size = stream.tell()
            page.detach()
        return self._written(output, size)

    def _write_stages(self, stages_file: IO[str]) -> None:
        for stage_id in self._stage_ids:
            context = {
                "stage": stage_view(self._run, stage_id),
                "sheets": stage_sheets(self._run, stage_id, self._inspector),
                "thumbnails": self._thumbnails,
            }
            stages_file.writelines(render("stage.html.j2", context))

    def _write_page(self, page: IO[str], stages_file: IO[str]) -> None:
        run = self._run
        inputs = list(input_tiles(run, self._inspector))
        captions = [(stage_id, caption_of(run, stage_id)) for stage_id in self._stage_ids]
        context = {
            **assets(),
            "first": Markup(FIRST_BYTES.decode()),  # noqa: S704 - our own text
            "version": VERSION,
            "overview": overview_of(run, run.fold.missing()),
            "notices": notices(run, self._inspector, left_out=list(self._left_out())),
            "gantt": draw(run.call_timeline, captions),
            "label": LABEL,
            "bar_height": BAR,
            "stages": _pieces(stages_file),
            "inputs": inputs,
            "types": sorted(run.types.items()),
            "stage_ids": self._stage_ids,
            "events": sum(map(len, shown_seqs(len(run.timeline)))),
            "blocks": event_blocks(run.timeline),
            "config": json_lines(run.fold.opened.config if run.fold.opened else {}, _MAX_CONFIG),
            "plan": json_lines(run.fold.plan, _MAX_CONFIG),
            "mark_words": MARK_WORDS,
            "call_words": CALL_WORDS,
        }
        page.writelines(render("page.html.j2", context))

    def _left_out(self) -> Iterator[str]:
        run = self._run
        total, shown = len(run.timeline), images_shown(run)
        events = sum(map(len, shown_seqs(total)))
        if events < total:
            yield f"{total - events:,} of {total:,} events, from the middle of the log"
        if any(len(stage.finished) > shown for stage in run.fold.stages.values()):
            yield f"images beyond the first {shown:,} of each stage"
        inputs = len(run.fold.opened.inputs) if run.fold.opened else 0
        if inputs > MAX_INPUTS:
            yield f"{inputs - MAX_INPUTS:,} of {inputs:,} inputs"
        if not self._thumbnails:
            yield "the thumbnails (--no-thumbnails)"

    def _total_images(self) -> int:
        fold, shown = self._run.fold, images_shown(self._run)
        stages = [fold.stages[one] for one in self._stage_ids if one in fold.stages]
        inputs = len(fold.opened.inputs) if fold.opened else 0
        return sum(min(len(one.finished), shown) for one in stages) + min(inputs, MAX_INPUTS)

    def _written(self, output: Path, size: int) -> WrittenReport:
        run = self._run
        altered = [
            file.path for file, why in self._inspector.wrong if why.state is FileState.ALTERED
        ]
        missing = [
            file.path for file, why in self._inspector.wrong if why.state is not FileState.ALTERED
        ]
        return WrittenReport(
            path=str(output),
            run_id=run.fold.run_id or run.folder.resolve().name,
            bytes=size,
            events=len(run.timeline),
            images=self._total_images(),
            corrupt=str(run.corruption or ""),
            altered=tuple(altered),
            missing=tuple(missing),
        )


def _pieces(stream: IO[str]) -> Iterator[Markup]:
    """The rendered stages, in pieces."""
    stream.seek(0)
    while piece := stream.read(_COPIED):
        yield Markup(piece)  # noqa: S704 - a template made it


def _is_report(stream: BinaryIO) -> bool:
    return stream.read(len(FIRST_BYTES)) == FIRST_BYTES
