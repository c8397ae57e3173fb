"""Writes the report of a run folder as one file, atomically."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from ....events.ratings.log import Ratings
from ....statemachine.files.recorded_files import FileState, RecordedFile
from .event_blocks import event_blocks
from .gantt import BAR, CALL_WORDS, LABEL, MARK_WORDS, draw
from .image_facts import link_to
from .overview import notices, overview_of
from .page import head, json_block, visible, write_page
from .pictures import ImageInspector, InspectedImage
from .run_content import RunContent
from .stages import (
    MAX_INPUTS,
    StageView,
    caption_of,
    images_shown,
    input_tiles,
    stage_view,
)

_STYLES = ("page.css", "timeline.css", "images.css", "viewer.css", "events.css", "print.css")
_SCRIPTS = (
    "elements.js", "viewer.js", "log.js", "details.js", "tiles.js", "events.js", "timeline.js",
)  # fmt: skip
_MAX_CONFIG = 256 * 1024


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
    ratings: Ratings | None = None,
    thumbnails: bool = True,
    on_file: Callable[[int, int], None] | None = None,
) -> WrittenReport:
    """Write the report of the run in ``folder`` to ``output``, in place of an earlier report.

    ``ratings`` are shown with the images. ``on_file`` receives the number of checked images and
    their total. Of a corrupt log, the events before the corrupt record are reported. Raises
    ReportRefusedError if ``output`` is another file, RunNotFoundError, OSError; nothing is written
    then.
    """
    run = RunContent(folder, ratings)
    images: dict[RecordedFile, InspectedImage] = {}

    def context() -> Mapping[str, Any]:
        stages = [stage_view(run, stage_id) for stage_id in run.stage_ids()]
        inputs = input_tiles(run)
        tiles = [tile for stage in stages for tile in stage.tiles] + [tile for tile, _ in inputs]
        inspector = ImageInspector(folder, thumbnails=thumbnails)
        images.update(inspector.inspect_all([tile.file for tile in tiles], on_file))
        left_out = list(_left_out(run, stages, thumbnails=thumbnails))
        return {
            **_page(run, images, left_out),
            "stages": stages,
            "inputs": inputs,
            "images": images,
            "link": partial(_link, folder, output, images),
            "data": json_block({"prompts": [*map(visible, run.prompts.texts)]}),
        }

    size = write_page(output, "page.html.j2", context)
    return _written(run, output, size, images)


def _page(
    run: RunContent, images: Mapping[RecordedFile, InspectedImage], left_out: list[str]
) -> dict[str, Any]:
    fold = run.log.fold
    return {
        **head(_STYLES, _SCRIPTS),
        "overview": overview_of(run),
        "notices": notices(run, images, left_out=left_out),
        "gantt": draw(run, {one: caption_of(run, one) for one in run.stage_ids()}),
        "label": LABEL,
        "bar_height": BAR,
        "types": sorted(run.types.items()),
        "events": len(run.log.timeline),
        "blocks": event_blocks(run.log.timeline),
        "config": _json_text(fold.opened.config if fold.opened else {}),
        "plan": _json_text(fold.plan),
        "mark_words": MARK_WORDS,
        "call_words": CALL_WORDS,
    }


def _link(
    folder: Path, page: Path, images: Mapping[RecordedFile, InspectedImage], file: RecordedFile
) -> str:
    """The address of the file of an image; "" where it is not there or not as recorded."""
    image = images[file]
    is_there = image.wrong is None and not image.bundled and not file.removed
    return link_to(folder, file.path, page) if is_there else ""


def _left_out(run: RunContent, stages: list[StageView], *, thumbnails: bool) -> Iterator[str]:
    if any(stage.finished > len(stage.tiles) for stage in stages):
        yield f"images beyond the first {images_shown(run):,} of each stage"
    inputs = len(run.log.fold.opened.inputs) if run.log.fold.opened else 0
    if inputs > MAX_INPUTS:
        yield f"{inputs - MAX_INPUTS:,} of {inputs:,} inputs"
    if not thumbnails:
        yield "the thumbnails (--no-thumbnails)"


def _json_text(value: Any) -> str:
    """``value`` as indented JSON, cut where it is very long."""
    try:
        text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    except (ValueError, TypeError, RecursionError, msgspec.MsgspecError) as error:
        return f"cannot be shown: {error}"
    cut = len(text) - _MAX_CONFIG
    return text if cut <= 0 else f"{text[:_MAX_CONFIG]}\n... {cut:,} more characters are in the log"


def _written(
    run: RunContent, output: Path, size: int, images: Mapping[RecordedFile, InspectedImage]
) -> WrittenReport:
    wrong = [(file.path, image.wrong.state) for file, image in images.items() if image.wrong]
    return WrittenReport(
        path=str(output),
        run_id=run.run_id,
        bytes=size,
        events=len(run.log.timeline),
        images=len(images),
        corrupt=str(run.log.corruption or ""),
        altered=tuple(path for path, state in wrong if state is FileState.ALTERED),
        missing=tuple(path for path, state in wrong if state is not FileState.ALTERED),
    )
