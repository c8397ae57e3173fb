"""The notifier of a command: opened with its first run, closed after its output."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

from ..notifications.channels import find_channels
from ..notifications.notifier import Notifier
from ..notifications.watch import RunWatch
from .output import print_note
from .settings import current_settings
from .statuses import EXIT_COMPLETED, print_error

_KEY = "stagewright.notifier"
_SILENT_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0
"""The tries of a message take 40 s, and as many time limits as there are tries."""


def open_run_watch(runs: Path) -> RunWatch | None:
    """What sends the messages of the next run or group; None where no service is named.

    Raises ConfigurationError.
    """
    return run_watch_opener(runs)()


def run_watch_opener(runs: Path) -> Callable[[], RunWatch | None]:
    """``open_run_watch`` for later, on any thread: click knows the command only on this one."""
    notifier = open_notifier()
    if notifier is None:
        return lambda: None
    minutes = current_settings().of_user.notify.stalled_minutes
    return lambda: RunWatch(notifier, runs, minutes)


def open_notifier() -> Notifier | None:
    """The one of this command, opened at its first use; None where no service is named.

    Only on the thread of the command. Raises ConfigurationError.
    """
    context = click.get_current_context(silent=True)
    if context is None:
        return None
    if _KEY not in context.meta:
        context.meta[_KEY] = _open_notifier(context)
    notifier: Notifier | None = context.meta[_KEY]
    return notifier


def _open_notifier(context: click.Context) -> Notifier | None:
    settings = current_settings().of_user.notify
    channels = find_channels(settings)
    for problem in channels.problems:
        print_error(f"warning: {problem}", EXIT_COMPLETED)
    if not channels.usable:
        return None
    notifier = Notifier(channels.usable, settings.on)
    context.call_on_close(lambda: _close(notifier))
    return notifier


def _close(notifier: Notifier) -> None:
    """Wait for deliveries; Ctrl-C ends the wait, and the command ends as its run did."""
    try:
        sys.stdout.flush()
        if not notifier.wait(_SILENT_WAIT_S):
            print_note("waiting until notifications are delivered; Ctrl-C ends the wait")
            notifier.wait(_LONGEST_WAIT_S)
    except (KeyboardInterrupt, OSError):
        pass  # what is not delivered is reported now
    finally:
        notifier.close()
