"""``notify``: tries the notifications of the user's settings."""

from __future__ import annotations

import click

from ...notifications.channels import NotDeliveredError, find_channels
from ...notifications.messages import test_message
from ..output import print_line
from ..settings import current_settings
from ..statuses import EXIT_COMPLETED, EXIT_ERROR, EXIT_USAGE, print_error

_EXIT_STATUSES = """\b
Exit status:
  0  every message was delivered
  1  some were not
  2  [notify] has neither a command nor urls, or the settings are invalid
"""


@click.command("notify", epilog=_EXIT_STATUSES)
@click.argument("action", metavar="test", type=click.Choice(["test"]))
def notify_command(action: str) -> int:
    """Send a test message to the services of your settings.

    They are those of [notify]. Each is tried once, and a line says whether it has the message.
    """
    del action  # there is one
    channels = find_channels(current_settings().of_user.notify, output=None)
    if not channels.usable and not channels.problems:
        return print_error(
            "nothing to notify: [notify] of your settings has neither command nor urls", EXIT_USAGE
        )
    status = EXIT_COMPLETED
    for problem in channels.problems:
        status = print_error(problem, EXIT_ERROR)
    message = test_message()
    for channel in channels.usable:
        try:
            channel.deliver(message)
        except NotDeliveredError as error:
            status = print_error(f"{channel.name}: not delivered: {error}", EXIT_ERROR)
        else:
            print_line(f"{channel.name}: delivered")
    return status
