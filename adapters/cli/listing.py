"""``list``: the catalogue."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from ...events.model import RunState
from ..catalogue import CORRUPT, Catalogue, CatalogueEntry
from .output import count, json_option, print_json, runs_option, say

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
            f"{value} is no date, time or age (2026-11-20, 36h, 7d)"
        ) from error


@click.command("list")
@click.option(
    "--state",
    type=click.Choice([*RunState, CORRUPT], case_sensitive=False),
    help="Only runs in this state.",
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
    """List the runs, the latest first."""
    entries = Catalogue(runs).entries(state=state, since=since, model=model, limit=limit)
    if as_json:
        print_json(entries)
        return
    for entry in entries:
        say(_line(entry))
    waiting = sum(entry.resumable for entry in entries)
    if waiting:
        what = f"{count(waiting, 'run')} of these can go on"
        say(f"{what}: stagewright resume RUN, or resume --all")
    if not entries:
        say(f"no run in {runs}" if not (state or since or model) else "no run fits")


def _line(entry: CatalogueEntry) -> str:
    died = entry.state == RunState.RUNNING and not entry.alive
    state = f"{entry.state}{' (died)' if died else ''}"
    return (
        f"{entry.run_id:<48} {state:<15} {entry.images:>5}/{entry.total_images:<5} "
        f"{entry.outcome or '':<10} {entry.summary}"
    )
