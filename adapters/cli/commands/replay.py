"""``replay``: what the log alone says of a run."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from shlex import quote

import click

from ....events.folds import replay
from ....events.log.file_log import LOG_NAME
from ....events.log.lock import is_locked
from ....events.model import RunState
from ....events.result import PipelineRunResult
from ....statemachine.states import can_go_on
from ...event_text import gist
from ...export.bundle.manifest import THUMBNAILS, lacks_images
from ..output import count, duration, json_option, print_json_parts, runs_option, say
from ..run_lookup import find_run


@click.command("replay")
@click.argument("run")
@click.option("--until", type=click.IntRange(min=0), metavar="SEQ", help="Stop after this event.")
@runs_option
@json_option
def replay_command(run: str, until: int | None, runs: Path, as_json: bool) -> None:  # noqa: FBT001 - click passes flags
    """Fold the log of RUN: its result and timeline.

    RUN is a run id, a unique prefix of one, `last`, or the path of a run folder.
    """
    folder = find_run(runs, run)
    result = replay(folder, until=until)
    if as_json:
        print_json_parts(result.json_parts())
        return
    show_result(result, folder, whole=until is None)
    say()
    began: datetime | None = None
    for event in result.events:
        began = began or event.ts
        seconds = (event.ts - began).total_seconds()
        say(f"{event.seq:>6} {seconds:>10.3f} s  {gist(event)}")


def show_result(
    result: PipelineRunResult, folder: Path, *, whole: bool = True, with_error: bool = True
) -> None:
    """Print state, stages, images and errors of a run; ``whole`` unless of its beginning.

    ``with_error`` unless what ended it is told elsewhere.
    """
    outcome = f", {result.outcome}" if result.outcome else ""
    held = whole and result.state != RunState.COMPLETED and is_locked(folder)
    if result.state == RunState.RUNNING and whole:
        outcome = " now" if held else " when its process died; nobody runs it"
    say(f"{result.run_id}: {result.state}{outcome}")
    for stage in result.stages:
        ended = stage.outcome or "not ended"
        say(
            f"  {stage.stage_id:<14} {count(stage.image_count, 'image'):<12} "
            f"{duration(stage.duration_ms):>8}  {ended}"
        )
        unchanged = stage.metadata.get("unchanged_images")
        if unchanged:
            say(f"  warning: {count(unchanged, 'image')} came back unchanged: nothing was detected")
    for gap in result.missing[:10]:
        told = gap.error if gap.error != result.error else None
        why = f": {told.kind}: {told.message}" if told else ""
        say(f"  missing: image {gap.image_index}, at {gap.stage_id}{why}")
    if len(result.missing) > 10:
        say(f"  ... and {len(result.missing) - 10} more are missing")
    if result.error and with_error:
        say(f"  error: {result.error.kind}: {result.error.message}")
    for line in _places(result, folder):
        say(line)
    if whole and not held and can_go_on(result.state, result.error, sealed=True):
        say(f"go on:  {resume_line(folder)}")


def resume_line(folder: Path) -> str:
    """The command that goes on with a run, as it can be pasted."""
    return f"stagewright resume {quote(str(folder))}"


def _places(result: PipelineRunResult, folder: Path) -> Iterator[str]:
    if lacks_images(folder):
        small = folder / THUMBNAILS
        where = f"; small ones are in {small}" if small.is_dir() else ""
        yield f"images: not in this bundle{where}"
    else:
        for place in sorted({image.path.rpartition("/")[0] for image in result.images}):
            yield f"images: {folder / place}"
    yield f"log:    {folder / LOG_NAME}"
