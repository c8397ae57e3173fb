"""``run``: executes a configuration, or a sweep of it, in the foreground."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from ....statemachine.config.inputs import ConfigDocument
from ....statemachine.config.schema import Conflict, RunConfig
from ....statemachine.errors import ConfigurationError, FieldError
from ....statemachine.groups.planning import GroupPlan
from ....statemachine.run.controller import PipelineController
from ....statemachine.run.handle import GroupHandle, RunHandle
from ...bootstrap import open_controller
from ..configuration import (
    choose_servers,
    config_argument,
    find_config,
    read_document,
    set_option,
    vary_option,
    with_server,
    zip_option,
)
from ..display import open_file_counter
from ..farm_option import farm_option, with_farm
from ..foreground import run_in_foreground, show_end
from ..groups import confirm_count, is_sweep, run_group
from ..output import (
    insecure_option,
    json_option,
    print_note,
    profile_option,
    progress_stream,
    runs_option,
)
from ..settings import server_headers, server_restarts
from ..styles import warning_mark
from .resume import print_resumable_runs


class _Options(msgspec.Struct, frozen=True):
    """The options of ``run`` that a run and a sweep have in common."""

    servers: tuple[str, ...]
    insecure: bool
    runs: Path
    as_json: bool


@click.command("run")
@config_argument
@click.option(
    "--server",
    "servers",
    multiple=True,
    metavar="URL",
    help="WebUI server to use; repeated, several share the work.  [default: [server].url of "
    "CONFIG, else the embedded backend]",
)
@farm_option
@set_option
@vary_option
@zip_option
@click.option("--yes", is_flag=True, help="Run more than 1,000 variants without a question.")
@click.option(
    "--fail-fast", is_flag=True, help="End a sweep with the first variant that does not complete."
)
@profile_option
@click.option("--no-preflight", is_flag=True, help="Skip the check that the server has all names.")
@insecure_option
@runs_option
@json_option
def run_command(
    config: Path,
    servers: tuple[str, ...],
    farm: str | None,
    overrides: tuple[str, ...],
    vary: tuple[str, ...],
    zip_axes: bool,  # noqa: FBT001 - click passes flags
    yes: bool,  # noqa: FBT001 - the same
    fail_fast: bool,  # noqa: FBT001 - the same
    profile: str | None,
    no_preflight: bool,  # noqa: FBT001 - the same
    insecure: bool,  # noqa: FBT001 - the same
    runs: Path,
    as_json: bool,  # noqa: FBT001 - the same
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
    options = _Options(servers, insecure, runs, as_json)
    document = read_document(config, overrides=overrides, profile=profile)
    if is_sweep(document, vary, zip_axes=zip_axes):
        confirm_count(document, vary, zip_axes=zip_axes, yes=yes)
        return _run_sweep(document, vary, options, zip_axes=zip_axes, fail_fast=fail_fast)
    return _run_once(config, find_config(document, runs), options)


def _run_once(config: Path, loaded: RunConfig, options: _Options) -> int:
    chosen = choose_servers(options.servers, loaded.server.url)
    loaded = with_server(loaded, chosen)
    controller = _open_controller(chosen.named, options)
    plan = controller.validate(loaded)
    if plan.conflicts:
        raise ConfigurationError(errors=[_conflict_error(config, one) for one in plan.conflicts])
    _print_notes(plan.warnings, options.runs)
    # Taken before the counter begins, which stands in for standard error meanwhile.
    stream = progress_stream()
    with open_file_counter(stream) as counter:

        def begin() -> RunHandle:
            try:
                return controller.start(loaded)
            finally:
                counter.pause()

        ended = run_in_foreground(controller, begin, stream)
    return show_end(ended, as_json=options.as_json)


def _run_sweep(
    document: ConfigDocument,
    vary: tuple[str, ...],
    options: _Options,
    *,
    zip_axes: bool,
    fail_fast: bool,
) -> int:
    server = document.document.get("server")
    url = server.get("url") if isinstance(server, dict) else None
    chosen = choose_servers(options.servers, url)
    controller = _open_controller(chosen.named, options)
    plan: GroupPlan = controller.plan_group(document, vary=vary, zip_axes=zip_axes)
    if chosen.foreign is not None:
        plan = plan.with_server(chosen.foreign)
    _print_notes(plan.warnings, options.runs)
    stream = progress_stream()
    with open_file_counter(stream) as counter:

        def begin() -> GroupHandle:
            try:
                return controller.start_group(plan, fail_fast=fail_fast)
            finally:
                counter.pause()

        return run_group(controller, begin, stream, as_json=options.as_json)


def _open_controller(servers: tuple[str, ...], options: _Options) -> PipelineController:
    return open_controller(
        options.runs,
        servers,
        insecure=options.insecure,
        headers=server_headers(),
        restarts=server_restarts(),
    )


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
