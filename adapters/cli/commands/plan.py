"""``plan``: shows what a configuration, or a sweep of it, would make."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from ....events.folds import replay
from ....statemachine.config.document import check_config
from ....statemachine.config.inputs import ConfigDocument
from ....statemachine.config.prompts import draw_prompts
from ....statemachine.config.schema import RunConfig
from ....statemachine.errors import ConfigurationError
from ....statemachine.plan.builder import build_stage_execution_plan
from ....statemachine.plan.plan import StageExecutionPlan
from ...bootstrap import open_controller
from ...projections.durations import RecordedDurations
from ...projections.flat_values import flattened
from ..completion import complete_run
from ..configuration import addresses_of_servers, find_config, is_sweep, read_document
from ..options import (
    config_argument,
    json_option,
    profile_option,
    runs_option,
    set_option,
    vary_option,
    zip_option,
)
from ..output import count, print_json, print_line, print_settings
from ..plan_tables import (
    estimate_sweep,
    estimate_text,
    reuse_document,
    reuse_lines,
    show_sweep,
    sweep_document,
)
from ..results import show_prompts
from ..run_lookup import find_run
from ..settings import current_settings
from ..styles import WRONG, Mark, warning_mark


@click.command("plan")
@config_argument
@set_option
@vary_option
@zip_option
@click.option(
    "--against",
    metavar="RUN",
    shell_complete=complete_run,
    help="Show for each stage how many images of RUN could be reused, and why not the others.",
)
@profile_option
@runs_option
@json_option
def plan_command(
    config: Path,
    overrides: tuple[str, ...],
    vary: tuple[str, ...],
    zip_axes: bool,
    against: str | None,
    profile: str | None,
    runs: Path,
    as_json: bool,
) -> None:
    """Check CONFIG and show its stages, without running it.

    With --vary, or [sweep] in CONFIG, show the variants in the order in which they would run, and
    how often the server would load another checkpoint.

    Where its stages have run on the same servers before, it says about how long they will take.

    With --against it compares CONFIG with the log of RUN, and asks no server.

    All errors are reported at once; with --json also as `errors`, each with its key, value, reason
    and the nearest name.
    """
    current_settings()  # its errors are not of CONFIG
    try:
        document = read_document(config, overrides=overrides, profile=profile)
        if against is not None:
            if is_sweep(document, vary, zip_axes=zip_axes):
                raise click.UsageError(
                    "--against compares one run: leave out --vary, --zip and [sweep]"
                )
            _plan_against(find_config(document, runs), against, runs, as_json=as_json)
        elif is_sweep(document, vary, zip_axes=zip_axes):
            _plan_sweep(document, vary, runs, zip_axes=zip_axes, as_json=as_json)
        else:
            _plan_run(find_config(document, runs), runs, as_json=as_json)
    except ConfigurationError as error:
        if as_json:
            print_json({"errors": error.errors})
        raise


def _plan_against(loaded: RunConfig, run: str, runs: Path, *, as_json: bool) -> None:
    folder = find_run(runs, run)
    stages = open_controller(runs).plan_against(loaded, str(folder))
    run_id = replay(folder).run_id
    if as_json:
        print_json(reuse_document(run_id, stages))
        return
    for line in reuse_lines(stages):
        print_line(line)
    print_line(
        f"The server was not asked. `rerun {run_id}` reuses images of this run; `run` does so only "
        'with run.reuse = "all".'
    )


def _plan_run(loaded: RunConfig, runs: Path, *, as_json: bool) -> None:
    drawn = draw_prompts(check_config(loaded))
    plan = build_stage_execution_plan(drawn)
    if as_json:
        print_json(plan)
        return
    _show(plan, _estimate_line(plan, loaded, runs))
    if plan.prompts and drawn.drawn_prompts is not None:
        are_examples = drawn.drawn_prompts.are_examples
        note = " (examples: a run with seed = -1 draws others)" if are_examples else ""
        print_line()
        show_prompts(drawn.drawn_prompts.prompts, f"prompts by image{note}")


def _plan_sweep(
    document: ConfigDocument,
    vary: tuple[str, ...],
    runs: Path,
    *,
    zip_axes: bool,
    as_json: bool,
) -> None:
    plan = open_controller(runs).plan_group(document, vary=vary, zip_axes=zip_axes)
    urls = addresses_of_servers(plan.server)
    estimates = estimate_sweep(plan, RecordedDurations(runs, *urls))
    if as_json:
        print_json(sweep_document(plan, estimates))
    else:
        show_sweep(plan, estimates, urls)


def _estimate_line(plan: StageExecutionPlan, loaded: RunConfig, runs: Path) -> str:
    try:
        urls = addresses_of_servers(loaded.server)
    except ConfigurationError:
        return ""  # The plan is valid; `run` says what is wrong with the server.
    estimate = RecordedDurations(runs, *urls).estimate(plan)
    return "" if estimate is None else estimate_text(estimate, *urls)


def _show(plan: StageExecutionPlan, estimate: str) -> None:
    print_line(plan.summary)
    images = count(plan.total_images, "image")
    print_line(f"{images} in each stage, {plan.total_steps} sampling steps in total")
    if estimate:
        print_line(estimate)
    for stage in plan.stages:
        print_line()
        size = "" if stage.output_size is None else "  -> {}x{}".format(*stage.output_size)
        print_line(f"{stage.stage_id}  from {stage.input_source}{size}")
        print_settings(flattened(msgspec.to_builtins(stage.config)))
    for conflict in plan.conflicts:
        print_line(Mark("conflict:", WRONG), f" {conflict}; `run` refuses it")
    for warning in plan.warnings:
        print_line(warning_mark(), f" {warning}")
