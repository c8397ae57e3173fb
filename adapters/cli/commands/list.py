"""``list``: shows the catalogue of runs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shlex import quote

import click
import msgspec
from rich.cells import cell_len

from ...projections.catalogue import UNREADABLE, Catalogue, CatalogueEntry
from ..output import (
    check_runs_folder,
    count,
    json_option,
    one_line,
    print_json,
    print_line,
    runs_option,
)
from ..ratings import shown_ratings
from ..settings import default_runs_folder
from ..statuses import EXIT_COMPLETED, print_error
from ..styles import Mark, state_mark
from ..table import cell, shrink
from .list_columns import COLUMNS, STATES, Condition, parse_conditions

_AGE = re.compile(r"(\d+)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SHOWN = "run,date,name,prompt,model,images,state"
_ELASTIC = {"name": 2, "prompt": 4, "model": 3, "plan": 4, "error": 4}
"""Columns that are cut to fit the terminal, and their shares of its width."""


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


def _column_names(_context: click.Context, _parameter: click.Parameter, value: str) -> list[str]:
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name not in COLUMNS:
            raise click.BadParameter(f"there is no column {name!r}; there are {', '.join(COLUMNS)}")
    return names


def _conditions(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[Condition, ...]:
    try:
        return parse_conditions(value) if value is not None else ()
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command("list")
@click.option(
    "--state",
    type=click.Choice(STATES, case_sensitive=False),
    metavar="STATE",
    help="Only runs in this state: idle, running, completed, error, cancelled, corrupt, "
    "unreadable, or died (RUNNING in the log, but the process is gone).",
)
@click.option(
    "--since", callback=_moment, metavar="T", help="Only runs created since T: 7d, 36h, 2026-11-20."
)
@click.option("--model", metavar="M", help="Only runs whose model name contains M.")
@click.option(
    "--where",
    "conditions",
    callback=_conditions,
    metavar="TERMS",
    help="Only runs that TERMS fit, such as 'model~xl and state=error'.",
)
@click.option(
    "--columns",
    callback=_column_names,
    default=_SHOWN,
    metavar="LIST",
    help=f"Columns to show.  [default: {_SHOWN}]",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Show at most N runs.")
@runs_option
@json_option
def list_command(
    state: str | None,
    since: datetime | None,
    model: str | None,
    conditions: tuple[Condition, ...],
    columns: list[str],
    limit: int | None,
    runs: Path,
    as_json: bool,  # noqa: FBT001 - click passes flags
) -> None:
    """List the runs, newest first, archived ones too.

    A `*` marks the runs that can be resumed. RUN are the last six digits of a run's id, which
    other commands take as its name. IMAGES counts the images that have finished the last stage;
    DATE is local time. Further columns are run_id, done (the share of the images of all stages
    that is finished), outcome, plan, rating (the scores of its images), resumes, group, folder and
    error.

    A term of --where compares a column with a value: `~` and `!~` look for a part of it, `=`,
    `!=`, `<`, `<=`, `>` and `>=` compare the whole, ignoring case.
    """
    check_runs_folder(runs)
    scores = shown_ratings(runs).scores_by_run()
    found = [
        msgspec.structs.replace(entry, scores=scores.get(entry.run_id, ()))
        for entry in Catalogue(runs).entries(state=state, since=since, model=model)
    ]
    entries = [entry for entry in found if all(fits(entry) for fits in conditions)][:limit]
    for entry in entries:
        if entry.state == UNREADABLE:
            print_error(f"{entry.folder}: its log cannot be read: {entry.error}", EXIT_COMPLETED)
    if as_json:
        print_json(entries)
        return
    if not entries:
        narrowed = state or since or model or conditions
        print_line("no run matches" if narrowed else f"no run in {runs}")
        return
    for parts in _table(entries, columns, shutil.get_terminal_size().columns):
        print_line(*parts)
    waiting = waiting_runs(entries, " of these")
    if waiting:
        where = runs_argument(runs)
        print_line(f"{waiting}: stagewright resume RUN{where}, or resume --all{where}")


def waiting_runs(entries: Sequence[CatalogueEntry], among: str) -> str:
    """How many runs wait for a resume, and how many only with --force; "" where none does."""
    forced = sum(entry.waits and entry.needs_force for entry in entries)
    ready = sum(entry.waits for entry in entries) - forced
    if not ready:
        return f"{count(forced, 'run')}{among} can be resumed only with --force" if forced else ""
    more = f"; {forced} more only with --force" if forced else ""
    return f"{count(ready, 'run')}{among} can be resumed{more}"


def runs_argument(runs: Path) -> str:
    """The option that makes another command use the same folder of runs."""
    return "" if runs == default_runs_folder() else f" --runs {quote(str(runs))}"


def _table(
    entries: Sequence[CatalogueEntry], columns: Sequence[str], width: int
) -> Iterator[list[str | Mark]]:
    """A header and a line for each run, as wide as the terminal at most if that is possible."""
    marks = ["", *("*" if entry.resumable else "" for entry in entries)]
    rows = [
        [name.upper() for name in columns],
        *([one_line(" ".join(COLUMNS[name](entry))) for name in columns] for entry in entries),
    ]
    widths = [max(cell_len(row[place]) for row in rows) for place in range(len(columns))]
    shrink(widths, [_ELASTIC.get(name, 0) for name in columns], width - 1 - len(columns))
    for mark, row in zip(marks, rows, strict=True):
        parts: list[str | Mark] = [f"{mark:1} "]
        for name, text, cut in zip(columns, row, map(cell, row, widths), strict=True):
            parts += [state_mark(text, cut) if name == "state" else cut, " "]
        yield parts
