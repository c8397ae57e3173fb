"""``resume``: continues runs and groups that died, failed or were cancelled."""

from __future__ import annotations

from pathlib import Path

import click

from ....statemachine.errors import ResumeRefusedError
from ...bootstrap import open_controller
from ...export.bundle.manifest import lacks_images
from ...projections.catalogue import Catalogue
from ...projections.groups import group_entries
from ..completion import complete_run
from ..farm_option import farm_option, with_farm
from ..foreground import show_end
from ..groups import show_group_end
from ..output import (
    check_runs_folder,
    insecure_option,
    json_option,
    print_note,
    runs_argument,
    runs_option,
)
from ..resuming import ResumeAll, ResumeOptions, resume_group, resume_run
from ..run_lookup import find_run_or_group
from ..settings import named_servers, server_headers, server_restarts
from .list import waiting_runs
from .replay import resume_line

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
@click.option(
    "--server",
    "servers",
    multiple=True,
    metavar="URL",
    help="WebUI server to use; can be repeated.  [default: the recorded ones]",
)
@farm_option
@click.option("--all", "every", is_flag=True, help="Resume every run that can be resumed.")
@click.option(
    "--cancelled", is_flag=True, help="With --all, also resume what was cancelled on purpose."
)
@click.option(
    "--force", is_flag=True, help="Also resume a run that earlier resumes did not advance."
)
@click.option("--no-preflight", is_flag=True, help="Skip the check that the server has all names.")
@insecure_option
@runs_option
@json_option
def resume_command(
    run: str | None,
    servers: tuple[str, ...],
    farm: str | None,
    every: bool,  # noqa: FBT001 - click passes flags
    cancelled: bool,  # noqa: FBT001 - the same
    force: bool,  # noqa: FBT001 - the same
    no_preflight: bool,  # noqa: FBT001 - the same
    insecure: bool,  # noqa: FBT001 - the same
    runs: Path,
    as_json: bool,  # noqa: FBT001 - the same
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
    controller = open_controller(
        runs,
        named_servers(with_farm(servers, farm)),
        insecure=insecure,
        headers=server_headers(),
        restarts=server_restarts(),
    )
    options = ResumeOptions(
        force=force,
        preflight=not no_preflight,
        as_json=as_json,
        cancelled=cancelled or not every,
    )
    if found is None:
        return ResumeAll(controller, runs, options).run()
    folder = found.folder
    if found.is_group:
        return show_group_end(resume_group(controller, folder, options), runs, as_json=as_json)
    if lacks_images(folder):
        raise ResumeRefusedError(
            f"{folder}: this is an unpacked bundle without image files; resume the original run"
        )
    ended = resume_run(controller, folder, options)
    return show_end(ended, as_json=as_json)


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
