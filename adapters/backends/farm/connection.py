"""A controller's connection to the scheduler and the workers of a farm: all its use of Dask."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import msgspec

from ....events.version import VERSION
from ....statemachine.errors import BackendError, PreflightError
from ....statemachine.ports import OnStep
from .addresses import refuse_open
from .dask_settings import distributed, reach, security_for
from .messages import ANNOUNCEMENT, FARM, STEPS, SchedulerFacts, Step, WorkerFacts
from .unpickling import make_images, restrict_unpickling

_MOST_INLINE_BYTES = 64 * 1024
"""Larger requests go to their worker directly, not by way of the scheduler."""
_ASK_TIMEOUT_S = 10.0
_CLOSE_S = 2.0


class SchedulerLostError(BackendError):
    """The scheduler is gone, and with it what the workers were working on; the run can resume."""


class WorkerLostError(BackendError):
    """The worker is gone; what it was sent can be made by another one."""

    @property
    def is_out_of_reach(self) -> bool:
        """Whether it is worth waiting: a worker may join again."""
        return True


class WorkerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that the scheduler knows; ``facts`` is None for one of another program."""

    address: str
    name: str
    resources: frozenset[str]
    facts: WorkerFacts | None


class FarmConnection:
    """Open until ``close``. Raises PreflightError, ConfigurationError when it cannot be opened."""

    def __init__(self, address: str, *, insecure: bool, timeout_s: float) -> None:
        refuse_open(address, insecure=insecure)
        security = security_for("client", address.partition(":")[0])
        restrict_unpickling()
        self.address = address
        self._steps: dict[str, OnStep] = {}
        try:
            distributed.utils.LoopRunner().run_sync(reach, address, security, "client", timeout_s)
            self._client = distributed.Client(
                address,
                security=security,
                timeout=timeout_s,
                direct_to_workers=True,
                set_as_default=False,
                name="stagewright",
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error.__cause__ or "") or error
            raise PreflightError(
                f"the farm's scheduler at {address} cannot be reached: {reason}"
            ) from error
        try:
            self._check_scheduler()
        except BaseException:
            self.close()
            raise
        self._client.subscribe_topic(STEPS, self._take_step)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the connection, on a thread of its own."""
        found: asyncio.AbstractEventLoop = self._client.loop.asyncio_loop
        return found

    def close(self) -> None:
        """Close it; what is under way is given up."""
        self._client.close(timeout=_CLOSE_S)

    def check(self) -> None:
        """Raises SchedulerLostError once the scheduler is gone, even if it has come back."""
        if self._client.status != "running":
            raise SchedulerLostError(
                f"{self.address}: the farm's scheduler is gone; start it, then resume the run"
            )

    async def workers(self) -> tuple[WorkerEntry, ...]:
        """The workers that are present, by name. Raises OSError, SchedulerLostError."""
        self.check()
        identity = await asyncio.wait_for(
            self._client.scheduler.identity(n_workers=-1), _ASK_TIMEOUT_S
        )
        found = (_entry(address, one) for address, one in identity["workers"].items())
        return tuple(sorted(found, key=lambda entry: (entry.name, entry.address)))

    async def ask(self, worker: str, what: str, timeout_s: float, **arguments: Any) -> Any:
        """What a worker answers. Raises OSError, TimeoutError among them."""
        answer = getattr(self._client.rpc(worker), what)(**arguments)
        return await asyncio.wait_for(answer, timeout_s)

    def begin_to_ask(
        self, worker: str, what: str, timeout_s: float, **arguments: Any
    ) -> Future[Any]:
        """Ask a worker from another thread; see ``ask``."""
        return asyncio.run_coroutine_threadsafe(
            self.ask(worker, what, timeout_s, **arguments), self.loop
        )

    def ask_in_vain(self, worker: str, what: str, **arguments: Any) -> None:
        """Ask a worker without regard to its answer, which may never come."""
        asked = self.begin_to_ask(worker, what, _ASK_TIMEOUT_S, **arguments)
        asked.add_done_callback(lambda done: done.cancelled() or done.exception())

    @contextmanager
    def steps_of(self, call_id: str, on_step: OnStep) -> Iterator[None]:
        """Have the steps of a request announced meanwhile."""
        self._steps[call_id] = on_step
        try:
            yield
        finally:
            del self._steps[call_id]

    def submit(self, worker: str, call_id: str, message: bytes) -> RequestTask:
        """Send a request to one worker, which alone may work on it. Raises WorkerLostError."""
        client, data = self._client, message
        if len(message) > _MOST_INLINE_BYTES:
            data = self._scattered(worker, message)
        future = client.submit(
            make_images,
            data,
            key=f"{call_id}-{secrets.token_hex(4)}",
            pure=False,
            workers=[worker],
            allow_other_workers=False,
            retries=0,
        )
        return RequestTask(future, self)

    def _scattered(self, worker: str, message: bytes) -> Any:
        """Dask's reference to a message that has been sent to a worker directly."""

        async def scatter() -> Any:
            return await self._client.scatter(
                message, workers=[worker], direct=True, hash=False, asynchronous=True
            )

        sent = asyncio.run_coroutine_threadsafe(scatter(), self.loop)
        try:
            return sent.result(_ASK_TIMEOUT_S)
        except (OSError, ValueError, KeyError) as error:  # a TimeoutError is an OSError
            self.check()
            raise WorkerLostError(f"{worker}: the worker is gone: {error}", transient=True,
                                  settled=True) from error  # fmt: skip

    def _check_scheduler(self) -> None:
        try:
            facts = self._client.sync(getattr(self._client.scheduler, FARM))
            found = msgspec.convert(facts, SchedulerFacts)
        except (AttributeError, ValueError, OSError, msgspec.ValidationError) as error:
            raise PreflightError(
                f"{self.address} is not the scheduler of a farm, so Dask would repeat requests by "
                "itself: start it with `stagewright farm scheduler`"
            ) from error
        if found.allowed_failures or found.steals:
            raise PreflightError(
                f"the scheduler at {self.address} repeats or moves requests by itself: start it "
                "with `stagewright farm scheduler`"
            )
        if found.version != VERSION:
            raise PreflightError(
                f"the scheduler at {self.address} is of stagewright {found.version}, and this is "
                f"{VERSION}: install the same version everywhere"
            )

    def _take_step(self, event: tuple[float, Mapping[str, Any]]) -> None:
        fields = {name: event[1].get(name) for name in Step.__struct_fields__}
        step = msgspec.convert(fields, Step)
        on_step = self._steps.get(step.call_id)
        if on_step is not None:
            on_step(step.step, step.steps, fraction=step.fraction, eta_s=step.eta_s)


