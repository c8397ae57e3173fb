"""``queue``: jobs that survive crashes; each of its commands is loaded when it is used."""

from __future__ import annotations

import click

from ..command_group import CommandGroup

_MODULES = {
    "add": "queue_add",
    "list": "queue_list",
    "status": "queue_list",
    "move": "queue_change",
    "remove": "queue_change",
    "retry": "queue_change",
    "pause": "queue_change",
    "resume": "queue_change",
    "work": "queue_work",
    "servers": "queue_change",
    "verify": "queue_check",
    "salvage": "queue_check",
}


@click.command("queue", cls=CommandGroup, modules=_MODULES)
def queue_command() -> None:
    """Queue jobs, and work on them through crashes and reboots.

    A job is a run, a sweep, a rerun or a resume. What it will make is decided when it is added: the
    configuration is checked, its prompts are drawn and its input images are copied. A later change
    of a file changes nothing.

    `queue work` works on the jobs, one after the other. After a crash or a reboot it continues the
    job that was running, from its last image. Several workers can share one queue.
    """
