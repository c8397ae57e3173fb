"""``list``: shows the catalogue of runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shlex import quote

import click

from ....events.model import RunState
from ...projections.catalogue import CORRUPT, DIED, UNREADABLE, Catalogue, CatalogueEntry
from ..output import (
    check_runs_folder,
    count,
    json_option,
    print_json,
    print_line,
    runs_option,
    state_text,
)
from ..settings import default_runs_folder
from ..statuses import EXIT_COMPLETED, print_error

_AGE = re.compile(r"(\d+)([smhdw])")
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
            f"{value} is not a date, time or age (examples: 2026-11-20, 36h, 7d)"
        ) from error


@click.command("list")
@click.option(
    "--state",
    type=click.Choice([*RunState, CORRUPT, UNREADABLE, DIED], case_sensitive=False),
    metavar="STATE",
    help="Only runs in this state: idle, running, completed, error, cancelled, corrupt, "
    "unreadable, or died (RUNNING in the log, but the process is gone).",
)
@click.option(
    "--since", callback=_moment, metavar="T", help="Only runs created since T: 7d, 36h, 2026-11-20."
)
@click.option("--model", metavar="M", help="Only runs whose model name contains M.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Show at most N runs.")
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
    """List the runs, newest first.

    IMAGES counts the images that have finished the last stage. DONE is the share of all images
    of all stages that is finished.
    """
    check_runs_folder(runs)
    entries = Catalogue(runs).entries(state=state, since=since, model=model, limit=limit)
    for entry in entries:
        if entry.state == UNREADABLE:
            print_error(f"{entry.folder}: its log cannot be read: {entry.error}", EXIT_COMPLETED)
    if as_json:
        print_json(entries)
        return
    if not entries:
        print_line(f"no run in {runs}" if not (state or since or model) else "no run matches")
        return
    width = max(len(entry.run_id) for entry in entries)
    print_line(_row("RUN", "STATE", "IMAGES", "DONE", "PLAN", width))
    for entry in entries:
        print_line(_line(entry, width))
    waiting = waiting_runs(entries, " of these")
    if waiting:
        where = runs_argument(runs)
        print_line(f"{waiting}: stagewright resume RUN{where}, or resume --all{where}")


def waiting_runs(entries: Sequence[CatalogueEntry], among: str) -> str:
    """How many runs can be resumed, and how many only with --force; "" where none can."""
    forced = sum(entry.resumable and entry.needs_force for entry in entries)
    ready = sum(entry.resumable for entry in entries) - forced
    if not ready:
        return f"{count(forced, 'run')}{among} can be resumed only with --force" if forced else ""
    more = f"; {forced} more only with --force" if forced else ""
    return f"{count(ready, 'run')}{among} can be resumed{more}"


def runs_argument(runs: Path) -> str:
    """The option that makes another command use the same folder of runs."""
    return "" if runs == default_runs_folder() else f" --runs {quote(str(runs))}"


def _line(entry: CatalogueEntry, width: int) -> str:
    state = f"{state_text(entry.state, entry.outcome)}{' (died)' if entry.died else ''}"
    images = f"{entry.images}/{entry.total_images}"
    total = entry.total_stage_images
    done = f"{100 * entry.stage_images // total}%" if total else ""
    return _row(entry.run_id, state, images, done, entry.summary, width)


def _row(run: str, state: str, images: str, done: str, plan: str, width: int) -> str:
    return f"{run:<{width}} {state:<15} {images:>11} {done:>5}  {plan}".rstrip()
