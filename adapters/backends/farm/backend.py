"""The workers of a farm as one backend, whose members come and go."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import msgspec
from msgspec import UNSET

from ....events.codec import json_values
from ....events.model import BackendDescription, ServerDescription
from ....events.version import VERSION
from ....statemachine.errors import PreflightError
from ....statemachine.plan.plan import StageExecution, StageExecutionPlan
from ....statemachine.ports import GenerateAnswer, GenerateRequest, ImageBackend, OnStep
from ....statemachine.run.cancel_token import CancelToken
from ..registry import RunPreparation, ServerChoice
from .connection import FarmConnection, SchedulerLostError, WorkerEntry, WorkerLostError
from .member import FarmMember
from .messages import PREPARE, RELEASE, Preparation, Prepared, decode_prepared, encode

KIND = "farm"
_LOOK_S = 0.5
_PREPARE_S = 120.0
"""How long a worker may take to check its server."""
_TRY_AGAIN_S = 5.0
"""After which a worker is asked again whose server could not be reached."""
_RELEASE_S = 2.0
farm_logger = logging.getLogger("stagewright.farm")


class FarmBackend:
    """The workers of one farm, for one run. It is connected by ``pin_options``.

    A worker whose server lacks a name or an option of the run, or has other files, is reported and
    not used. One that joins later is checked in the same way.
    """

    def __init__(self, choice: ServerChoice) -> None:
        self._choice = choice
        self._session = secrets.token_hex(8)
        self._preparation: Preparation | None = None
        self._connection: FarmConnection | None = None
        self._watch: Future[None] | None = None
        self._first: BackendDescription | None = None
        # Replaced as a whole on the connection's thread, read on any.
        self._members: dict[str, FarmMember] = {}
        self._known: set[str] = set()
        self._refusals: dict[str, str] = {}
        self._answers: dict[str, Mapping[str, Any]] = {}
        self._unsettled: dict[str, dict[str, str]] = {}
        """By worker, the calls that its server may still work on, with their stage types."""
        for call in choice.unsettled_calls:
            self._leave(call.server or "", call.call_id, call.stage_type)

    @property
    def slots(self) -> int:
        """One for each worker."""
        return max(1, len(self._members))

    @property
    def description(self) -> BackendDescription:
        """The farm, with product, version, options and files of the first worker's server."""
        first = self._first or BackendDescription(kind=KIND)
        servers = tuple(
            ServerDescription(
                url=one.description.url or "",
                product=one.description.product,
                version=one.description.version,
            )
            for one in self._members.values()
        )
        return msgspec.structs.replace(
            first, kind=KIND, url=self._choice.url, servers=servers or UNSET
        )

    def preflight(self, plan: StageExecutionPlan) -> None:
        """Each worker checks its server for the names of the plan as it is prepared."""

    def pin_options(
        self, run: RunPreparation, like: BackendDescription | None = None
    ) -> Sequence[str]:
        """Connect, and prepare every worker; see ``OptionsBackend``.

        Raises PreflightError if the farm cannot be reached, or no worker can be used for a stage.
        """
        del like
        settings = self._choice.settings
        self._connection = FarmConnection(
            self._choice.url,
            insecure=self._choice.insecure,
            timeout_s=max(settings.connect_timeout_s, settings.wait_s or 0.0),
        )
        self._preparation = Preparation(
            session=self._session,
            plan=json_values(run.plan),
            settings=settings,
            preflight=run.preflight,
            recorded=run.recorded,
            prompts=self._choice.prompts,
        )
        loop = self._connection.loop
        refusals = asyncio.run_coroutine_threadsafe(self._prepare_present(), loop).result()
        self._require_members(run.plan, refusals)
        self._watch = asyncio.run_coroutine_threadsafe(self._look_on(), loop)
        self._watch.add_done_callback(_report)
        return ()

    def members(self, stage: StageExecution) -> Sequence[ImageBackend]:
        """The workers that are usable now; those that have loaded the stage's checkpoint first.

        Raises SchedulerLostError.
        """
        assert self._connection is not None
        self._connection.check()
        wanted = next(iter(stage.config.checkpoints()), None)
        able = [one for one in self._members.values() if _may_serve(one, stage.farm_hint)]
        return sorted(able, key=lambda one: one.loaded != wanted)

    def generate_images(
        self, request: GenerateRequest, *, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        """Make one attempt at one request on the first worker."""
        for member in self._members.values():
            return member.generate_images(request, cancel=cancel, on_step=on_step)
        raise WorkerLostError(f"{self._choice.url}: the farm has no worker", transient=True,
                              settled=True)  # fmt: skip

    def close(self) -> None:
        """Release the workers, and close the connection."""
        connection = self._connection
        if connection is None:
            return
        if self._watch is not None:
            self._watch.cancel()
        asyncio.run_coroutine_threadsafe(self._release(), connection.loop).result()
        self._members = {}
        connection.close()
        self._connection = None

    async def _release(self) -> None:
        """Have every worker forget the run; one that does not answer soon forgets it later."""
        asked = (
            self._open_connection.ask(one.entry.address, RELEASE, _RELEASE_S, session=self._session)
            for one in self._members.values()
        )
        for outcome in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(outcome, BaseException):
                farm_logger.debug("a worker was not released: %r", outcome)

    async def _prepare_present(self) -> list[str]:
        """Prepare the workers that are present: one, which sets the options, then the others.

        Returns why those are not used that are not.
        """
        entries = list(await self._open_connection.workers())
        refusals = []
        while entries and self._first is None:
            refusals.append(await self._prepare(entries.pop(0)))
        refusals += await asyncio.gather(*map(self._prepare, entries))
        return [one for one in refusals if one]

    async def _look_on(self) -> None:
        """Watch which workers join and leave, until cancelled."""
        preparing: set[asyncio.Task[str]] = set()
        try:
            while True:
                await asyncio.sleep(_LOOK_S)
                await self._look(preparing)
        finally:
            for task in preparing:
                task.cancel()

    async def _look(self, preparing: set[asyncio.Task[str]]) -> None:
        """Drop the workers that have left, and begin to prepare those that have joined."""
        try:
            entries = await self._open_connection.workers()
        except (OSError, SchedulerLostError):
            return  # members() reports a scheduler that is gone
        present = {entry.address: entry for entry in entries}
        for address in set(self._members) - set(present):
            self._drop(self._members[address])
        self._known &= set(present)
        for address in set(present) - self._known:
            task = asyncio.ensure_future(self._prepare(present[address]))
            preparing.add(task)
            task.add_done_callback(preparing.discard)

    async def _prepare(self, entry: WorkerEntry) -> str:
        """Prepare one worker, and use it; why it is not used, or "" if it is."""
        self._known.add(entry.address)
        prepared = await self._ask_to_prepare(entry)
        description = prepared.description
        if description is None:
            if prepared.may_pass:
                self._open_connection.loop.call_later(
                    _TRY_AGAIN_S, self._known.discard, entry.address
                )
            if self._refusals.get(entry.address) != prepared.refusal:
                self._refusals[entry.address] = prepared.refusal
                farm_logger.warning("worker %s is not used: %s", entry.name, prepared.refusal)
            return f"worker {entry.name}: {prepared.refusal}"
        self._first = self._first or description
        own = BackendDescription(
            kind=description.kind,
            url=entry.name,
            product=description.product,
            version=description.version,
        )
        member = FarmMember(
            entry, own, self._open_connection, self._session, self._answers, self._drop_lost
        )
        self._members = {**self._members, entry.address: member}
        farm_logger.info("worker %s is used", entry.name)
        return ""

    async def _ask_to_prepare(self, entry: WorkerEntry) -> Prepared:
        assert self._preparation is not None
        if entry.facts is None:
            return Prepared(refusal="it is not a worker of `stagewright farm worker`")
        if entry.facts.version != VERSION:
            theirs = entry.facts.version
            return Prepared(refusal=f"it has stagewright {theirs}, and this is {VERSION}")
        unsettled = self._unsettled.get(entry.name, {})
        asked = msgspec.structs.replace(
            self._preparation, like=self._first, unsettled=dict(unsettled)
        )
        try:
            answer = await self._open_connection.ask(
                entry.address, PREPARE, _PREPARE_S, message=encode(asked)
            )
        except OSError as error:
            return Prepared(refusal=f"it does not answer: {error}", may_pass=True)
        prepared = decode_prepared(answer)
        if prepared.description is not None:
            self._unsettled.pop(entry.name, None)
        return prepared

    def _require_members(self, plan: StageExecutionPlan, refusals: Sequence[str]) -> None:
        """Raises PreflightError if a stage has no worker."""
        url, why = self._choice.url, "".join(f"; {one}" for one in refusals)
        if not self._members:
            raise PreflightError(f"the farm at {url} has no worker that can be used{why}")
        for stage in plan.stages:
            if not any(_may_serve(one, stage.farm_hint) for one in self._members.values()):
                key = f"{stage.stage_type}.farm_hint"
                raise PreflightError(
                    f"{key} = {stage.farm_hint!r}: no worker of the farm at {url} has this "
                    f"resource (stagewright farm worker --resource {stage.farm_hint}){why}",
                    key=key,
                )

    def _drop(self, member: FarmMember) -> None:
        member.is_present = False
        self._members = {key: one for key, one in self._members.items() if one is not member}
        if member.refusal:
            farm_logger.warning("worker %s is not used: %s", member.entry.name, member.refusal)
        else:
            farm_logger.info("worker %s has left", member.entry.name)

    def _leave(self, worker: str, call_id: str, stage_type: str) -> None:
        """Note a call that a worker's server is to settle before it gets other work."""
        self._unsettled.setdefault(worker, {})[call_id] = stage_type

    def _drop_lost(self, member: FarmMember, request: GenerateRequest, *, settled: bool) -> None:
        """Use a worker no more, until the next look finds it present and prepares it again."""

        def drop() -> None:
            if not settled:
                self._leave(member.entry.name, request.call_id, request.stage_type)
            self._drop(member)
            if not member.refusal:
                self._known.discard(member.entry.address)

        asyncio.run_coroutine_threadsafe(_done(drop), self._open_connection.loop).result()

    @property
    def _open_connection(self) -> FarmConnection:
        assert self._connection is not None
        return self._connection


def _report(watch: Future[None]) -> None:
    """Say why the workers are watched no more, unless that was wanted."""
    error = None if watch.cancelled() else watch.exception()
    if error is not None:
        farm_logger.warning("workers that join are not used any more: %r", error)


async def _done(act: Callable[[], None]) -> None:
    act()


def _may_serve(member: FarmMember, resource: str | None) -> bool:
    return resource is None or resource in member.entry.resources
