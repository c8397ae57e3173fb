"""A worker of a farm: a Dask worker with one thread, beside its own server."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from ....events.version import VERSION
from ....statemachine.errors import ConfigurationError
from ..registry import ServerChoice, kind_of_server
from .addresses import bracketed, loopback_host, member_url, refuse_open, scheduler_address
from .dask_settings import distributed, reach, security_for
from .messages import (
    ANNOUNCEMENT,
    CANCEL,
    COMPARE,
    PREPARE,
    RECOVER,
    RELEASE,
    STATUS,
    STEPS,
    Step,
    WorkerFacts,
)
from .server_sessions import ServerSessions
from .unpickling import SESSIONS, restrict_unpickling

_LOOK_S = 0.2
_REJOIN_S = 1.0
_REACH_S = 5.0
_CLOSE_S = 10.0
_HANDLERS = frozenset(
    [
        "call_stack",
        "connection_stream",
        "free_keys",
        "gather",
        "get_data",
        "get_logs",
        "get_monitor_info",
        "get_story",
        "identity",
        "keys",
        "ping",
        "profile",
        "profile_metadata",
        "terminate",
        "update_data",
        "versions",
    ]
)
"""What is left of Dask's interface of a worker: nothing that takes functions or files."""


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A worker: its scheduler, its server, its name, its resources, and where it listens."""

    scheduler: str
    server: str
    name: str | None = None
    resources: Sequence[str] = ()
    host: str | None = None
    port: int = 0
    insecure: bool = False
    headers: Mapping[str, Mapping[str, str]] = {}


def run_worker(
    settings: WorkerSettings, stopped: threading.Event, tell: Callable[[str], None]
) -> None:
    """Serve until ``stopped``; ``tell`` is given a line whenever the worker joins or leaves.

    It joins again whenever its scheduler is back. Raises ConfigurationError.
    """
    member = _Member(settings)
    restrict_unpickling()
    asyncio.run(member.serve(stopped, tell))


class _Member:
    """What stays the same when the worker joins again. Raises ConfigurationError."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.address = scheduler_address(settings.scheduler)
        scheme = self.address.partition(":")[0]
        self.host = settings.host or loopback_host(self.address)
        refuse_open(self.address, insecure=settings.insecure)
        if self.host is not None:
            refuse_open(f"{scheme}://{bracketed(self.host)}", insecure=settings.insecure)
        self.security = security_for("worker", scheme)
        kind = kind_of_server(settings.server)
        self.server = kind.address(settings.server)
        self.name = settings.name or member_url(self.server)
        self.settings = settings
        self.sessions = ServerSessions(
            kind,
            ServerChoice(
                url=self.server,
                named_by_user=True,
                insecure=settings.insecure,
                headers=settings.headers,
            ),
        )

    async def serve(self, stopped: threading.Event, tell: Callable[[str], None]) -> None:
        tell(f"worker {self.name}: looking for the scheduler at {self.address}")
        reason, has_joined = "", False
        while not stopped.is_set():
            found = await self._reason_not_reached()
            if found and found != reason:
                tell(f"worker {self.name}: {self.address} cannot be reached, trying again: {found}")
            reason = found
            if not reason:
                try:
                    await self._take_part(stopped, tell)
                    has_joined = True
                except ConfigurationError as error:
                    # The scheduler may not have noticed yet that the worker had left.
                    if not has_joined:
                        raise
                    reason = str(error)
                    tell(f"worker {self.name}: trying again: {reason}")
            if not stopped.is_set():
                await asyncio.sleep(_REJOIN_S)

    async def _take_part(self, stopped: threading.Event, tell: Callable[[str], None]) -> None:
        """Join, and serve until the worker has left. Raises ConfigurationError if it is refused."""
        worker = self._worker()
        joining = asyncio.ensure_future(worker)
        if await _has_ended(joining, stopped):
            self._check(joining)
            tell(f"worker {self.name}: joined {self.address}, serving {self.server}")
            self._warn_of_loopback(worker.address, tell)
            await _has_ended(asyncio.ensure_future(worker.finished()), stopped)
        self.sessions.cancel_present("the worker has left the farm")
        await worker.close(timeout=_CLOSE_S)
        tell(f"worker {self.name}: left {self.address}")

    async def _reason_not_reached(self) -> str:
        """Why the scheduler cannot be reached; "" if it can.

        Dask's worker looks for it without an end and without a word. Raises ConfigurationError
        where the two do not trust each other's certificates.
        """
        try:
            await reach(self.address, self.security, "worker", _REACH_S)
        except OSError as error:
            cause = error.__cause__ or error
            if isinstance(cause, ssl.SSLError):
                raise ConfigurationError(
                    f"{self.address}: the worker and the scheduler do not trust each other's "
                    f"certificates: {cause}"
                ) from error
            return str(cause) or str(error)
        return ""

    def _worker(self) -> Any:
        facts = msgspec.to_builtins(WorkerFacts(version=VERSION, server=self.server))
        worker = distributed.Worker(
            self.address,
            nthreads=1,
            name=self.name,
            resources=dict.fromkeys(self.settings.resources, 1),
            # Without a host, Dask listens at every address of the machine.
            host=self.host,
            port=self.settings.port,
            security=self.security,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
            startup_information={ANNOUNCEMENT: lambda _worker: facts},
        )
        self._restrict(worker)
        worker.extensions[SESSIONS] = self.sessions
        self.sessions.announce = partial(_announce, worker)
        return worker

    def _restrict(self, worker: Any) -> None:
        """Leave the handlers that a farm needs, and add those that take data of ours."""
        for name in set(worker.handlers) - _HANDLERS:
            del worker.handlers[name]
        sessions = self.sessions
        answers: dict[str, Callable[..., Any]] = {
            PREPARE: sessions.prepare,
            COMPARE: sessions.compare,
            RELEASE: sessions.release,
            RECOVER: sessions.recover,
            STATUS: sessions.status,
        }
        for name, answer in answers.items():
            worker.handlers[name] = _handler(answer)

        async def cancel(call_id: str) -> None:
            sessions.cancel(call_id)  # at once: the threads may all wait for the server

        worker.handlers[CANCEL] = cancel

    def _check(self, joining: asyncio.Future[None]) -> None:
        """Raises ConfigurationError if the scheduler refused the worker."""
        error = joining.exception()
        if error is not None:
            cause = error.__cause__ or error
            raise ConfigurationError(
                f"the worker {self.name} cannot join {self.address}: {cause}; if it is taken, "
                "choose another --name"
            ) from error

    def _warn_of_loopback(self, address: str, tell: Callable[[str], None]) -> None:
        """Many systems give a machine's own name an address that is this machine alone."""
        if self.host is None and loopback_host(address) is not None:
            tell(
                f"worker {self.name}: other machines cannot reach it at {address}: give --host the "
                "address of this machine in the network"
            )


async def _has_ended(task: asyncio.Future[Any], stopped: threading.Event) -> bool:
    """Wait for a task, which is cancelled once ``stopped``; whether it has ended by itself."""
    while not (task.done() or stopped.is_set()):
        await asyncio.sleep(_LOOK_S)
    has_ended = task.done()
    task.cancel()
    return has_ended


def _handler(answer: Callable[..., Any]) -> Callable[..., Any]:
    """A handler of Dask that answers on a thread of its own."""

    async def handle(**arguments: Any) -> Any:
        return await asyncio.to_thread(answer, **arguments)

    return handle


def _announce(worker: Any, step: Step) -> None:
    """Send a sampling step to the controllers, by way of the scheduler."""
    if worker.status.name == "running":
        worker.log_event(STEPS, msgspec.to_builtins(step))
