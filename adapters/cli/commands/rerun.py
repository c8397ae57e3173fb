"""``rerun``: the images of an earlier run once more, with changed settings."""

from __future__ import annotations

from pathlib import Path

import click

from ....events.errors import RunNotFoundError
from ....events.folds import replay
from ....statemachine.files.run_folder import split_image_number
from ....statemachine.run.reuse_plan import require_reuse
from ....statemachine.stages import stage_types
from ..completion import complete_run
from ..foreground import open_command_controller, run_in_foreground, show_foreground_end
from ..image_choice import ImageChoice, chosen_indexes, only_option
from ..options import (
    insecure_option,
    json_option,
    no_preflight_option,
    runs_option,
    servers_option,
    set_option,
)
from ..output import print_json, print_line, print_note
from ..plan_tables import reuse_document, reuse_lines
from ..run_lookup import find_run
from ..settings import named_servers


@click.command("rerun")
@click.argument("run", shell_complete=complete_run)
@click.option(
    "--from",
    "from_stage",
    type=click.Choice(list(stage_types())),
    metavar="STAGE",
    help="Begin only if all images of the stages before STAGE can be reused.",
)
@only_option
@set_option
@click.option("--dry-run", is_flag=True, help="Show what would be reused and made, and why.")
@servers_option("WebUI server to use; can be repeated.  [default: the recorded ones]")
@no_preflight_option
@insecure_option
@runs_option
@json_option
def rerun_command(
    run: str,
    from_stage: str | None,
    only: ImageChoice | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    servers: tuple[str, ...],
    no_preflight: bool,
    insecure: bool,
    runs: Path,
    as_json: bool,
) -> int:
    """Make the images of RUN again, with other settings.

    A new run begins. It takes the seeds, prompts and inputs of the images from RUN, and uses again
    what RUN has made in the same way: only the stages that change, and those after them, are made.

    What is reused and what is made is shown first, with the reasons. Paths in --set are relative to
    the working folder; images, prompts and inputs are those of RUN.

    Exit status: that of `run`.
    """
    if no_preflight:
        overrides = (*overrides, "run.preflight=false")
    folder = _find_run(runs, run)
    images = chosen_indexes(runs, folder, only)
    controller = open_command_controller(runs, named_servers(servers), insecure=insecure)
    planned = controller.plan_rerun(str(folder), images=images, overrides=overrides)
    if dry_run and as_json:
        print_json(reuse_document(replay(folder).run_id, planned))
    for line in reuse_lines(planned) if not (dry_run and as_json) else ():
        (print_line if dry_run else print_note)(line)
    if from_stage is not None:
        require_reuse(planned, from_stage)
    if dry_run:
        return 0
    ended = run_in_foreground(
        controller,
        lambda _on_file: controller.start_rerun(str(folder), images=images, overrides=overrides),
    )
    return show_foreground_end(ended, as_json=as_json)


def _find_run(runs: Path, name: str) -> Path:
    """The folder of the run. Raises RunNotFoundError, with the option for a single image."""
    try:
        return find_run(runs, name)
    except RunNotFoundError as error:
        run, number = split_image_number(name)
        if number is None:
            raise
        raise RunNotFoundError(
            f"{name} is an image, and rerun takes a run: `rerun {run} --only {number}`"
        ) from error
