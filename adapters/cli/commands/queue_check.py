"""``queue verify`` and ``queue salvage``."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from ....statemachine.queue.salvage import salvage_queue
from ....statemachine.queue.verify import verify_queue
from ...bootstrap import new_storage
from ..options import check_runs_folder, json_option, runs_option
from ..output import count, print_json, print_line
from ..statuses import EXIT_COMPLETED, EXIT_CORRUPT, EXIT_ERROR
from ..styles import DOUBTFUL, GOOD, WRONG, Mark


@click.command("verify")
@runs_option
@json_option
def verify_command(runs: Path, as_json: bool) -> int:
    """Check the queue's log, and the copies that its jobs need.

    Nothing is written.

    \b
    Exit status:
      0  sound
      1  sound, with the torn record of a crash at its end, which the next change
         of the queue repairs
      4  the log is corrupt, or a copy is missing or altered
    """
    check_runs_folder(runs)
    found = verify_queue(runs)
    if as_json:
        print_json({**msgspec.to_builtins(found), "sound": found.sound})
    else:
        for wrong in found.wrong_files:
            print_line(f"queue: {wrong}")
        if found.corrupt:
            print_line("queue: ", Mark("corrupt", WRONG), f": {found.corrupt}")
        elif found.sound:
            state = Mark("sound but torn", DOUBTFUL) if found.torn_bytes else Mark("sound", GOOD)
            torn = f"; {found.torn_bytes} torn bytes at the end" if found.torn_bytes else ""
            print_line("queue: ", state, f": {count(found.events, 'event')}{torn}")
    if not found.sound:
        return EXIT_CORRUPT
    return EXIT_ERROR if found.torn_bytes else EXIT_COMPLETED


@click.command("salvage")
@runs_option
@json_option
def salvage_command(runs: Path, as_json: bool) -> None:
    """Replace a corrupt log of the queue by one with all sound records.

    The corrupt log is kept beside it. A job whose record is damaged is lost; its run is not.
    """
    check_runs_folder(runs)
    salvaged = salvage_queue(runs, storage=new_storage())
    if as_json:
        print_json(salvaged)
        return
    print_line(f"queue: {count(salvaged.records, 'record')} kept")
    if salvaged.lost_records:
        print_line(f"  lost: {count(salvaged.lost_records, 'record')}")
    print_line(f"  the log was corrupt from byte {salvaged.corrupt_at} on: {salvaged.reason}")
    print_line(f"  it is kept as {salvaged.copied_to}")
