"""``follow``: shows the progress of a run or a group that another process executes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, cast

import click

from ....events.codec import CODEC
from ....events.folds import replay
from ....events.groups.log import GROUP_LOG
from ....events.groups.model import GroupEvent
from ....events.model import RunState
from ....events.subscriptions.live_steps import read_step
from ....events.subscriptions.log_tail import POLL_S
from ....statemachine.groups.result import GroupResult, fold_group, replay_group
from ...projections.status import StatusBar, history_in
from ..completion import complete_run
from ..display import Display, group_text, open_display
from ..followed import Followed, GroupTail, RunTail
from ..options import json_option, runs_option
from ..results import Result, exit_status, print_errors, print_result, try_to_print
from ..run_lookup import find_run_or_group
from ..statuses import EXIT_ERROR, EXIT_INTERRUPTED, print_error
from ..streams import BrokenPipeTolerantStream

_REFRESH_S = 0.1
Tail = RunTail | GroupTail


@click.command("follow")
@click.argument("run", metavar="RUN_OR_GROUP", shell_complete=complete_run)
@click.option("--events", "as_events", is_flag=True, help="Print each event as one line of JSON.")
@runs_option
@json_option
def follow_command(run: str, as_events: bool, runs: Path, as_json: bool) -> int:
    """Show the progress of a run or a group of another process.

    It ends when the run, or the group, ends. Ctrl-C ends it earlier and does not affect the run.

    Exit status: that of `run` for the way the run ended; 1 if its process died.
    """
    if as_events and as_json:
        raise click.UsageError("use either --events or --json")
    folder, is_group, runs = find_run_or_group(runs, run)
    what = "group" if is_group else "run"
    tail = GroupTail(folder, runs, whole=as_events) if is_group else RunTail(folder)
    try:
        with tail:
            if as_events:
                _print_events(tail)
            else:
                _show(tail, runs, sys.stderr if as_json else sys.stdout)
    except KeyboardInterrupt:
        return print_error(
            f"{folder.name}: interrupted; the {what} itself continues", EXIT_INTERRUPTED
        )
    result: Result = replay_group(folder, runs) if is_group else replay(folder)
    if not as_events:
        try_to_print(lambda: print_result(result, folder, runs, as_json=as_json))
        if isinstance(result, GroupResult):
            print_errors(result)
    is_open = fold_group(folder).sealed is None if is_group else result.state == RunState.RUNNING
    if is_open:
        line = f"{folder.name}: its process died; `resume` continues the {what}"
        return print_error(line, EXIT_ERROR)
    return exit_status(result.state)


def _print_events(tail: Tail) -> None:
    """One line for each event, the bytes of the log's ``e``."""
    out = sys.stdout.buffer
    while True:
        for event, _ in tail.read():
            if isinstance(event, GroupEvent):
                out.write(GROUP_LOG.codec.encode(event) + b"\n")
            else:
                out.write(CODEC.encode(event) + b"\n")
            out.flush()
        if tail.is_over:
            return
        time.sleep(POLL_S)


def _show(tail: Tail, runs: Path, stream: IO[str]) -> None:
    view = StatusBar(expects_steps=True, history=history_in(runs))
    # What happened before is one line, not a line for each image.
    _take(view, None, tail.read())
    if tail.is_over:
        return
    with open_display(view, cast(IO[str], BrokenPipeTolerantStream(stream))) as display:
        now = view.snapshot()
        display.print_line(group_text(now) if isinstance(tail, GroupTail) else now.headline)
        due_s = 0.0
        while not tail.is_over:
            _take(view, display, tail.read())
            if time.monotonic() >= due_s:
                due_s = time.monotonic() + _REFRESH_S
                _refresh(tail, view, display)
            time.sleep(POLL_S)


def _take(view: StatusBar, display: Display | None, news: Iterable[Followed]) -> None:
    for event, is_past in news:
        if isinstance(event, GroupEvent):
            view.take_group_event(event)
        else:
            view.take_event(event)
            if display is not None and not is_past:
                display.take_event(event)


def _refresh(tail: Tail, view: StatusBar, display: Display) -> None:
    step = None if tail.run_folder is None else read_step(tail.run_folder)
    if step is not None:
        view.take_step(step)
    display.refresh()
