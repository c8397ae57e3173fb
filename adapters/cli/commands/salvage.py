"""``salvage``: copies the sound parts of a corrupt log into a new run."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import click
from click.core import ParameterSource

from ....statemachine.ports import SystemClock
from ....statemachine.resume.salvage import SalvagedRun, salvage_run
from ..completion import complete_run
from ..options import json_option, runs_option
from ..output import count, first_lines, print_json, print_line
from ..run_lookup import find_run, runs_around_run

_SHOWN = 10


@click.command("salvage")
@click.argument("run", shell_complete=complete_run)
@runs_option
@json_option
@click.pass_context
def salvage_command(
    context: click.Context,
    run: str,
    runs: Path,
    as_json: bool,
) -> None:
    """Copy the sound parts of a corrupt log into a new run.

    RUN itself is not changed. `stagewright resume` makes the images that the new run lacks.
    """
    folder = find_run(runs, run)
    if context.get_parameter_source("runs") is ParameterSource.DEFAULT:
        # RUN may be a path elsewhere; the new run is made in the same folder of runs.
        runs = Path(os.path.relpath(runs_around_run(folder)))
    salvaged = salvage_run(folder, runs, clock=SystemClock(), random_below=secrets.randbelow)
    if as_json:
        print_json(salvaged)
    else:
        _show(salvaged)


def _show(salvaged: SalvagedRun) -> None:
    images = "1 image is" if salvaged.images == 1 else f"{salvaged.images} images are"
    print_line(f"{salvaged.run_id}: salvaged from {salvaged.salvaged_from}")
    print_line(f"  {images} kept; the damaged log is kept as {salvaged.copied_to}")
    print_line(f"  the log is corrupt from byte {salvaged.corrupt_at} on: {salvaged.reason}")
    if salvaged.lost_records:
        print_line(f"  lost: {count(salvaged.lost_records, 'record')}")
    lost = [f"  not copied: {flaw.place}: {flaw.what}" for flaw in salvaged.lost_files]
    for line in first_lines(lost, _SHOWN, "  ... and {} more files are not copied"):
        print_line(line)
    print_line(f"stagewright resume {salvaged.folder} would {salvaged.advice}")
