"""Commands whose modules are loaded only when they are used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from .common_options import with_common_options


class CommandGroup(click.Group):
    """Commands by name; each is the function ``<name>_command`` of a module in ``commands``."""

    def __init__(self, *arguments: Any, modules: Mapping[str, str], **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in self._modules:
            return None
        module = importlib.import_module(f".commands.{self._modules[cmd_name]}", __package__)
        command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        return with_common_options(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self._modules and not args[0].startswith("-"):
            from difflib import get_close_matches  # noqa: PLC0415 - no other command needs it

            near = get_close_matches(args[0], self._modules, n=1)
            meant = f"; did you mean {near[0]}?" if near else "."
            _, *above = ctx.command_path.split()
            ctx.fail(f"No such command {' '.join([*above, args[0]])!r}{meant}")
        return super().resolve_command(ctx, args)
