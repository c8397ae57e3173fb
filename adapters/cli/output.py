"""What commands print: text that cannot harm a terminal, and JSON documents."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import click
import msgspec
from click.core import ParameterSource

from ..text import count as count
from ..text import duration as duration
from ..text import escaped as escaped
from ..text import one_line as one_line

runs_option = click.option(
    "--runs",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs"),
    show_default=True,
    help="Folder of the runs.",
)
insecure_option = click.option(
    "--insecure",
    is_flag=True,
    help="Send credentials over plain http, and past tls_verify and ca_bundle.",
)


def _no_dash(
    _context: click.Context, _parameter: click.Parameter, path: Path | None
) -> Path | None:
    # Elsewhere that stands for standard output, and nobody means a file of this name.
    if str(path) == "-":
        raise click.BadParameter("- is no file; name the one to write")
    return path


def output_option(told: str) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """``--output``: the one file that a command writes."""
    kind = click.Path(path_type=Path, dir_okay=False)
    return click.option("--output", type=kind, metavar="FILE", callback=_no_dash, help=told)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def check_runs_folder(runs: Path) -> None:
    """Refuse a folder of runs that the user named and that is not there.

    The default one need not be there before the first run.
    """
    source = click.get_current_context().get_parameter_source("runs")
    if source is not ParameterSource.DEFAULT and not runs.is_dir():
        raise click.UsageError(f"--runs {runs}: there is no such folder")


class LastingStream(io.TextIOBase):
    """Text for somebody who may leave: a closed terminal or pipe ends the text, not the run."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__()
        self._stream: IO[str] | None = stream
        self._is_terminal = stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute in typeshed
        """What the text is encoded in, for those who choose their characters by it."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return self._is_terminal

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError("nobody reads this any more")
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._try(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(lambda stream: stream.flush())

    def _try(self, deed: Callable[[IO[str]], object]) -> None:
        if self._stream is None:
            return
        try:
            deed(self._stream)
        except OSError:
            self._stream = None


def say(text: str = "") -> None:
    """Print one line of text, escaped."""
    click.echo(escaped(text))


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    print_json_parts([msgspec.json.encode(value)])


def print_json_parts(parts: Iterable[bytes]) -> None:
    """Print one JSON document that comes in pieces."""
    stream = sys.stdout.buffer
    for part in parts:
        stream.write(part)
    stream.write(b"\n")
    stream.flush()
