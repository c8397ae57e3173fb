"""``learning``: rebuilds the learning records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import click
import msgspec

from ....events.groups.fold import GroupFold
from ....events.ratings.log import Ratings
from ....statemachine.groups.folder import variant_folders
from ....statemachine.groups.result import fold_group
from ...projections.learning.projection import read_learning_record
from ...projections.learning.record_file import NO_RECORD, LearningUpdate
from ...projections.learning.records import LearningRecord, record_schema
from ...projections.learning.writer import LearningRecordWriter
from ..completion import complete_group
from ..options import check_runs_folder, json_option, runs_option
from ..output import count, first_lines, one_line, print_json, print_line
from ..ratings import shown_ratings
from ..run_lookup import find_group
from ..statuses import EXIT_COMPLETED, print_error

_SHOWN = 10


@click.command("learning")
@click.argument("group", required=False, shell_complete=complete_group)
@click.option("--rebuild", is_flag=True, hidden=True, help="Has no effect: it always rebuilds.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of a record.")
@runs_option
@json_option
def learning_command(
    group: str | None,
    rebuild: bool,  # noqa: ARG001 - scripts pass it
    schema: bool,
    runs: Path,
    as_json: bool,
) -> None:
    """Rebuild the learning records in RUNS/learning.jsonl.

    The file has one line of JSON for each run that has ended. Each run adds its line when it
    ends. This command reads every log and makes the file anew: after a crash, or after runs
    were deleted, copied or renamed. With GROUP it then shows how many runs of the group have a
    record, and with --json the records themselves.
    """
    if schema:
        click.echo(msgspec.json.format(msgspec.json.encode(record_schema())).decode())
        return
    check_runs_folder(runs)
    place = None if group is None else find_group(runs, group)
    runs = runs if place is None else place.runs
    ratings = shown_ratings(runs)  # warns if some ratings cannot be read
    update = LearningRecordWriter(runs).rebuild()
    if place is not None:
        _show_group(fold_group(place.folder), update, runs, ratings, as_json=as_json)
    elif as_json:
        print_json(update)
    else:
        _show(update)
    lost = [f"no record for {folder}: its log cannot be read" for folder in update.unreadable]
    for line in first_lines(lost, _SHOWN, "... and for {} more"):
        print_error(f"warning: {line}", EXIT_COMPLETED)


def _show_group(
    fold: GroupFold, update: LearningUpdate, runs: Path, ratings: Ratings, *, as_json: bool
) -> None:
    """Print the records of a group's runs, or how many there are."""
    folders = variant_folders(runs, fold.group_id, fold.run_ids)
    records = list(_records((folders[index] for index in sorted(folders)), ratings))
    if as_json:
        print_json({"group_id": fold.group_id, "path": update.path, "records": records})
        return
    _show(update)
    of_all = count(len(folders), "run")
    print_line(f"group {one_line(fold.group_id)}: {count(len(records), 'record')} of {of_all}")


def _records(folders: Iterable[Path], ratings: Ratings) -> Iterator[LearningRecord]:
    """The records of runs that have one; a run that has none is no error."""
    for folder in folders:
        with suppress(*NO_RECORD):
            record = read_learning_record(folder, ratings)
            if record is not None:
                yield record


def _show(update: LearningUpdate) -> None:
    """Print how many records there are, and what has changed."""
    changes = [f"{update.made} new"] if update.made else []
    changes += [f"{update.removed} removed"] if update.removed else []
    changed = f" ({', '.join(changes)})" if changes else ""
    runs = count(update.runs, "run")
    if update.records:
        print_line(f"{count(update.records, 'record')} of {runs} in {update.path}{changed}")
    else:
        print_line(f"0 records of {runs}: no run has ended with [run] learning on{changed}")
