"""The group of commands, each loaded when it is called, and how errors leave the program."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from ...events.version import VERSION
from .statuses import (
    EXIT_COMPLETED,
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    TRACEBACK_VARIABLE,
    complain,
    status_of,
    words_of,
)

_HOMES: Mapping[str, str] = {
    "run": "run",
    "plan": "plan",
    "resume": "resume",
    "cancel": "cancel",
    "follow": "follow",
    "replay": "replay",
    "verify": "verify",
    "salvage": "salvage",
    "list": "list",
    "show": "show",
    "report": "report",
    "diff": "diff",
    "bundle": "bundle",
    "learning": "learning",
    "doctor": "doctor",
    "schema": "plan",
    "serve-embedded": "serve_embedded",
}


class _Commands(click.Group):
    """Knows its commands by name and loads a command's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        home = _HOMES.get(cmd_name)
        if home is None:
            return None
        module = importlib.import_module(f".commands.{home}", __package__)
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
    _show_certificate_warnings()
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
        return complain(error.format_message(), EXIT_USAGE)
    except (click.Abort, KeyboardInterrupt):
        return complain("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has left; the interpreter must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except Exception as error:
        if TRACEBACK_VARIABLE in os.environ:
            raise
        return complain(words_of(error), status_of(error))
    return status if isinstance(status, int) else EXIT_COMPLETED


def _show_certificate_warnings() -> None:
    """Let the warning of a certificate that is not checked go to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("stagewright: warning: %(message)s"))
    logging.getLogger("stagewright.webui.certificate").addHandler(handler)
