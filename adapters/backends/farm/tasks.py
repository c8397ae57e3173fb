"""The one function that tasks of a farm call."""

from __future__ import annotations

from typing import cast

from .server_sessions import ServerSessions

SESSIONS = "stagewright"
"""The name under which a worker holds its ``ServerSessions``."""


def make_images(message: bytes) -> bytes:
    """Make one attempt at a request on the server of this worker; see ``messages``."""
    from distributed import get_worker  # noqa: PLC0415 - only workers call it

    sessions = cast(ServerSessions, get_worker().extensions[SESSIONS])
    return sessions.make_images(bytes(message))
