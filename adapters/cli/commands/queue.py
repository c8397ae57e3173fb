"""``queue``: jobs that survive crashes; each of its commands is loaded when it is used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from difflib import get_close_matches

import click

from ..common_options import with_common_options

_MODULES: Mapping[str, str] = {
    "add": "queue_add",
    "list": "queue_list",
    "status": "queue_list",
    "move": "queue_change",
    "remove": "queue_change",
    "retry": "queue_change",
    "pause": "queue_change",
    "resume": "queue_change",
    "work": "queue_work",
    "servers": "queue_servers",
    "verify": "queue_check",
    "salvage": "queue_check",
}


class _QueueCommands(click.Group):
    """Loads the module of a command only when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in _MODULES:
            return None
        module = importlib.import_module(f".{_MODULES[cmd_name]}", __package__)
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return with_common_options(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _MODULES and not args[0].startswith("-"):
            near = get_close_matches(args[0], _MODULES, n=1)
            meant = f"; did you mean {near[0]}?" if near else "."
            ctx.fail(f"No such command 'queue {args[0]}'{meant}")
        return super().resolve_command(ctx, args)


@click.command("queue", cls=_QueueCommands)
def queue_command() -> None:
    """Queue jobs, and work on them through crashes and reboots.

    A job is a run, a sweep, a rerun or a resume. What it will make is decided when it is added: the
    configuration is checked, its prompts are drawn and its input images are copied. A later change
    of a file changes nothing.

    `queue work` works on the jobs, one after the other. After a crash or a reboot it continues the
    job that was running, from its last image. Several workers can share one queue.
    """
