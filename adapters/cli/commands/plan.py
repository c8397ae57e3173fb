"""``plan`` and ``schema``: show a plan, and the schema of a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec

from ....events.origins import prompt_texts
from ....statemachine.config.document import check_config
from ....statemachine.config.inputs import ConfigDocument, load_document
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


vary_option = click.option(
    "--vary",
    multiple=True,
    metavar="KEY=V1,V2,...",
    shell_complete=complete_key,
    help="Make a variant for each value, such as txt2img.cfg_scale=5,7 or txt2img.steps=20..30:5; "
    "repeated, for each combination.",
)
zip_option = click.option(
    "--zip", "zip_axes", is_flag=True, help="Combine the values of several --vary side by side."
)


def read_document(config: Path, *, overrides: Sequence[str], profile: str | None) -> ConfigDocument:
    """CONFIG with its profile and overrides, not yet checked. Raises ConfigurationError."""
    found = find_profile(profile)
    return load_document(
        config, overrides=overrides, profile=found.tables, profile_source=found.source
    )


def read_config(
    config: Path, *, overrides: Sequence[str], profile: str | None, runs: Path
) -> RunConfig:
    """CONFIG with its profile, overrides and inputs. Raises ConfigurationError."""
    document = read_document(config, overrides=overrides, profile=profile)
    return find_config(document, runs)


def find_config(document: ConfigDocument, runs: Path) -> RunConfig:
    """The configuration of one run, with its inputs. Raises ConfigurationError."""
    return document.find(document.parse(), inputs=PillowInputReader(), runs=runs)


class ChosenServer(NamedTuple):
    """The server to use: one that the user ``named``, or a ``foreign`` one of a folder's file.

    The latter gets no credentials, like one of a configuration. Neither is set where the
    configuration names a server, or none is named anywhere.
    """

    named: str | None = None
    foreign: str | None = None


def choose_server(servers: tuple[str, ...], of_config: str | None) -> ChosenServer:
    """The server that the user named; else, without one of the configuration, of the settings."""
    named = named_server(servers)
    default = None if named or of_config else current_settings().server
    if default is None:
        return ChosenServer(named)
    return ChosenServer(default.url) if default.named_by_user else ChosenServer(None, default.url)


def with_server(loaded: RunConfig, chosen: ChosenServer) -> RunConfig:
    """The configuration with the foreign server, if there is one."""
    if chosen.foreign is None:
        return loaded
    server = msgspec.structs.replace(loaded.server, url=chosen.foreign)
    return msgspec.structs.replace(loaded, server=server)


def find_server(
    servers: tuple[str, ...], loaded: RunConfig, *, insecure: bool
) -> tuple[BackendKind, ServerChoice] | None:
    """The server that a command is to look at, None if none is named anywhere.

    Raises ConfigurationError.
    """
    chosen = choose_server(servers, loaded.server.url)
    loaded = with_server(loaded, chosen)
    named = chosen.named or loaded.server.url
    if named is None:
        return None
    kind = kind_of_server(named, loaded.server.kind)
    return kind, ServerChoice(
        url=kind.address(named),
        named_by_user=chosen.named is not None,
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

    Where its stages have run on the same server before, it says about how long they will take.

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
