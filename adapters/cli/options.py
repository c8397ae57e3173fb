"""The options and arguments that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .common_options import RUNS
from .completion import complete_key

_FOLDER = click.Path(path_type=Path, file_okay=False)


def _runs_folder(context: click.Context, parameter: click.Parameter, given: Path | None) -> Path:
    # The settings take 20 ms to load, which `--version` need not wait for.
    from .settings import runs_folder  # noqa: PLC0415 - see above

    # Checked once more, for it may come from the settings.
    folder: Path = _FOLDER.convert(runs_folder(given), parameter, context)
    return folder


def _no_dash(
    _context: click.Context, _parameter: click.Parameter, path: Path | None
) -> Path | None:
    # Other programs take "-" for standard output; a file of that name would surprise.
    if str(path) == "-":
        raise click.BadParameter("standard output is not supported; name a file")
    return path


def check_runs_folder(runs: Path) -> None:
    """Refuse a ``--runs`` folder that does not exist.

    The default folder may be missing: the first run makes it.
    """
    context = click.get_current_context()
    is_given = context.get_parameter_source("runs") is ParameterSource.COMMANDLINE
    if (is_given or RUNS in context.meta) and not runs.is_dir():
        raise click.UsageError(f"--runs {runs}: no such folder")


def output_option(description: str) -> Callable[..., Any]:
    """The option ``--output`` of a command that writes one file."""
    kind = click.Path(path_type=Path, dir_okay=False)
    return click.option("--output", type=kind, metavar="FILE", callback=_no_dash, help=description)


def servers_option(description: str) -> Callable[..., Any]:
    """The option ``--server``, which can be repeated; the command gets ``servers``."""
    return click.option("--server", "servers", multiple=True, metavar="URL", help=description)


config_argument = click.argument("config", type=click.Path(path_type=Path))
runs_option = click.option(
    "--runs",
    type=_FOLDER,
    callback=_runs_folder,
    help="Folder that holds the runs.  [default: runs]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
profile_option = click.option(
    "--profile", metavar="NAME", help="Profile of your settings to use below CONFIG."
)
insecure_option = click.option(
    "--insecure",
    is_flag=True,
    help="Send credentials over plain http, and despite tls_verify or ca_bundle.",
)
farm_option = click.option(
    "--farm",
    metavar="ADDRESS",
    help="Farm to use instead of a server: the address of its scheduler. On another machine it "
    "needs TLS, or --insecure.",
)
no_preflight_option = click.option(
    "--no-preflight", is_flag=True, help="Skip the check that the server has all names."
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=complete_key,
    help="Override a key, for example txt2img.steps=30; can be repeated.",
)
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
fail_fast_option = click.option(
    "--fail-fast", is_flag=True, help="End a sweep with the first variant that does not complete."
)
