"""The options that are accepted before and after the name of every command."""

from __future__ import annotations

import logging
from collections.abc import Callable
from inspect import cleandoc
from pathlib import Path
from typing import Any

import click

from ...events.version import VERSION

QUIET = "stagewright.quiet"
CONFIG_FILE = "stagewright.config_file"
RUNS = "stagewright.runs"
SERVERS = "stagewright.servers"
"""Keys of click's ``meta``, which holds the options that were given before the command."""


def is_quiet() -> bool:
    """Whether the user wants no progress and no notes."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(QUIET))


_LEVELS = (logging.INFO, logging.DEBUG)


def _keep(key: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """A callback that keeps an option for the command; the one after its name counts."""

    def keep(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value:
            context.meta[key] = value

    return keep


def _log_more(_context: click.Context, _parameter: click.Parameter, times: int) -> None:
    """Show what the package logs on standard error."""
    if times:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
        logger = logging.getLogger("stagewright")
        logger.addHandler(handler)
        logger.setLevel(_LEVELS[min(times, len(_LEVELS)) - 1])


_COMMON = (
    click.option(
        "-v",
        "--verbose",
        count=True,
        expose_value=False,
        callback=_log_more,
        help="Log what happens on standard error; -vv logs more.",
    ),
    click.option(
        "-q",
        "--quiet",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_keep(QUIET),
        help="Show no progress and no notes.",
    ),
    click.option(
        "--config-file",
        type=click.Path(path_type=Path, dir_okay=False),
        is_eager=True,
        expose_value=False,
        callback=_keep(CONFIG_FILE),
        help="File of your settings.",
    ),
    click.version_option(VERSION, "-V", "--version", prog_name="stagewright"),
)
_RUNS = click.option(
    "--runs",
    type=click.Path(path_type=Path, file_okay=False),
    expose_value=False,
    callback=_keep(RUNS),
    help="Folder that holds the runs.  [default: runs]",
)


def _servers_option(*, hidden: bool) -> Callable[..., Any]:
    return click.option(
        "--server",
        multiple=True,
        metavar="URL",
        hidden=hidden,
        expose_value=False,
        callback=_keep(SERVERS),
        help="WebUI server to use.",
    )


def options_of_all_commands(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options before the name of a command."""
    for option in reversed((_servers_option(hidden=False), _RUNS, *_COMMON)):
        function = option(function)
    return function


RUN_NAMES = """\
RUN is a run id, a unique prefix of one, its six digits, a name that only one run has, `last`, or
the path of a run folder."""
GROUP_NAMES = """\
GROUP is the id of a group of runs, a unique prefix of one, its six digits, `last-group`, or the
path of its folder."""


def with_common_options(command: click.Command) -> click.Command:
    """The command with the options that every command has, and the ways to name a run or group.

    A command that needs no server takes ``--server`` without listing it.
    """
    own = {option for parameter in command.params for option in parameter.opts}
    if "--verbose" in own:
        return command  # it was loaded before in this process
    further = {"--runs": _RUNS, "--server": _servers_option(hidden=True)}
    options = (*_COMMON, *(option for name, option in further.items() if name not in own))
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    for word, names in (("RUN", RUN_NAMES), ("GROUP", GROUP_NAMES)):
        if any(word in (one.metavar or str(one.name).upper()) for one in arguments):
            command.help = f"{cleandoc(command.help or '')}\n\n{names}"
    command.params += click.command()(_decorated(options)).params
    return command


def _decorated(options: tuple[Callable[..., Any], ...]) -> Callable[..., Any]:
    def nothing() -> None:
        pass

    function: Callable[..., Any] = nothing
    for option in reversed(options):
        function = option(function)
    return function
