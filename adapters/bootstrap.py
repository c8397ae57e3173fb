"""Wires the concrete parts together; no other module does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from weakref import finalize

import msgspec

from ..events.errors import LogCorruptError, RunNotFoundError
from ..events.log.reader import iterate
from ..events.log.storage import Storage
from ..events.model import BackendDescription, RunOpened
from ..statemachine.config.schema import ServerTable
from ..statemachine.errors import ConfigurationError
from ..statemachine.plan.plan import StageExecution, StageExecutionPlan
from ..statemachine.ports import (
    BackendPool,
    FileHashes,
    GenerateAnswer,
    GenerateRequest,
    ImageBackend,
    OnStep,
    UnsettledCall,
    file_hashes_of,
)
from ..statemachine.run.cancel_token import CancelToken
from ..statemachine.run.controller import PipelineController
from .backends.embedded.backend import KIND as EMBEDDED_KIND
from .backends.embedded.backend import EmbeddedBackend
from .backends.pool import PooledServer, ServerPool
from .backends.registry import (
    FARM,
    BackendKind,
    EarlierRun,
    RunPreparation,
    ServedBackend,
    ServerChoice,
    find_kind,
    installed_kind,
    kind_of_server,
)
from .backends.restart import RestartCommand, ServerRestarters
from .backends.restarting_backend import RestartingBackend
from .inputs import PillowInputReader
from .projections.config_writer import write_configs
from .projections.learning.writer import LearningRecordWriter
from .projections.reuse_index import CatalogueReuseIndex

FAILPOINT_VARIABLE = "STAGEWRIGHT_FAILPOINT"
"""Set only by tests; see ``events.testing.failpoints``."""


class ConfiguredBackend:
    """Chooses the backend for each run: one run at a time.

    That is ``server`` (one, or several that share the work) if given, else the configuration's
    ``[server].url``, else the embedded backend, whose sampling steps take ``step_delay_s`` seconds
    more. ``runs`` is the folder in which runs that died on a server are found. ``restarts`` are
    commands that bring a server back, by its address.
    """

    def __init__(
        self,
        server: str | Sequence[str] | None = None,
        *,
        insecure: bool = False,
        headers: Mapping[str, Mapping[str, str]] = {},
        step_delay_s: float = 0.0,
        runs: Path | None = None,
        restarts: Mapping[str, RestartCommand] = {},
    ) -> None:
        self._runs = runs
        self._restarters = ServerRestarters(restarts)
        self._insecure = insecure
        self._headers = headers
        named = (server,) if isinstance(server, str) else server or ()
        self._named = tuple(map(_Target.of, named))
        self._embedded = EmbeddedBackend(step_delay_s=step_delay_s)
        self._pool: ServerPool | None = None
        if self._named:
            self.prepare(None, ServerTable(), preflight=False)

    def prepare(
        self,
        plan: StageExecutionPlan | None,
        server: ServerTable,
        *,
        preflight: bool,
        recorded: BackendDescription | None = None,
        unsettled: Sequence[UnsettledCall] = (),
        prompts: Sequence[str] = (),
    ) -> None:
        """Choose the backend for a run before its folder is made.

        A resumed run uses the ``recorded`` servers, unless the constructor named others. With
        ``preflight`` they are checked for the names in ``plan`` and ``prompts``. Raises
        PreflightError, ConfigurationError.
        """
        targets = {target.url: target for target in _targets(server, recorded, self._named)}
        self.release()
        if not targets:
            self._pool = None
            return
        # Several servers are waited for together, and compared with each other.
        wait_s = server.wait_s or 0.0
        answers: dict[str, Mapping[str, Any]] | None = None
        if len(targets) > 1:
            server, answers = msgspec.structs.replace(server, wait_s=0.0), {}
        choice = ServerChoice(
            url="",
            named_by_user=bool(self._named),
            settings=server,
            insecure=self._insecure,
            headers=self._headers,
            unsettled_calls=tuple(unsettled),
            prompts=tuple(prompts),
        )
        self._pool = ServerPool(
            [self._server(target, choice, unsettled, answers) for target in targets.values()]
        )
        if plan is not None:
            run = RunPreparation(
                plan=plan,
                recorded=recorded,
                preflight=preflight,
                earlier=partial(_earlier_runs, self._runs),
            )
            self._pool.prepare(run, wait_s=wait_s)

    def _server(
        self,
        target: _Target,
        choice: ServerChoice,
        unsettled: Sequence[UnsettledCall],
        answers: dict[str, Mapping[str, Any]] | None,
    ) -> PooledServer:
        """One server of a run, with the command that restarts it, if there is one."""
        calls = {one.call_id: one.stage_type for one in unsettled if one.server == target.url}
        choice = msgspec.structs.replace(choice, url=target.url, unsettled=calls)
        backend: ServedBackend = target.kind.make(choice)
        restarter = self._restarters.find(target.url)
        if restarter is not None:
            backend = RestartingBackend(backend, restarter, choice.settings)
        return PooledServer(target.url, backend, shared=choice.settings.shared, answers=answers)

    def release(self) -> None:
        """Close the connections of the servers; they can be used again."""
        if self._pool is not None:
            self._pool.close()

    @property
    def _first(self) -> ImageBackend:
        return self._embedded if self._pool is None else self._pool.first

    @property
    def slots(self) -> int:
        """How many requests are served at once; of several servers, by all of them."""
        if self._pool is None:
            return self._embedded.slots
        return sum(server.slots for server in self._pool.servers)

    @property
    def description(self) -> BackendDescription:
        """The description of the current backend."""
        return self._embedded.description if self._pool is None else self._pool.description

    @property
    def file_hashes(self) -> FileHashes:
        """The hashes of the files that the current backend uses."""
        return file_hashes_of(self._embedded) if self._pool is None else self._pool.file_hashes

    def members(self, stage: StageExecution) -> Sequence[ImageBackend]:
        """See ``BackendPool``: the servers, or this backend itself where there are not several."""
        if self._pool is None:
            return (self,)
        if len(self._pool.servers) == 1:
            only = self._pool.first.backend
            return only.members(stage) if isinstance(only, BackendPool) else (self,)
        return self._pool.members(stage)

    def turn(self, cancel: CancelToken) -> AbstractContextManager[bool]:
        """See ``ExclusiveBackend``."""
        if self._pool is None:
            return nullcontext(enter_result=True)
        return self._pool.first.turn(cancel)

    def generate_images(
        self, request: GenerateRequest, *, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        """Make one attempt at one request; where there are several servers, on the first."""
        return self._first.generate_images(request, cancel=cancel, on_step=on_step)


class _Target(NamedTuple):
    """A server, and what kind of backend it is."""

    kind: BackendKind
    url: str

    @classmethod
    def of(cls, address: str, kind: str | None = None) -> _Target:
        """Raises ConfigurationError."""
        found = kind_of_server(address, kind)
        return cls(found, found.address(address))


def _targets(
    server: ServerTable, recorded: BackendDescription | None, named: Sequence[_Target]
) -> Sequence[_Target]:
    """The servers that a run goes to; none for the embedded backend. Raises ConfigurationError."""
    if recorded is None and server.kind is not None:
        installed_kind(server.kind)
        addresses = [one.url for one in named] or server.urls
        return [_Target.of(address, server.kind) for address in addresses]
    if named:
        return named
    if recorded is None:
        return [_Target.of(address) for address in server.urls]
    if recorded.kind == EMBEDDED_KIND and recorded.url is None:
        return ()
    # A farm is found by its scheduler; its servers are those of the workers.
    recorded_urls = (recorded.url,) if recorded.kind == FARM else recorded.urls
    urls = [url for url in recorded_urls if url is not None]
    if not urls or find_kind(recorded.kind) is None:
        raise ConfigurationError(
            f"the run was made by a backend of kind {recorded.kind!r}, which is not available; "
            "use --server to resume it on another server"
        )
    return [_Target.of(url, recorded.kind) for url in urls]


def _earlier_runs(runs: Path | None, url: str) -> Iterator[EarlierRun]:
    """The runs that are alive on a server, and those that died since one there ended properly."""
    from .projections.catalogue import Catalogue  # noqa: PLC0415 - read where a server needs it

    if runs is None:
        return
    is_clean = False
    for entry in Catalogue(runs).entries():
        if is_clean and not entry.alive:
            continue
        try:
            opened = next(iterate(runs / entry.folder), None)
        except (LogCorruptError, RunNotFoundError, OSError):
            continue
        if not isinstance(opened, RunOpened) or url not in opened.backend.urls:
            continue
        is_clean = is_clean or not (entry.died or entry.alive)
        if entry.died or entry.alive:
            yield EarlierRun(backend=opened.backend, plan=opened.plan, is_alive=entry.alive)


def open_controller(
    runs: Path | str,
    server: str | Sequence[str] | None = None,
    *,
    insecure: bool = False,
    headers: Mapping[str, Mapping[str, str]] = {},
    step_delay_s: float = 0.0,
    restarts: Mapping[str, RestartCommand] = {},
) -> PipelineController:
    """Open a controller for the folder ``runs``: the one call that a GUI needs.

    ``server`` is the address of a WebUI server, or of several that share the work of each run;
    without it each run uses the server of its
    configuration, or the embedded backend. With ``insecure`` the credentials of
    ``STAGEWRIGHT_AUTH`` are also sent over plain http, and where ``tls_verify`` or ``ca_bundle``
    change the check of a certificate. ``headers`` are sent with each request to the server whose
    address is their key, and are never recorded. Each sampling step of the embedded backend takes
    ``step_delay_s`` seconds more, which leaves time to watch or cancel a run. ``restarts`` are
    commands that bring a server back, by its address. Each run
    adds its learning record to the folder. Raises ConfigurationError.
    """
    storage = new_storage()
    controller = PipelineController(
        backend=ConfiguredBackend(
            server,
            insecure=insecure,
            headers=headers,
            step_delay_s=step_delay_s,
            runs=Path(runs),
            restarts=restarts,
        ),
        runs=Path(runs),
        inputs=PillowInputReader(),
        storage=storage,
        reuse_index=CatalogueReuseIndex(Path(runs).absolute()),
    )
    writer = LearningRecordWriter(Path(runs).absolute(), storage=storage).start()
    finalize(controller, writer.close, 0.0)
    finalize(controller, write_configs(storage or Storage()).close, 0.0)
    return controller


def new_storage() -> Storage | None:
    """A storage with failpoints if a test asks for it; None for the real one."""
    if FAILPOINT_VARIABLE not in os.environ:
        return None
    from ..events.testing.failpoints import FailpointStorage  # noqa: PLC0415 - only tests need it

    return FailpointStorage(os.environ[FAILPOINT_VARIABLE])