class RequestTask:
    """One request that was sent to a worker."""

    def __init__(self, future: Any, connection: FarmConnection) -> None:
        self._future = future
        self._connection = connection
        self._done = threading.Event()
        future.add_done_callback(lambda _future: self._done.set())

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end, at most so long; whether it has ended."""
        return self._done.wait(timeout_s)

    def give_up(self) -> None:
        """Drop it, and its answer where one still comes."""
        self._future.cancel()

    def result(self, lost: Callable[[str], WorkerLostError]) -> bytes:
        """What the worker answered, once it has ended.

        Raises what ``lost`` makes of the reason why the worker gave none, SchedulerLostError.
        """
        if self._future.status == "finished":
            try:
                answer: bytes = self._future.result(_ASK_TIMEOUT_S)
            except Exception as error:
                self._connection.check()
                raise lost(f"its answer cannot be fetched: {error}") from error
            return answer
        self._connection.check()
        if self._future.status == "error":
            failure = self._future.exception(_ASK_TIMEOUT_S)
            if type(failure).__name__ != "KilledWorker":
                raise BackendError(f"the worker failed: {failure!r}") from failure
        raise lost("it does not answer any more")


def _entry(address: str, identity: Mapping[str, Any]) -> WorkerEntry:
    try:
        facts = msgspec.convert(identity.get(ANNOUNCEMENT), WorkerFacts)
    except msgspec.ValidationError:
        facts = None
    return WorkerEntry(
        address=address,
        name=str(identity.get("name") or address),
        resources=frozenset(identity.get("resources") or ()),
        facts=facts,
    )
