"""``run``: executes a configuration, or a sweep of it, in the foreground."""

from __future__ import annotations

from pathlib import Path

import click

from ....statemachine.config.schema import Conflict
from ....statemachine.errors import ConfigurationError, FieldError
from ..configuration import (
    choose_servers,
    confirm_count,
    find_config,
    is_sweep,
    read_document,
    with_farm,
    with_server,
)
from ..foreground import open_command_controller, run_in_foreground, show_foreground_end
from ..options import (
    config_argument,
    fail_fast_option,
    farm_option,
    insecure_option,
    json_option,
    no_preflight_option,
    profile_option,
    runs_option,
    servers_option,
    set_option,
    vary_option,
    zip_option,
)
from ..output import print_note
from ..styles import warning_mark
from .resume import print_resumable_runs


@click.command("run")
@config_argument
@servers_option(
    "WebUI server to use; repeated, several share the work.  [default: [server].url of "
    "CONFIG, else the embedded backend]"
)
@farm_option
@set_option
@vary_option
@zip_option
@click.option("--yes", is_flag=True, help="Run more than 1,000 variants without a question.")
@fail_fast_option
@profile_option
@no_preflight_option
@insecure_option
@runs_option
@json_option
def run_command(
    config: Path,
    servers: tuple[str, ...],
    farm: str | None,
    overrides: tuple[str, ...],
    vary: tuple[str, ...],
    zip_axes: bool,
    yes: bool,
    fail_fast: bool,
    profile: str | None,
    no_preflight: bool,
    insecure: bool,
    runs: Path,
    as_json: bool,
) -> int:
    """Run CONFIG and show its progress.

    With --vary, or [sweep] in CONFIG, it is a sweep: a group of runs, one for each variant, one
    after the other. A variant that fails does not stop the others.

    Ctrl-C stops the run cleanly and keeps its finished images; a second Ctrl-C quits at once.
    `stagewright resume` continues the run, or `stagewright resume last-group` the sweep, in either
    case.

    \b
    Exit status:
      0  COMPLETED; of a sweep: all variants
      1  ERROR; of a sweep: some variants are not complete
      2  wrong usage, invalid configuration, or the server cannot be used;
         nothing was started
      3  CANCELLED; after Ctrl-C the command ends by SIGINT (130 in shells)
    """
    if no_preflight:
        overrides = (*overrides, "run.preflight=false")
    servers = with_farm(servers, farm)
    document = read_document(config, overrides=overrides, profile=profile)
    if is_sweep(document, vary, zip_axes=zip_axes):
        confirm_count(document, vary, zip_axes=zip_axes, yes=yes)
        table = document.document.get("server")
        chosen = choose_servers(servers, table.get("url") if isinstance(table, dict) else None)
        controller = open_command_controller(runs, chosen.named, insecure=insecure)
        sweep = controller.plan_group(document, vary=vary, zip_axes=zip_axes)
        if chosen.foreign is not None:
            sweep = sweep.with_server(chosen.foreign)
        _print_notes(sweep.warnings, runs)
        group = run_in_foreground(
            controller, lambda _on_file: controller.start_group(sweep, fail_fast=fail_fast)
        )
        return show_foreground_end(group, as_json=as_json)
    loaded = find_config(document, runs)
    chosen = choose_servers(servers, loaded.server.url)
    loaded = with_server(loaded, chosen)
    controller = open_command_controller(runs, chosen.named, insecure=insecure)
    plan = controller.validate(loaded)
    if plan.conflicts:
        raise ConfigurationError(errors=[_conflict_error(config, one) for one in plan.conflicts])
    _print_notes(plan.warnings, runs)
    run = run_in_foreground(controller, lambda _on_file: controller.start(loaded))
    return show_foreground_end(run, as_json=as_json)


def _print_notes(warnings: tuple[str, ...], runs: Path) -> None:
    for warning in warnings:
        print_note(warning_mark(), f" {warning}")
    print_resumable_runs(runs)


def _conflict_error(config: Path, conflict: Conflict) -> FieldError:
    reason = f"is in conflict with {conflict.nested_key}"
    message = f"{config}: conflict: {conflict}; remove one of them"
    return FieldError(
        key=conflict.flat_key, value=conflict.flat_value, reason=reason, message=message
    )
