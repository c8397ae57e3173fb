"""``list``: shows the catalogue of runs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import msgspec
from rich.cells import cell_len

from ....statemachine.groups.folder import GROUPS_NAME
from ...projections.catalogue import UNREADABLE, Catalogue, CatalogueEntry
from ...projections.groups import GroupEntry, by_group, group_entries, group_entry
from ...projections.varied_values import short_names, varied_keys
from ..completion import complete_group
from ..group_result import group_argument, show_variants
from ..options import check_runs_folder, json_option, runs_option
from ..output import count, one_line, print_json, print_line, runs_argument
from ..ratings import shown_ratings
from ..run_lookup import find_group
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


def _column_names(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> list[str] | None:
    if value is None:
        return None
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
@click.argument("group", required=False, shell_complete=complete_group)
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
    metavar="LIST",
    help=f"Columns to show of runs.  [default: {_SHOWN}]",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Show at most N runs.")
@runs_option
@json_option
def list_command(
    group: str | None,
    state: str | None,
    since: datetime | None,
    model: str | None,
    conditions: tuple[Condition, ...],
    columns: list[str] | None,
    limit: int | None,
    runs: Path,
    as_json: bool,
) -> None:
    """List runs and groups, or the runs of a GROUP.

    The newest come first, archived ones too. A group of runs has one row. With --state, --model,
    --where, --columns or --json its runs are listed one by one.

    A `*` marks what can be resumed. RUN are the last six digits of the id of a run or group,
    which other commands take as its name. IMAGES counts the images that have finished the last
    stage; DATE is local time. Further columns are run_id, done (the share of the images of all
    stages that is finished), outcome, plan, rating (the scores of its
    images), resumes, group, variant, folder and error.

    A term of --where compares a column with a value: `~` and `!~` look for a part of it, `=`,
    `!=`, `<`, `<=`, `>` and `>=` compare the whole, ignoring case.
    """
    check_runs_folder(runs)
    place = None if group is None else find_group(runs, group)
    runs = runs if place is None else place.runs
    is_narrowed = bool(state or since or model or conditions)
    scores = shown_ratings(runs).scores_by_run()
    found = [
        msgspec.structs.replace(entry, scores=scores.get(entry.run_id, ()))
        for entry in Catalogue(runs).entries(state=state, since=since, model=model)
    ]
    entries = [entry for entry in found if all(fits(entry) for fits in conditions)]
    if place is not None:
        every = Catalogue(runs).entries() if is_narrowed else entries
        shown = group_entry(place.folder, by_group(every))
        _note_unreadable([_row_of(shown)])
        entries = [entry for entry in entries if entry.group_id == shown.group_id][:limit]
        if columns is None and not as_json:
            _show_runs_of(shown, entries, runs, whole=not (is_narrowed or limit))
            return
    elif not (state or model or conditions or columns or as_json):
        entries = _with_groups(entries, runs, since)[:limit]
    entries = entries[:limit]
    _note_unreadable(entries)
    if as_json:
        print_json(entries)
    elif entries:
        _show(entries, columns or _SHOWN.split(","), runs)
    else:
        print_line("no run matches" if is_narrowed else f"no run in {runs}")


def _note_unreadable(entries: Iterable[CatalogueEntry]) -> None:
    for entry in entries:
        if entry.state == UNREADABLE:
            print_error(f"{entry.folder}: its log cannot be read: {entry.error}", EXIT_COMPLETED)


def _with_groups(
    entries: Sequence[CatalogueEntry], runs: Path, since: datetime | None
) -> list[CatalogueEntry]:
    """The runs that belong to no group, and a row for each group, newest first."""
    every = entries if since is None else Catalogue(runs).entries()
    groups = group_entries(runs, every)
    known = {one.group_id for one in groups}
    rows = [_row_of(one) for one in groups if since is None or _is_since(one, since)]
    rows += [entry for entry in entries if entry.group_id not in known]
    return sorted(rows, key=lambda row: (row.opened, row.folder), reverse=True)


def _is_since(group: GroupEntry, since: datetime) -> bool:
    return bool(group.opened) and datetime.fromisoformat(group.opened) >= since


def _row_of(group: GroupEntry) -> CatalogueEntry:
    """A group in the columns of a run: its variants stand in the place of the prompt."""
    keys = ", ".join(short_names(varied_keys(group.axes)))
    done = f"{group.completed}/{group.variants} variants"
    return CatalogueEntry(
        run_id=group.group_id,
        folder=group.folder,
        name=group.name,
        prompt=f"{done}: {keys}" if keys else done if group.variants else "a group",
        opened=group.opened,
        state=group.state,
        images=group.images,
        total_images=group.total_images,
        models=tuple(sorted({model for one in group.runs for model in one.models})),
        group_id=group.group_id,
        alive=group.alive,
        resumable=group.resumable,
        cancelled=not group.waits,
        error=group.error,
    )


def _show(entries: Sequence[CatalogueEntry], columns: Sequence[str], runs: Path) -> None:
    """Print the table, and what can be resumed."""
    for parts in _table(entries, columns, shutil.get_terminal_size().columns):
        print_line(*parts)
    where = runs_argument(runs)
    groups = [entry for entry in entries if _is_group(entry)]
    waiting = waiting_runs([entry for entry in entries if not _is_group(entry)], " of these")
    if waiting:
        print_line(f"{waiting}: stagewright resume RUN{where}, or resume --all{where}")
    if ready := sum(entry.waits for entry in groups):
        print_line(f"{count(ready, 'group')} of these can be resumed: resume GROUP{where}")
    if groups:
        print_line(f"to see the runs of a group: stagewright list GROUP{where}")


def _is_group(entry: CatalogueEntry) -> bool:
    """Whether it is a row that ``_row_of`` made."""
    return entry.folder.startswith(f"{GROUPS_NAME}/")


def _show_runs_of(
    group: GroupEntry, entries: Sequence[CatalogueEntry], runs: Path, *, whole: bool
) -> None:
    """Print the variants of a group, all of them or those with a run among ``entries``."""
    row = _row_of(group)
    state = row.shown_state
    print_line(f"{one_line(group.group_id)}: ", state_mark(state, state))
    if group.error:
        print_line(f"  {group.error}")
    chosen = {entry.run_id for entry in entries}
    variants = [one for one in group.results if whole or one.run_id in chosen]
    if not variants:
        print_line("no run matches")
        return
    show_variants(group.axes, variants)
    images = f"{group.images} of {group.total_images} images"
    print_line(f"{group.completed} of {count(group.variants, 'variant')} COMPLETED; {images}")
    if group.resumable:
        print_line(f"to continue: stagewright resume {group_argument(row.run_id, runs)}")


def waiting_runs(entries: Sequence[CatalogueEntry], among: str) -> str:
    """How many runs wait for a resume, and how many only with --force; "" where none does."""
    forced = sum(entry.waits and entry.needs_force for entry in entries)
    ready = sum(entry.waits for entry in entries) - forced
    if not ready:
        return f"{count(forced, 'run')}{among} can be resumed only with --force" if forced else ""
    more = f"; {forced} more only with --force" if forced else ""
    return f"{count(ready, 'run')}{among} can be resumed{more}"


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
