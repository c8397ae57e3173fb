"""The servers of a queue's workers."""

from __future__ import annotations

from collections.abc import Sequence

import click

from .settings import current_settings


def default_server(of_queue: Sequence[str]) -> str | None:
    """The server of jobs whose configuration names none; None: the embedded backend.

    It is the first of the queue, else that of the settings. Raises ConfigurationError.
    """
    if of_queue:
        return of_queue[0]
    default = current_settings().server
    return None if default is None else default.url


def worker_server(of_queue: Sequence[str], named: str | None) -> str | None:
    """The same for a worker that may have been given another one. Raises UsageError."""
    if named is None and len(of_queue) > 1:
        raise click.UsageError(
            f"the queue has {len(of_queue)} servers, and a worker uses one: start one for each "
            "with --server URL"
        )
    return default_server(of_queue)
