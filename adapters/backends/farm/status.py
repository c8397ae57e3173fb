"""What the workers of a farm are, and what each of them does."""

from __future__ import annotations

import asyncio

import msgspec

from .addresses import scheduler_address
from .connection import FarmConnection, WorkerEntry
from .messages import STATUS, WorkerStatus, decode_status

_TIMEOUT_S = 10.0


class WorkerReport(WorkerStatus, frozen=True, kw_only=True):
    """One worker, with what it says of its server."""

    name: str
    address: str
    resources: tuple[str, ...]


def read_farm(address: str, *, insecure: bool) -> tuple[WorkerReport, ...]:
    """A report of each worker, by name. Raises PreflightError, ConfigurationError."""
    connection = FarmConnection(scheduler_address(address), insecure=insecure, timeout_s=_TIMEOUT_S)
    try:
        asked = asyncio.run_coroutine_threadsafe(_read(connection), connection.loop)
        return asked.result()
    finally:
        connection.close()


async def _read(connection: FarmConnection) -> tuple[WorkerReport, ...]:
    entries = await connection.workers()
    return tuple(await asyncio.gather(*(_report(connection, entry) for entry in entries)))


async def _report(connection: FarmConnection, entry: WorkerEntry) -> WorkerReport:
    report = WorkerReport(
        name=entry.name, address=entry.address, resources=tuple(sorted(entry.resources))
    )
    if entry.facts is None:
        problem = "it is not a worker of `stagewright farm worker`"
        return msgspec.structs.replace(report, problem=problem)
    try:
        status = decode_status(await connection.ask(entry.address, STATUS, _TIMEOUT_S))
    except OSError as error:
        problem = f"it does not answer: {error or type(error).__name__}"
        return msgspec.structs.replace(report, server=entry.facts.server, problem=problem)
    return msgspec.structs.replace(report, **msgspec.structs.asdict(status))
