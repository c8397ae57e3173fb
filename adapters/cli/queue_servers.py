"""The servers of a queue's workers."""

from __future__ import annotations

from collections.abc import Sequence

import click

from .settings import current_settings


def default_server(of_queue: Sequence[str]) -> str | None:
    """The server of jobs whose configuration names none; None: the embedded backend.

    It is that of the queue, else that of the settings. Raises UsageError.
    """
    if len(of_queue) > 1:
        raise click.UsageError(
            "more than one server is not supported yet; `queue servers remove URL` removes one"
        )
    if of_queue:
        return of_queue[0]
    default = current_settings().server
    return None if default is None else default.url
