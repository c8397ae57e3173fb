"""``plan`` and ``schema``: show a plan, and the schema of a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from ....events.origins import prompt_texts
from ....statemachine.config.document import check_config
from ....statemachine.config.inputs import load_config
from ....statemachine.config.legacy import RunDocument
from ....statemachine.config.prompts import draw_prompts
from ....statemachine.config.schema import RunConfig, type_with_stages
from ....statemachine.errors import ConfigurationError
from ....statemachine.plan.builder import build_stage_execution_plan
from ....statemachine.plan.plan import StageExecutionPlan
from ....statemachine.stages import load_stages, stage_types
from ...backends.registry import BackendKind, ServerChoice, kind_of_server, recorded_address
from ...inputs import PillowInputReader
from ...projections.durations import RecordedDurations
from ...projections.flat_values import flattened
from ..completion import complete_key
from ..estimate_text import estimate_text
from ..output import (
    count,
    json_option,
    print_json,
    print_line,
    print_settings,
    profile_option,
    runs_option,
)
from ..settings import current_settings, find_profile, named_server, server_headers
from ..styles import WRONG, Mark, warning_mark
from .replay import show_prompts

set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=complete_key,
    help="Override a key, for example txt2img.steps=30; can be repeated.",
)
config_argument = click.argument("config", type=click.Path(path_type=Path))


def read_config(
    config: Path, *, overrides: Sequence[str], profile: str | None, runs: Path
) -> RunConfig:
    """CONFIG with its profile and overrides. Raises ConfigurationError."""
    found = find_profile(profile)
    return load_config(
        config,
        inputs=PillowInputReader(),
        runs=runs,
        overrides=overrides,
        profile=found.tables,
        profile_source=found.source,
    )


def choose_server(servers: tuple[str, ...], loaded: RunConfig) -> tuple[str | None, RunConfig]:
    """The server that the user named, and the configuration with the one to use otherwise.

    The server of the settings is used if neither the user nor the configuration names one. That
    of a folder's file is foreign, like one of a configuration: it gets no credentials.
    """
    named = named_server(servers)
    default = None if named or loaded.server.url else current_settings().server
    if default is None:
        return named, loaded
    if default.named_by_user:
        return default.url, loaded
    server = msgspec.structs.replace(loaded.server, url=default.url)
    return None, msgspec.structs.replace(loaded, server=server)


def find_server(
    servers: tuple[str, ...], loaded: RunConfig, *, insecure: bool
) -> tuple[BackendKind, ServerChoice] | None:
    """The server that a command is to look at, None if none is named anywhere.

    Raises ConfigurationError.
    """
    server, loaded = choose_server(servers, loaded)
    named = server or loaded.server.url
    if named is None:
        return None
    kind = kind_of_server(named, loaded.server.kind)
    return kind, ServerChoice(
        url=kind.address(named),
        named_by_user=server is not None,
        settings=loaded.server_settings,
        insecure=insecure,
        headers=server_headers(),
        prompts=prompt_texts(loaded.drawn_prompts.prompts) if loaded.drawn_prompts else (),
    )


def address_of_server(loaded: RunConfig) -> str | None:
    """The address, as logs have it, of the server that `run` would use; None: embedded.

    Raises ConfigurationError.
    """
    named, loaded = choose_server((), loaded)
    address = named or loaded.server.url
    return None if address is None else recorded_address(address, loaded.server.kind)


@click.command("plan")
@config_argument
@set_option
@profile_option
@runs_option
@json_option
def plan_command(
    config: Path,
    overrides: tuple[str, ...],
    profile: str | None,
    runs: Path,
    as_json: bool,  # noqa: FBT001 - click passes flags
) -> None:
    """Check CONFIG and show its stages, without running it.

    All errors are reported at once; with --json also as `errors`, each with its key, value, reason
    and the nearest name.
    """
    current_settings()  # its errors are not of CONFIG
    try:
        loaded = read_config(config, overrides=overrides, profile=profile, runs=runs)
        drawn = draw_prompts(check_config(loaded))
        plan = build_stage_execution_plan(drawn)
    except ConfigurationError as error:
        if as_json:
            print_json({"errors": error.errors})
        raise
    if as_json:
        print_json(plan)
    else:
        _show(plan, _estimate_line(plan, loaded, runs))
        if plan.prompts and drawn.drawn_prompts is not None:
            are_examples = drawn.drawn_prompts.are_examples
            note = " (examples: a run with seed = -1 draws others)" if are_examples else ""
            print_line()
            show_prompts(drawn.drawn_prompts.prompts, f"prompts by image{note}")


@click.command("schema")
@click.option(
    "--json", is_flag=True, expose_value=False, help="Not needed: the output is always JSON."
)
def schema_command() -> None:
    """Print the JSON Schema of a configuration."""
    load_stages()
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "stagewright configuration",
        **msgspec.json.schema(type_with_stages(RunDocument)),
    }
    for stage in stage_types().values():
        for name in stage.plan_only:
            schema["$defs"][stage.__name__]["properties"].pop(name, None)
    click.echo(msgspec.json.format(msgspec.json.encode(schema)).decode())


def _estimate_line(plan: StageExecutionPlan, loaded: RunConfig, runs: Path) -> str:
    try:
        url = address_of_server(loaded)
    except ConfigurationError:
        return ""  # The plan is valid; `run` says what is wrong with the server.
    estimate = RecordedDurations(runs, url).estimate(plan)
    return "" if estimate is None else estimate_text(estimate, url)


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
