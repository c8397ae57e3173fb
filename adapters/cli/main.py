"""The command ``stagewright``: loads the module of a command and reports its errors."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from .command_group import CommandGroup
from .common_options import options_of_all_commands
from .statuses import (
    EXIT_COMPLETED,
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    TRACEBACK_VARIABLE,
    error_messages,
    print_error,
    status_of,
)
from .streams import discard_output

COMMAND_GROUPS: Mapping[str, Sequence[str]] = {
    "Make images": ("init", "plan", "run", "resume", "rerun", "cancel", "follow"),
    "Queue": ("queue",),
    "Look at runs and images": (
        "list",
        "show",
        "lineage",
        "config",
        "replay",
        "report",
        "diff",
        "grid",
    ),
    "Choose images": ("rate", "export"),
    "Keep runs sound, make room": ("verify", "salvage", "rm", "archive", "bundle", "learning"),
    "Servers and editors": ("doctor", "serve-embedded", "farm", "schema", "notify"),
}
"""The commands as the help and the man page list them."""
_SHOWN_LOGGERS = (
    "webui.certificate",
    "webui.options",
    "servers",
    "groups",
    "restart",
    "notify",
    "farm",
)
"""The loggers below ``stagewright`` whose warnings are always shown."""
_COMMANDS = tuple(name for names in COMMAND_GROUPS.values() for name in names)
_MODULES = {name: name.replace("-", "_") for name in _COMMANDS} | {
    "rm": "removal",
    "archive": "removal",
}


class _Commands(CommandGroup):
    """Shows the commands in the groups of the help."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, _COMMANDS))
        for title, names in COMMAND_GROUPS.items():
            rows = []
            for name in names:
                command = self.get_command(ctx, name)
                assert command is not None
                limit = formatter.width - 6 - width
                rows.append((name.ljust(width), command.get_short_help_str(limit)))
            with formatter.section(title):
                formatter.write_dl(rows)


@click.command(
    cls=_Commands, modules=_MODULES, context_settings={"help_option_names": ["-h", "--help"]}
)
@options_of_all_commands
def stagewright() -> None:
    """Run Stable Diffusion image pipelines, with every step recorded in a log.

    A run that was stopped, failed or killed can be resumed without losing a finished image, and
    every image can be traced to the settings that made it.
    """


def run_command_line(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status; each error becomes one line on standard error."""
    _show_warnings()
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
        return print_error(error.format_message(), EXIT_USAGE)
    except (click.Abort, KeyboardInterrupt) as error:
        # Click takes any EOFError for Ctrl-D; Python raises one for a module that is cut off.
        if isinstance(error.__cause__, EOFError):
            return _report(error.__cause__)
        return print_error("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        discard_output(sys.stdout)  # its reader is gone
        return EXIT_ERROR
    except Exception as error:  # noqa: BLE001 - each is reported
        return _report(error)
    return status if isinstance(status, int) else EXIT_COMPLETED


def _report(error: Exception) -> int:
    """Print the messages of an error, and return its exit status."""
    if TRACEBACK_VARIABLE in os.environ:
        raise error
    for message in error_messages(error):
        print_error(message, status_of(error))
    return status_of(error)


def _show_warnings() -> None:
    """Print the warnings of servers on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("stagewright: warning: %(message)s"))
    for name in _SHOWN_LOGGERS:
        logging.getLogger(f"stagewright.{name}").addHandler(handler)
