"""``learning``: the learning records, up to date."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from ...projections.learning.records import record_schema
from ...projections.learning.update import LearningUpdate
from ...projections.learning.writer import LearningRecordWriter
from ..output import check_runs_folder, count, escaped, json_option, print_json, runs_option, say

PATIENCE_S = 60.0
"""How long the command waits for a process that writes the records."""
_SHOWN = 10


@click.command("learning")
@click.option("--rebuild", is_flag=True, help="Make every record anew, from logs read whole.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of a record.")
@runs_option
@json_option
def learning_command(
    rebuild: bool,  # noqa: FBT001 - click passes flags
    schema: bool,  # noqa: FBT001 - the same
    runs: Path,
    as_json: bool,  # noqa: FBT001 - the same
) -> None:
    """Bring the learning records up to date: RUNS/learning.jsonl.

    It holds one line for each run that has ended, made of its log alone.
    """
    if schema:
        click.echo(msgspec.json.format(msgspec.json.encode(record_schema())).decode())
        return
    check_runs_folder(runs)
    writer = LearningRecordWriter(runs)
    update = (writer.rebuild if rebuild else writer.update)(wait_s=PATIENCE_S)
    if as_json:
        print_json(update)
    else:
        _show(update)
    for folder in update.unreadable[:_SHOWN]:
        click.echo(escaped(f"warning: no record of {folder}: its log cannot be used"), err=True)
    if len(update.unreadable) > _SHOWN:
        click.echo(f"warning: ... and of {len(update.unreadable) - _SHOWN} more", err=True)


def _show(update: LearningUpdate) -> None:
    """Say what there is, and what of it is new."""
    news = [f"{update.made} made"] if update.made else []
    news += [f"{update.removed} removed"] if update.removed else []
    told = f" ({', '.join(news)})" if news else ""
    runs = count(update.runs, "run")
    if update.records:
        say(f"{count(update.records, 'record')} of {runs} in {update.path}{told}")
    else:
        say(f"no record of {runs}: none has ended that was to leave one{told}")
