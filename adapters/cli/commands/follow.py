"""``follow``: shows the progress of a run that another process executes."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import IO, cast

import click

from ....events.codec import CODEC
from ....events.folds import replay
from ....events.model import RunState
from ....events.result import PipelineRunResult
from ....events.subscriptions.live_steps import read_step
from ....events.subscriptions.log_tail import POLL_S, LogTail, follow
from ...projections.status import StatusBar
from ..completion import complete_run
from ..display import Display, open_display
from ..foreground import EXIT_STATUSES, try_to_print
from ..group_follow import follow_group
from ..output import json_option, print_json_parts, runs_option
from ..run_lookup import find_run_or_group
from ..statuses import EXIT_ERROR, EXIT_INTERRUPTED, print_error
from ..streams import BrokenPipeTolerantStream
from .replay import show_result

_REFRESH_S = 0.1


@click.command("follow")
@click.argument("run", metavar="RUN_OR_GROUP", shell_complete=complete_run)
@click.option("--events", "as_events", is_flag=True, help="Print each event as one line of JSON.")
@runs_option
@json_option
def follow_command(
    run: str,
    as_events: bool,  # noqa: FBT001 - click passes flags
    runs: Path,
    as_json: bool,  # noqa: FBT001 - the same
) -> int:
    """Show the progress of a run or a group of another process.

    It ends when the run, or the group, ends. Ctrl-C ends it earlier and does not affect the run.

    Exit status: that of `run` for the way the run ended; 1 if its process died.
    """
    if as_events and as_json:
        raise click.UsageError("use either --events or --json")
    folder, is_group, runs = find_run_or_group(runs, run)
    if is_group:
        return follow_group(folder, runs, as_events=as_events, as_json=as_json)
    try:
        if as_events:
            _print_events(folder)
        else:
            _show(folder, sys.stderr if as_json else sys.stdout)
    except KeyboardInterrupt:
        return print_error(
            f"{folder.name}: interrupted; the run itself continues", EXIT_INTERRUPTED
        )
    return _show_end(folder, replay(folder), as_json=as_json, silent=as_events)


def _print_events(folder: Path) -> None:
    """One line for each event, the bytes of the log's ``e``."""
    out = sys.stdout.buffer
    for event in follow(folder):
        out.write(CODEC.encode(event) + b"\n")
        out.flush()


def _show(folder: Path, stream: IO[str]) -> None:
    view = StatusBar(expects_steps=True)
    lasting = cast(IO[str], BrokenPipeTolerantStream(stream))
    with LogTail(folder) as tail:
        # Earlier events are summed up in one line, not shown image by image.
        for event in tail.read():
            view.take_event(event)
        with open_display(view, lasting) as display:
            if not tail.has_ended():
                display.print_line(view.snapshot().headline)
            _keep_showing(tail, view, display)


def _keep_showing(tail: LogTail, view: StatusBar, display: Display) -> None:
    due_s = 0.0
    while True:
        for event in tail.read():
            view.take_event(event)
            display.take_event(event)
        if time.monotonic() >= due_s:
            due_s = time.monotonic() + _REFRESH_S
            step = read_step(tail.path.parent)
            if step is not None:
                view.take_step(step)
            display.refresh()
        if tail.has_ended():
            return
        time.sleep(POLL_S)


def _show_end(folder: Path, result: PipelineRunResult, *, as_json: bool, silent: bool) -> int:
    def show() -> None:
        if as_json:
            print_json_parts(result.json_parts())
        elif not silent:
            show_result(result, folder)

    try_to_print(show)
    if result.state == RunState.RUNNING:
        return print_error(
            f"{result.run_id}: its process died; `resume` continues the run", EXIT_ERROR
        )
    return EXIT_STATUSES.get(result.state, EXIT_ERROR)
