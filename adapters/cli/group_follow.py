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
from .display import Display, open_display
from .foreground import try_to_print
from .group_result import show_group
from .group_tail import Followed, GroupTail
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


def follow_group(folder: Path, *, as_events: bool, as_json: bool) -> int:
    """Show the group in this folder until it ends; the exit status.

    Raises LogCorruptError, OSError.
    """
    view = StatusBar(expects_steps=True, history=history_in(folder.parent.parent))
    try:
        with GroupTail(folder, whole=as_events) as tail:
            if as_events:
                _print_events(tail)
            else:
                _show(tail, view, sys.stderr if as_json else sys.stdout)
    except KeyboardInterrupt:
        return print_error(
            f"{folder.name}: interrupted; the group itself continues", EXIT_INTERRUPTED
        )
    runs = folder.parent.parent
    if as_json:
        try_to_print(lambda: print_json(replay_group(folder, runs)))
    elif not as_events:
        try_to_print(lambda: show_group(replay_group(folder, runs), runs))
    if not isinstance(tail.last, GroupSealed):
        return print_error(
            f"{folder.name}: its process died; `resume` continues the group", EXIT_ERROR
        )
    return _EXIT_STATUSES.get(tail.last.outcome, EXIT_ERROR)


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
    lasting = cast(IO[str], BrokenPipeTolerantStream(stream))
    # What has been is summed up in one line, not shown image by image.
    _take(view, None, tail.read())
    with open_display(view, lasting) as display:
        now = view.snapshot()
        if not tail.is_over:
            display.print_line(now.group_headline)
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
