"""``run``: executes a configuration in the foreground and shows the progress."""

from __future__ import annotations

from pathlib import Path

import click

from ....statemachine.config.schema import Conflict
from ....statemachine.errors import ConfigurationError, FieldError
from ....statemachine.run.handle import RunHandle
from ...bootstrap import open_controller
from ..display import open_file_counter
from ..foreground import run_in_foreground, show_end
from ..output import (
    insecure_option,
    json_option,
    print_note,
    profile_option,
    progress_stream,
    runs_option,
)
from ..settings import server_headers
from ..styles import warning_mark
from .plan import choose_server, config_argument, read_config, set_option
from .resume import print_resumable_runs


@click.command("run")
@config_argument
@click.option(
    "--server",
    "servers",
    multiple=True,
    metavar="URL",
    help="WebUI server to use.  [default: [server].url of CONFIG, else the embedded backend]",
)
@set_option
@profile_option
@click.option("--no-preflight", is_flag=True, help="Skip the check that the server has all names.")
@insecure_option
@runs_option
@json_option
def run_command(
    config: Path,
    servers: tuple[str, ...],
    overrides: tuple[str, ...],
    profile: str | None,
    no_preflight: bool,  # noqa: FBT001 - click passes flags
    insecure: bool,  # noqa: FBT001 - the same
    runs: Path,
    as_json: bool,  # noqa: FBT001 - the same
) -> int:
    """Run CONFIG and show its progress.

    Ctrl-C stops the run cleanly and keeps its finished images; a second Ctrl-C quits at once.
    `stagewright resume` continues the run in either case.

    \b
    Exit status:
      0  COMPLETED
      1  ERROR
      2  wrong usage, invalid configuration, or the server cannot be used;
         nothing was started
      3  CANCELLED; after Ctrl-C the command ends by SIGINT (130 in shells)
    """
    if no_preflight:
        overrides = (*overrides, "run.preflight=false")
    loaded = read_config(config, overrides=overrides, profile=profile, runs=runs)
    server, loaded = choose_server(servers, loaded)
    controller = open_controller(runs, server, insecure=insecure, headers=server_headers())
    stream = progress_stream()
    plan = controller.validate(loaded)
    if plan.conflicts:
        raise ConfigurationError(errors=[_conflict_error(config, one) for one in plan.conflicts])
    for warning in plan.warnings:
        print_note(warning_mark(), f" {warning}")
    print_resumable_runs(runs)
    with open_file_counter(progress_stream()) as counter:

        def begin() -> RunHandle:
            try:
                return controller.start(loaded)
            finally:
                counter.pause()

        ended = run_in_foreground(controller, begin, stream)
    return show_end(ended, as_json=as_json)


def _conflict_error(config: Path, conflict: Conflict) -> FieldError:
    reason = f"is in conflict with {conflict.nested_key}"
    message = f"{config}: conflict: {conflict}; remove one of them"
    return FieldError(
        key=conflict.flat_key, value=conflict.flat_value, reason=reason, message=message
    )
