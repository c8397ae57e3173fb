"""Options that commands share, and functions that print text and JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from shlex import quote
from typing import IO, Any, cast

import click
import msgspec
from click.core import ParameterSource

from ...events.codec import escape_separators
from ..event_text import state_text as state_text
from ..text import count as count
from ..text import duration as duration
from ..text import escaped as escaped
from ..text import one_line as one_line
from ..text import setting_text as setting_text
from .common_options import RUNS, is_quiet
from .streams import BrokenPipeTolerantStream
from .styles import Mark, styled

_FOLDER = click.Path(path_type=Path, file_okay=False)


def _runs_folder(context: click.Context, parameter: click.Parameter, given: Path | None) -> Path:
    # The settings take 20 ms to load, which `--version` need not wait for.
    from .settings import runs_folder  # noqa: PLC0415 - see above

    # Checked once more, for it may come from the settings.
    folder: Path = _FOLDER.convert(runs_folder(given), parameter, context)
    return folder


runs_option = click.option(
    "--runs",
    type=_FOLDER,
    callback=_runs_folder,
    help="Folder that holds the runs.  [default: runs]",
)
profile_option = click.option(
    "--profile", metavar="NAME", help="Profile of your settings to use below CONFIG."
)
insecure_option = click.option(
    "--insecure",
    is_flag=True,
    help="Send credentials over plain http, and despite tls_verify or ca_bundle.",
)


def _no_dash(
    _context: click.Context, _parameter: click.Parameter, path: Path | None
) -> Path | None:
    # Other programs take "-" for standard output; a file of that name would surprise.
    if str(path) == "-":
        raise click.BadParameter("standard output is not supported; name a file")
    return path


def output_option(description: str) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """The option ``--output`` of a command that writes one file."""
    kind = click.Path(path_type=Path, dir_okay=False)
    return click.option("--output", type=kind, metavar="FILE", callback=_no_dash, help=description)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def check_runs_folder(runs: Path) -> None:
    """Refuse a ``--runs`` folder that does not exist.

    The default folder may be missing: the first run makes it.
    """
    context = click.get_current_context()
    is_given = context.get_parameter_source("runs") is ParameterSource.COMMANDLINE
    if (is_given or RUNS in context.meta) and not runs.is_dir():
        raise click.UsageError(f"--runs {runs}: no such folder")


def runs_argument(runs: Path) -> str:
    """The option that makes another command use the same folder of runs."""
    from .settings import default_runs_folder  # noqa: PLC0415 - see _runs_folder

    return "" if runs == default_runs_folder() else f" --runs {quote(str(runs))}"


def progress_stream() -> IO[str]:
    """Standard error, for progress and notes; with ``-q`` they go nowhere."""
    if is_quiet():
        return BrokenPipeTolerantStream(None)  # type: ignore[return-value]  # a text stream
    return sys.stderr


def print_line(*parts: str | Mark) -> None:
    """Print one line, with control characters escaped."""
    click.echo(styled(parts, sys.stdout).rstrip(" "))


def print_note(*parts: str | Mark) -> None:
    """Print one line on standard error, unless notes are not wanted or nobody reads them."""
    stream = cast(IO[str], BrokenPipeTolerantStream(progress_stream()))
    stream.write(styled(parts, stream) + "\n")
    stream.flush()


def print_settings(settings: Iterable[tuple[str, Any]]) -> None:
    """Print a line for each setting, as a configuration could have it."""
    for name, value in settings:
        print_line(f"    {name:<22} {setting_text(value)}")


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    print_json_parts([msgspec.json.encode(value)])


def print_json_parts(parts: Iterable[bytes]) -> None:
    """Print one JSON document that is given in parts."""
    stream = sys.stdout.buffer
    for part in parts:
        stream.write(escape_separators(part))
    stream.write(b"\n")
    stream.flush()
