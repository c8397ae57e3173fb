"""The group of commands, each loaded when it is called, and how errors leave the program."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from ...events.errors import (
    ImageAlteredError,
    LogCorruptError,
    LogWriteError,
    RunNotFoundError,
    StagewrightError,
)
from ...events.version import VERSION
from .output import one_line

EXIT_COMPLETED = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_CORRUPT = 4
EXIT_INTERRUPTED = 130
TRACEBACK_VARIABLE = "STAGEWRIGHT_TRACEBACK"

_HOMES: Mapping[str, str] = {
    "run": "running",
    "plan": "planning",
    "cancel": "cancelling",
    "replay": "replaying",
    "verify": "verifying",
    "list": "listing",
    "show": "showing",
    "doctor": "doctoring",
    "schema": "planning",
    "serve-embedded": "serving",
}


class _Commands(click.Group):
    """Knows its commands by name and loads a command's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        home = _HOMES.get(cmd_name)
        if home is None:
            return None
        module = importlib.import_module(f".{home}", __package__)
        command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        return command


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="stagewright")
def stagewright() -> None:
    """Runs Stable Diffusion image pipelines as event-sourced runs.

    Nothing finished is lost, nothing unfinished is counted, and every image can say where it
    came from.
    """


def run_command_line(arguments: Sequence[str]) -> int:
    """Run one command; its exit status. What goes wrong becomes one line on standard error."""
    if not arguments:
        stagewright.main(["--help"], prog_name="stagewright", standalone_mode=False)
        return EXIT_USAGE
    try:
        status: Any = stagewright.main(
            list(arguments), prog_name="stagewright", standalone_mode=False
        )
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.ClickException as error:
        return _complain(error.format_message(), EXIT_USAGE)
    except (click.Abort, KeyboardInterrupt):
        return _complain("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has left; the interpreter must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except Exception as error:
        if TRACEBACK_VARIABLE in os.environ:
            raise
        return _complain(_words(error), _status_of(error))
    return status if isinstance(status, int) else EXIT_COMPLETED


def _words(error: Exception) -> str:
    if isinstance(error, StagewrightError | OSError):
        return str(error)
    return (
        f"internal error, please report it: {type(error).__name__}: {error} "
        f"(set {TRACEBACK_VARIABLE}=1 for the traceback)"
    )


def _status_of(error: Exception) -> int:
    if isinstance(error, LogCorruptError | ImageAlteredError):
        return EXIT_CORRUPT
    # Every configuration error is a ValueError as well.
    if isinstance(error, RunNotFoundError) or (
        isinstance(error, StagewrightError) and isinstance(error, ValueError)
    ):
        return EXIT_USAGE
    if isinstance(error, LogWriteError):
        return EXIT_ERROR
    return EXIT_USAGE if isinstance(error, StagewrightError) else EXIT_ERROR


def _complain(message: str, status: int) -> int:
    print(f"stagewright: {one_line(message)}", file=sys.stderr)  # noqa: T201 - the one place
    return status
