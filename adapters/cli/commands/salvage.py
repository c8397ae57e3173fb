"""``salvage``: what is sound of a corrupt log, as a new run."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import click
from click.core import ParameterSource

from ....statemachine.ports import SystemClock
from ....statemachine.resume.salvage import SalvagedRun, salvage_run
from ..output import count, json_option, print_json, runs_option, say
from ..run_lookup import find_run

_SHOWN = 10


@click.command("salvage")
@click.argument("run")
@runs_option
@json_option
@click.pass_context
def salvage_command(
    context: click.Context,
    run: str,
    runs: Path,
    as_json: bool,  # noqa: FBT001 - click passes flags
) -> None:
    """Make a new run of the images that the damaged log of RUN still records.

    RUN itself is left as it is; `resume` makes the rest of the new run.

    RUN is a run id, a unique prefix of one, `last`, or the path of a run folder.
    """
    folder = find_run(runs, run)
    if context.get_parameter_source("runs") is ParameterSource.DEFAULT:
        # RUN may be the path of a folder elsewhere; the new run belongs beside it.
        runs = Path(os.path.relpath(folder.absolute().parent))
    salvaged = salvage_run(folder, runs, clock=SystemClock(), random_below=secrets.randbelow)
    if as_json:
        print_json(salvaged)
    else:
        _tell(salvaged)


def _tell(salvaged: SalvagedRun) -> None:
    images = "1 image is" if salvaged.images == 1 else f"{salvaged.images} images are"
    say(f"{salvaged.run_id}: salvaged from {salvaged.salvaged_from}")
    say(f"  {images} kept; the damaged log is kept as {salvaged.copied_to}")
    say(f"  corrupt from byte {salvaged.corrupt_at} on: {salvaged.reason}")
    if salvaged.lost_records:
        say(f"  lost: {count(salvaged.lost_records, 'record')}")
    for flaw in salvaged.lost_files[:_SHOWN]:
        say(f"  not copied: {flaw.place}: {flaw.what}")
    if len(salvaged.lost_files) > _SHOWN:
        say(f"  ... and {len(salvaged.lost_files) - _SHOWN} more files are not copied")
    say(f"stagewright resume {salvaged.folder} would {salvaged.advice}")
