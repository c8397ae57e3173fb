"""Prints the results of runs and groups, and why they failed."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from shlex import quote

import msgspec

from ...events import signals
from ...events.log.kind import LOG_NAME
from ...events.log.lock import is_locked
from ...events.model import ImagePrompt, RunState
from ...events.result import MissingImage, PipelineRunResult
from ...statemachine.groups.result import GroupResult
from ...statemachine.states import can_go_on
from ..event_text import error_text, why_unchanged
from ..export.bundle.manifest import THUMBNAILS, lacks_images
from .group_result import show_group
from .output import count, duration, first_lines, print_json_parts, print_line, state_text
from .statuses import EXIT_CANCELLED, EXIT_COMPLETED, EXIT_ERROR, print_error
from .streams import discard_output
from .styles import WRONG, Mark, file_mark, state_mark, warning_mark

Result = PipelineRunResult | GroupResult
_DISCONNECTED = (errno.EPIPE, errno.EIO, errno.ECONNRESET)
"""Errors of a write to a closed pipe or terminal."""
_EXIT_STATUSES = {RunState.COMPLETED: EXIT_COMPLETED, RunState.CANCELLED: EXIT_CANCELLED}
_MOST_ERRORS = 10
_MOST_PROMPTS = 20
"""Different prompts that are shown of a run."""


def show_end(result: Result, folder: Path, runs: Path, *, as_json: bool) -> int:
    """Print how a run or a group in ``folder`` ended, and return its exit status.

    ``runs`` is the folder of the runs.
    """
    try_to_print(lambda: print_result(result, folder, runs, as_json=as_json, with_error=False))
    print_faults()
    return print_errors(result)


def print_result(
    result: Result, folder: Path, runs: Path, *, as_json: bool, with_error: bool = True
) -> None:
    """Print the result of a run or a group; ``with_error`` as for ``show_result``."""
    if as_json:
        print_json_parts(result_json(result))
    elif isinstance(result, GroupResult):
        show_group(result, runs)
    else:
        show_result(result, folder, with_error=with_error)


def result_json(result: Result) -> Iterable[bytes]:
    """The JSON document of a result, in parts."""
    if isinstance(result, GroupResult):
        return [msgspec.json.encode(result)]
    return result.json_parts()


def print_errors(result: Result) -> int:
    """Print on standard error why a run or a group failed, if it did; its exit status."""
    status = exit_status(result.state)
    for message in _error_messages(result):
        print_error(message, status)
    return status


def exit_status(state: RunState) -> int:
    """The exit status of a command that ran a run or a group which ended in ``state``."""
    return _EXIT_STATUSES.get(state, EXIT_ERROR)


def _error_messages(result: Result) -> Iterator[str]:
    if isinstance(result, PipelineRunResult):
        if result.error is not None:
            yield f"run {result.run_id}: {error_text(result.error)}"
        return
    group = f"group {result.group_id}"
    errors = [
        f"variant {one.variant_index + 1}: {error_text(one.error)}"
        for one in result.variants
        if one.error is not None
    ]
    for line in first_lines(errors, _MOST_ERRORS, "{} more variants failed"):
        yield f"{group}: {line}"
    if result.error is not None:
        yield f"{group}: {error_text(result.error)}"


def try_to_print(show: Callable[[], None]) -> None:
    """Call ``show``; a closed pipe or terminal is ignored, another write error is reported.

    A failed write does not change how the run ended.
    """
    try:
        show()
        sys.stdout.flush()
    except OSError as error:
        discard_output(sys.stdout)
        if error.errno not in _DISCONNECTED:
            print_error(f"standard output cannot be written: {error.strerror or error}", EXIT_ERROR)


def print_faults() -> None:
    """Warn about subscribers that failed; the run itself was not affected."""
    for name, times in sorted(signals.faults().items()):
        print_error(f"warning: subscriber {name} failed or blocked {count(times, 'time')}", 0)


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
    missing = [_missing_text(gap, result) for gap in result.missing]
    for line in first_lines(missing, _MOST_ERRORS, "  ... and {} more are missing"):
        print_line(line)
    if result.error and with_error:
        words = f" {result.error.kind}: {result.error.message}"
        print_line("  ", Mark("error:", WRONG), words)
    _show_places(result, folder)
    can_resume = can_go_on(result.state, result.error, result.missing, sealed=True)
    if whole and not held and can_resume:
        print_line(f"to continue: {resume_line(folder)}")


def _missing_text(gap: MissingImage, result: PipelineRunResult) -> str:
    error = gap.error if gap.error != result.error else None
    why = f": {error.kind}: {error.message}" if error else ""
    return f"  missing: image {gap.image_index + 1}, at {gap.stage_id}{why}"


def _show_places(result: PipelineRunResult, folder: Path) -> None:
    if lacks_images(folder):
        small = folder / THUMBNAILS
        where = f"; thumbnails are in {small}" if small.is_dir() else ""
        print_line(f"images: not in this bundle{where}")
    else:
        for place in sorted({image.path.rpartition("/")[0] for image in result.images}):
            print_line("images: ", file_mark(folder / place))
    print_line("log:    ", file_mark(folder / LOG_NAME))


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
