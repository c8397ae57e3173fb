"""``replay``: shows the result and timeline of a run, from its log alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from shlex import quote

import click

from ....events.folds import replay
from ....events.log.kind import LOG_NAME
from ....events.log.lock import is_locked
from ....events.model import ImagePrompt, RunState
from ....events.result import PipelineRunResult
from ....statemachine.groups.result import replay_group
from ....statemachine.states import can_go_on
from ...event_text import summarize_event, why_unchanged
from ...export.bundle.manifest import THUMBNAILS, lacks_images
from ...projections.log_walk import OpenRequests
from ..completion import complete_run_or_group
from ..group_result import show_group
from ..output import (
    count,
    duration,
    json_option,
    print_json,
    print_json_parts,
    print_line,
    runs_option,
    state_text,
)
from ..run_lookup import find_run_or_group
from ..styles import WRONG, Mark, file_mark, state_mark, warning_mark

_MOST_PROMPTS = 20
"""Different prompts that are shown of a run."""


@click.command("replay")
@click.argument("run", metavar="RUN_OR_GROUP", shell_complete=complete_run_or_group)
@click.option(
    "--until",
    type=click.IntRange(min=0),
    metavar="SEQ",
    help="Stop after the event with this sequence number.",
)
@runs_option
@json_option
def replay_command(run: str, until: int | None, runs: Path, as_json: bool) -> None:  # noqa: FBT001 - click passes flags
    """Show the result of a run or group, from its log.

    Of a run the timeline is shown as well.
    """
    folder, is_group, runs = find_run_or_group(runs, run)
    if is_group:
        if until is not None:
            raise click.UsageError("--until takes a run; of a group no event is left out")
        group = replay_group(folder, runs)
        if as_json:
            print_json(group)
        else:
            show_group(group, runs)
        return
    result = replay(folder, until=until)
    if as_json:
        print_json_parts(result.json_parts())
        return
    show_result(result, folder, whole=until is None)
    print_line()
    began: datetime | None = None
    requests = OpenRequests()
    for event in result.events:
        began = began or event.ts
        seconds = (event.ts - began).total_seconds()
        server = requests.server_of(requests.request_of(event))
        where = f" ({server})" if server else ""
        print_line(f"{event.seq:>6} {seconds:>10.3f} s  {summarize_event(event)}{where}")


def show_result(
    result: PipelineRunResult, folder: Path, *, whole: bool = True, with_error: bool = True
) -> None:
    """Print the state, stages, images and errors of a run.

    ``whole`` is False where ``result`` covers only the beginning of the log. ``with_error`` is
    False where the caller prints the error itself.
    """
    state = state_text(result.state, result.outcome)
    held = whole and result.state != RunState.COMPLETED and is_locked(folder)
    if result.state == RunState.RUNNING and whole:
        state = f"{state} now" if held else f"{state} in the log, but its process died"
    died = result.state == RunState.RUNNING and whole and not held
    print_line(
        f"{result.run_id}: ", Mark(state, WRONG) if died else state_mark(result.state, state)
    )
    for stage in result.stages:
        ended = stage.outcome or "not ended"
        print_line(
            f"  {stage.stage_id:<14} {count(stage.image_count, 'image'):<12} "
            f"{duration(stage.duration_ms):>8}  {ended}"
        )
        if reused := stage.metadata.get("reused_images"):
            print_line(f"    {count(reused, 'image')} reused from earlier runs")
        unchanged = stage.metadata.get("unchanged_images")
        if unchanged:
            why = why_unchanged(stage.stage_type)
            print_line(
                "  ", warning_mark(), f" {count(unchanged, 'image')} came back unchanged: {why}"
            )
    for gap in result.missing[:10]:
        error = gap.error if gap.error != result.error else None
        why = f": {error.kind}: {error.message}" if error else ""
        print_line(f"  missing: image {gap.image_index + 1}, at {gap.stage_id}{why}")
    if len(result.missing) > 10:
        print_line(f"  ... and {len(result.missing) - 10} more are missing")
    if result.error and with_error:
        words = f" {result.error.kind}: {result.error.message}"
        print_line("  ", Mark("error:", WRONG), words)
    _show_places(result, folder)
    can_resume = can_go_on(result.state, result.error, result.missing, sealed=True)
    if whole and not held and can_resume:
        print_line(f"to continue: {resume_line(folder)}")


def show_prompts(prompts: Sequence[ImagePrompt], what: str = "prompts") -> None:
    """Print the first prompts, each with the images in a row that have it, counted from 1."""
    print_line(f"{what}:")
    rows = groupby(range(len(prompts)), lambda index: prompts[index])
    for place, (prompt, indexes) in enumerate(rows):
        if place == _MOST_PROMPTS:
            print_line("    ... and more")
            return
        first, *others = indexes
        numbers = f"{first + 1}-{others[-1] + 1}" if others else f"{first + 1}"
        print_line(f"    {numbers:<8} {prompt.prompt}")
        if prompt.negative_prompt:
            print_line(f"    {'':<8} negative: {prompt.negative_prompt}")


def resume_line(folder: Path) -> str:
    """The command that resumes a run, quoted for a shell."""
    return f"stagewright resume {quote(str(folder))}"


def _show_places(result: PipelineRunResult, folder: Path) -> None:
    if lacks_images(folder):
        small = folder / THUMBNAILS
        where = f"; thumbnails are in {small}" if small.is_dir() else ""
        print_line(f"images: not in this bundle{where}")
    else:
        for place in sorted({image.path.rpartition("/")[0] for image in result.images}):
            print_line("images: ", file_mark(folder / place))
    print_line("log:    ", file_mark(folder / LOG_NAME))
