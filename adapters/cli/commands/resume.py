"""``resume``: continues runs and groups that died, failed or were cancelled."""

from __future__ import annotations

from pathlib import Path

import click

from ....statemachine.errors import ResumeRefusedError
from ...export.bundle.manifest import lacks_images
from ...projections.catalogue import Catalogue
from ...projections.groups import group_entries
from ..completion import complete_run
from ..configuration import with_farm
from ..foreground import open_command_controller, show_foreground_end
from ..options import (
    check_runs_folder,
    farm_option,
    insecure_option,
    json_option,
    no_preflight_option,
    runs_option,
    servers_option,
)
from ..output import print_note, runs_argument
from ..results import resume_line
from ..resuming import ResumeAll, ResumeOptions, resume_group, resume_run
from ..run_lookup import find_run_or_group
from ..settings import named_servers
from .list import waiting_runs

_EXIT_STATUSES = """\b
Exit status:
  0  COMPLETED
  1  ERROR, or the resume was refused
  2  wrong usage, the server cannot be used, or another process runs it
  3  CANCELLED; after Ctrl-C the command ends by SIGINT (130 in shells)
  4  a log or a file is corrupt, missing or altered
With --all, the most severe status of all runs (4, 1, 2, 0), or 3 if one was
cancelled.
"""


@click.command("resume", epilog=_EXIT_STATUSES)
@click.argument("run", metavar="[RUN_OR_GROUP]", required=False, shell_complete=complete_run)
@servers_option("WebUI server to use; can be repeated.  [default: the recorded ones]")
@farm_option
@click.option("--all", "every", is_flag=True, help="Resume every run that can be resumed.")
@click.option(
    "--cancelled", is_flag=True, help="With --all, also resume what was cancelled on purpose."
)
@click.option(
    "--force", is_flag=True, help="Also resume a run that earlier resumes did not advance."
)
@no_preflight_option
@insecure_option
@runs_option
@json_option
def resume_command(
    run: str | None,
    servers: tuple[str, ...],
    farm: str | None,
    every: bool,
    cancelled: bool,
    force: bool,
    no_preflight: bool,
    insecure: bool,
    runs: Path,
    as_json: bool,
) -> int:
    """Continue a run, or a group of runs, that stopped early.

    It runs on the recorded servers, unless --server names others. Finished images are kept;
    images whose file is missing or altered are made again. Of a group, what is missing of each run
    is made, and the variants that had not begun.
    """
    if every == (run is not None):
        raise click.UsageError("resume needs either a RUN_OR_GROUP or --all")
    if cancelled and not every:
        raise click.UsageError("--cancelled belongs to --all; a RUN is resumed in any case")
    found = None
    if every:
        check_runs_folder(runs)
    else:
        found = find_run_or_group(runs, run or "")
        runs = found.runs
    controller = open_command_controller(
        runs, named_servers(with_farm(servers, farm)), insecure=insecure
    )
    options = ResumeOptions(
        force=force,
        preflight=not no_preflight,
        as_json=as_json,
        cancelled=cancelled or not every,
    )
    if found is None:
        return ResumeAll(controller, runs, options).run()
    if not found.is_group and lacks_images(found.folder):
        raise ResumeRefusedError(
            f"{found.folder}: this is an unpacked bundle without image files; resume the original "
            "run"
        )
    if found.is_group:
        group = resume_group(controller, found.folder, options)
        return show_foreground_end(group, as_json=as_json)
    ended = resume_run(controller, found.folder, options)
    return show_foreground_end(ended, as_json=as_json)


def print_resumable_runs(runs: Path) -> None:
    """Print a note if there are runs or groups that can be resumed."""
    try:
        found = Catalogue(runs).entries()
        groups = group_entries(runs, found)
    except OSError as error:
        # This does not keep another run from starting.
        print_note(f"note: {runs} cannot be read: {error}")
        return
    for group in groups:
        if group.waits:
            done = f"{group.completed} of {group.variants} variants completed"
            command = resume_line(runs / group.folder)
            print_note(f"note: group {group.name} can be resumed ({done}): {command}")
    in_groups = {entry.run_id for group in groups for entry in group.runs}
    waiting = [one for one in reversed(found) if one.waits and one.run_id not in in_groups]
    summary = waiting_runs(waiting, f" in {runs}")
    if summary:
        forced = "" if any(not entry.needs_force for entry in waiting) else " --force"
        command = (
            resume_line(runs / waiting[0].folder)
            if len(waiting) == 1
            else f"stagewright resume --all{runs_argument(runs)}"
        )
        print_note(f"note: {summary}: {command}{forced}")
