"""``replay``: shows the result and timeline of a run, from its log alone."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from ....events.folds import replay
from ....statemachine.groups.result import replay_group
from ...event_text import summarize_event
from ...projections.log_walk import OpenRequests
from ..completion import complete_run_or_group
from ..group_result import show_group
from ..options import json_option, runs_option
from ..output import print_json, print_json_parts, print_line
from ..results import show_result
from ..run_lookup import find_run_or_group


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
def replay_command(run: str, until: int | None, runs: Path, as_json: bool) -> None:
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
