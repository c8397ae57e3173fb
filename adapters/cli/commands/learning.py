"""``learning``: rebuilds the learning records."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from ...projections.learning.record_file import LearningUpdate
from ...projections.learning.records import record_schema
from ...projections.learning.writer import LearningRecordWriter
from ..output import (
    check_runs_folder,
    count,
    json_option,
    print_json,
    print_line,
    runs_option,
)
from ..ratings import shown_ratings
from ..statuses import EXIT_COMPLETED, print_error

_SHOWN = 10


@click.command("learning")
@click.option("--rebuild", is_flag=True, hidden=True, help="Has no effect: it always rebuilds.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of a record.")
@runs_option
@json_option
def learning_command(
    rebuild: bool,  # noqa: ARG001, FBT001 - scripts pass it; click passes flags
    schema: bool,  # noqa: FBT001 - the same
    runs: Path,
    as_json: bool,  # noqa: FBT001 - the same
) -> None:
    """Rebuild the learning records in RUNS/learning.jsonl.

    The file has one line of JSON for each run that has ended. Each run adds its line when it
    ends. This command reads every log and makes the file anew: after a crash, or after runs
    were deleted, copied or renamed.
    """
    if schema:
        click.echo(msgspec.json.format(msgspec.json.encode(record_schema())).decode())
        return
    check_runs_folder(runs)
    shown_ratings(runs)  # which warns where the records will lack some
    update = LearningRecordWriter(runs).rebuild()
    if as_json:
        print_json(update)
    else:
        _show(update)
    for folder in update.unreadable[:_SHOWN]:
        print_error(f"warning: no record for {folder}: its log cannot be read", EXIT_COMPLETED)
    if len(update.unreadable) > _SHOWN:
        more = len(update.unreadable) - _SHOWN
        print_error(f"warning: ... and for {more} more", EXIT_COMPLETED)


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
