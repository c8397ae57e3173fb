"""The scheduler of a farm: Dask's own, set for requests that must not be sent twice."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from ....events.version import VERSION
from ....statemachine.errors import ConfigurationError
from .addresses import bracketed, refuse_open
from .dask_settings import dask, default_scheme, distributed, security_for
from .messages import FARM, SchedulerFacts
from .unpickling import restrict_unpickling

_LOOK_S = 0.2
_HANDLERS = frozenset(
    [
        "add_keys",
        "connection_stream",
        "echo",
        "gather",
        "get_task_stream",
        "has_what",
        "heartbeat_worker",
        "identity",
        "nbytes",
        "ncores",
        "ncores_running",
        "processing",
        "profile",
        "register-client",
        "register-worker",
        "unregister",
        "update_data",
        "versions",
        "who_has",
    ]
)
"""What is left of Dask's interface of a scheduler: nothing that takes functions or makes files."""


class SchedulerChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Where a scheduler listens. A worker that is silent for ``worker_timeout_s`` is given up."""

    host: str
    port: int
    dashboard_port: int
    worker_timeout_s: float
    insecure: bool


def run_scheduler(
    choice: SchedulerChoice, stopped: threading.Event, announce: Callable[[str, str], None]
) -> None:
    """Serve until ``stopped``; ``announce`` is given its address and that of the dashboard.

    Raises ConfigurationError where the address cannot be used.
    """
    scheme = default_scheme("scheduler")
    refuse_open(f"{scheme}://{bracketed(choice.host)}:{choice.port}", insecure=choice.insecure)
    security = security_for("scheduler", scheme)
    restrict_unpickling()
    asyncio.run(_serve(choice, scheme, security, stopped, announce))


async def _serve(
    choice: SchedulerChoice,
    scheme: str,
    security: Any,
    stopped: threading.Event,
    announce: Callable[[str, str], None],
) -> None:
    settings = {
        # A request whose worker is lost is the controller's to repeat, as a further attempt.
        "distributed.scheduler.allowed-failures": 0,
        "distributed.scheduler.work-stealing": False,
        "distributed.scheduler.worker-ttl": f"{choice.worker_timeout_s}s",
    }
    with dask.config.set(settings):
        try:
            scheduler = distributed.Scheduler(
                host=choice.host,
                port=choice.port,
                protocol=f"{scheme}://",
                security=security,
                # Left out: queues, locks, shuffles, work stealing.
                extensions={"spans": distributed.spans.SpansSchedulerExtension},
                dashboard=True,
                dashboard_address=f"127.0.0.1:{choice.dashboard_port}",
            )
            _restrict(scheduler)
            await scheduler
        except (OSError, RuntimeError) as error:  # Dask wraps what goes wrong at its start
            cause = error.__cause__ or error
            words = getattr(cause, "strerror", None) or str(cause)
            raise ConfigurationError(
                f"cannot listen on {choice.host} port {choice.port}: {words}"
            ) from error
        announce(scheduler.address, f"http://127.0.0.1:{scheduler.http_server.port}/status")
        while not stopped.is_set():
            await asyncio.sleep(_LOOK_S)
        await scheduler.close()


def _restrict(scheduler: Any) -> None:
    """Leave the handlers that a farm needs, and add one that says how the scheduler is set."""
    for name in set(scheduler.handlers) - _HANDLERS:
        del scheduler.handlers[name]

    def tell() -> dict[str, Any]:
        facts = SchedulerFacts(
            version=VERSION,
            allowed_failures=scheduler.allowed_failures,
            steals="stealing" in scheduler.extensions,
        )
        found: dict[str, Any] = msgspec.to_builtins(facts)
        return found

    scheduler.handlers[FARM] = tell
