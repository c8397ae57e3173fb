"""``list``: the catalogue."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shlex import quote

import click

from ....events.model import RunState
from ...projections.catalogue import CORRUPT, DIED, UNREADABLE, Catalogue, CatalogueEntry
from ..output import check_runs_folder, count, json_option, print_json, runs_option, say
from ..statuses import EXIT_COMPLETED, complain

_AGE = re.compile(r"(\d+)([smhdw])")
DEFAULT_RUNS = Path("runs")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _moment(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> datetime | None:
    """A date, a time, or an age such as 36h or 7d."""
    if value is None:
        return None
    try:
        if age := _AGE.fullmatch(value):
            return datetime.now(UTC) - timedelta(**{_UNITS[age[2]]: int(age[1])})
        return datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(
            f"{value} is no date, time or age (2026-11-20, 36h, 7d)"
        ) from error


@click.command("list")
@click.option(
    "--state",
    type=click.Choice([*RunState, CORRUPT, UNREADABLE, DIED], case_sensitive=False),
    help="Only runs in this state; DIED are those that are RUNNING and that nobody runs.",
)
@click.option(
    "--since", callback=_moment, metavar="T", help="Only runs opened since: 7d, 2026-11-20."
)
@click.option("--model", metavar="M", help="Only runs with a model of which this is a part.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many.")
@runs_option
@json_option
def list_command(
    state: str | None,
    since: datetime | None,
    model: str | None,
    limit: int | None,
    runs: Path,
    as_json: bool,  # noqa: FBT001 - click passes flags
) -> None:
    """List the runs, the latest first.

    IMAGES have been through the last stage, DONE is how much of all stages is.
    """
    check_runs_folder(runs)
    entries = Catalogue(runs).entries(state=state, since=since, model=model, limit=limit)
    for entry in entries:
        if entry.state == UNREADABLE:
            complain(f"{entry.folder}: its log cannot be read: {entry.error}", EXIT_COMPLETED)
    if as_json:
        print_json(entries)
        return
    if not entries:
        say(f"no run in {runs}" if not (state or since or model) else "no run fits")
        return
    width = max(len(entry.run_id) for entry in entries)
    say(_row("RUN", "STATE", "IMAGES", "DONE", "OUTCOME", "PLAN", width))
    for entry in entries:
        say(_line(entry, width))
    told = waiting_runs(entries, " of these")
    if told:
        where = runs_argument(runs)
        say(f"{told}: stagewright resume RUN{where}, or resume --all{where}")


def waiting_runs(entries: Sequence[CatalogueEntry], among: str) -> str:
    """How many runs can go on, and how many only when forced; "" where none can."""
    forced = sum(entry.resumable and entry.needs_force for entry in entries)
    ready = sum(entry.resumable for entry in entries) - forced
    if not ready:
        return f"{count(forced, 'run')}{among} can go on only with --force" if forced else ""
    more = f"; {forced} more only with --force" if forced else ""
    return f"{count(ready, 'run')}{among} can go on{more}"


def runs_argument(runs: Path) -> str:
    """What a command needs to look into the same folder of runs."""
    return "" if runs == DEFAULT_RUNS else f" --runs {quote(str(runs))}"


def _line(entry: CatalogueEntry, width: int) -> str:
    state = f"{entry.state}{' (died)' if entry.died else ''}"
    images = f"{entry.images}/{entry.total_images}"
    total = entry.total_stage_images
    done = f"{100 * entry.stage_images // total}%" if total else ""
    return _row(entry.run_id, state, images, done, entry.outcome or "", entry.summary, width)


def _row(run: str, state: str, images: str, done: str, outcome: str, plan: str, width: int) -> str:
    return f"{run:<{width}} {state:<15} {images:>11} {done:>5}  {outcome:<10} {plan}".rstrip()
