"""``follow`` of a group: shows all runs of a group that another process executes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, cast

from ...events.codec import encode_line
from ...events.groups.model import GroupEvent, GroupSealed
from ...events.model import Outcome
from ...events.subscriptions.live_steps import read_step
from ...events.subscriptions.log_tail import POLL_S
from ...statemachine.groups.result import replay_group
from ..projections.status import StatusBar, history_in
from .display import Display, group_text, open_display
from .foreground import try_to_print
from .group_result import show_group
from .group_tail import Followed, GroupTail
from .groups import print_group_errors
from .output import print_json
from .statuses import (
    EXIT_CANCELLED,
    EXIT_COMPLETED,
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    print_error,
)
from .streams import BrokenPipeTolerantStream

_REFRESH_S = 0.1
_EXIT_STATUSES = {Outcome.COMPLETED: EXIT_COMPLETED, Outcome.CANCELLED: EXIT_CANCELLED}


def follow_group(folder: Path, runs: Path, *, as_events: bool, as_json: bool) -> int:
    """Show the group in this folder, whose runs are in ``runs``, until it ends; the exit status.

    Raises LogCorruptError, OSError.
    """
    view = StatusBar(expects_steps=True, history=history_in(runs))
    try:
        with GroupTail(folder, runs, whole=as_events) as tail:
            if as_events:
                _print_events(tail)
            else:
                _show(tail, view, sys.stderr if as_json else sys.stdout)
    except KeyboardInterrupt:
        return print_error(
            f"{folder.name}: interrupted; the group itself continues", EXIT_INTERRUPTED
        )
    status = EXIT_ERROR
    if isinstance(tail.last, GroupSealed):
        status = _EXIT_STATUSES.get(tail.last.outcome, EXIT_ERROR)
    if not as_events:
        _show_result(folder, runs, status, as_json=as_json)
    if not isinstance(tail.last, GroupSealed):
        print_error(f"{folder.name}: its process died; `resume` continues the group", status)
    return status


def _show_result(folder: Path, runs: Path, status: int, *, as_json: bool) -> None:
    """Print how the group ended, and why variants are not complete."""
    result = replay_group(folder, runs)
    try_to_print(lambda: print_json(result) if as_json else show_group(result, runs))
    print_group_errors(result, status)


def _print_events(tail: GroupTail) -> None:
    """One line for each event of the group and of its runs, the bytes of the log's ``e``."""
    out = sys.stdout.buffer
    while True:
        for event, _ in tail.read():
            out.write(encode_line(event) + b"\n")
            out.flush()
        if tail.is_over:
            return
        time.sleep(POLL_S)


def _show(tail: GroupTail, view: StatusBar, stream: IO[str]) -> None:
    tolerant = cast(IO[str], BrokenPipeTolerantStream(stream))
    past = list(tail.read())
    if tail.is_over:
        return
    # What happened before is one line, not a line for each image.
    _take(view, None, past)
    with open_display(view, tolerant) as display:
        display.print_line(group_text(view.snapshot()))
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


def _refresh(tail: GroupTail, view: StatusBar, display: Display) -> None:
    step = None if tail.run_folder is None else read_step(tail.run_folder)
    if step is not None:
        view.take_step(step)
    display.refresh()
