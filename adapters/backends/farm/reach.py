"""Whether a scheduler answers, within a time: Dask's own connections wait for an answer forever."""

from __future__ import annotations

import asyncio
from typing import Any

from .dask_settings import Role

_ANSWER_S = 2.0


async def reach(address: str, security: Any, role: Role, timeout_s: float) -> None:
    """Connect to a scheduler, and leave again. Raises OSError."""
    from distributed.core import connect  # noqa: PLC0415 - only farms load Dask

    connecting = connect(address, timeout=timeout_s, **security.get_connection_args(role))
    try:
        comm = await asyncio.wait_for(connecting, timeout_s + _ANSWER_S)
    except TimeoutError as error:
        if str(error):
            raise
        raise TimeoutError("it does not answer") from error
    await comm.close()
