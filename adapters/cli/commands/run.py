"""``run``: a run in the foreground, with progress, that Ctrl-C ends cleanly."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ....statemachine.config.inputs import load_config
from ....statemachine.run.controller import RunHandle
from ...bootstrap import open_controller
from ...inputs import PillowInputReader
from ..display import open_file_counter
from ..foreground import follow, show_end
from ..output import escaped, insecure_option, json_option, runs_option
from .plan import config_argument, set_option
from .resume import tell_of_resumable


@click.command("run")
@config_argument
@click.option("--server", "servers", multiple=True, metavar="URL", help="A WebUI server.")
@set_option
@click.option("--no-preflight", is_flag=True, help="Do not check names with the server first.")
@insecure_option
@runs_option
@json_option
def run_command(
    config: Path,
    servers: tuple[str, ...],
    overrides: tuple[str, ...],
    no_preflight: bool,  # noqa: FBT001 - click passes flags
    insecure: bool,  # noqa: FBT001 - the same
    runs: Path,
    as_json: bool,  # noqa: FBT001 - the same
) -> int:
    """Run CONFIG. Ctrl-C once stops it and keeps its images, twice leaves at once."""
    if len(servers) > 1:
        raise click.UsageError("more than one --server is not supported yet")
    if no_preflight:
        overrides = (*overrides, "run.preflight=false")
    loaded = load_config(config, inputs=PillowInputReader(), runs=runs, overrides=overrides)
    controller = open_controller(runs, servers[0] if servers else None, insecure=insecure)
    stream = sys.stderr if as_json else sys.stdout
    for warning in controller.validate(loaded).warnings:
        click.echo(f"warning: {escaped(warning)}", file=stream)
    tell_of_resumable(runs, stream)
    with open_file_counter(sys.stderr) as counter:

        def begin() -> RunHandle:
            try:
                return controller.start(loaded)
            finally:
                counter.pause()

        ended = follow(controller, begin, stream)
    return show_end(ended.handle, ended.result, as_json=as_json)
