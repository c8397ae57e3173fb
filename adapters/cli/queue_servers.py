"""The servers of a queue's workers."""

from __future__ import annotations

from collections.abc import Sequence

from .settings import current_settings


def default_servers(of_queue: Sequence[str]) -> tuple[str, ...]:
    """The servers of jobs whose configuration names none; none: the embedded backend.

    They are those of the queue, else that of the settings. Raises ConfigurationError.
    """
    if of_queue:
        return tuple(of_queue)
    default = current_settings().server
    return () if default is None else (default.url,)
