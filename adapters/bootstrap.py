"""Wires the concrete parts together; no other module does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from weakref import finalize

from ..events.errors import LogCorruptError, RunNotFoundError
from ..events.log.reader import iterate
from ..events.log.storage import Storage
from ..events.model import BackendDescription, RunOpened
from ..statemachine.config.schema import ServerTable
from ..statemachine.errors import ConfigurationError
from ..statemachine.plan.plan import StageExecutionPlan
from ..statemachine.ports import (
    FileHashes,
    GenerateAnswer,
    GenerateRequest,
    ImageBackend,
    OnStep,
    file_hashes_of,
)
from ..statemachine.run.cancel import CancelToken
from ..statemachine.run.controller import PipelineController
from .backends.embedded.backend import KIND as EMBEDDED_KIND
from .backends.embedded.backend import EmbeddedBackend
from .backends.registry import (
    BackendKind,
    EarlierRun,
    OptionsBackend,
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

    That is ``server`` if given, else the configuration's ``[server].url``, else the embedded
    backend, whose sampling steps take ``step_delay_s`` seconds more. ``runs`` is the folder in
    which runs that died on a server are found. ``restarts`` are commands that bring a server back,
    by its address.
    """

    def __init__(
        self,
        server: str | None = None,
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
        self._named = None if server is None else _Target.of(server)
        self._embedded = EmbeddedBackend(step_delay_s=step_delay_s)
        self._current: ImageBackend = self._embedded
        if self._named is not None:
            self.prepare(None, ServerTable(), preflight=False)

    def prepare(
        self,
        plan: StageExecutionPlan | None,
        server: ServerTable,
        *,
        preflight: bool,
        recorded: BackendDescription | None = None,
        unsettled: Mapping[str, str] = {},
        prompts: Sequence[str] = (),
    ) -> None:
        """Choose the backend for a run before its folder is made.

        A resumed run uses the ``recorded`` backend, unless the constructor named a server. With
        ``preflight`` the server is checked for the names in ``plan`` and ``prompts``. Raises
        PreflightError, ConfigurationError.
        """
        target = _target(server, recorded, self._named)
        self.release()
        if target is None:
            self._current = self._embedded
            return
        choice = ServerChoice(
            url=target.url,
            named_by_user=self._named is not None,
            settings=server,
            insecure=self._insecure,
            headers=self._headers,
            unsettled=unsettled,
            prompts=tuple(prompts),
        )
        self._current = backend = self._restartable(target.kind.make(choice), choice)
        if preflight and plan is not None:
            backend.preflight(plan)
        if plan is not None and isinstance(backend, OptionsBackend):
            backend.pin_options(plan, recorded, _earlier_runs(self._runs, target.url))

    def _restartable(self, backend: ServedBackend, choice: ServerChoice) -> ServedBackend:
        """The backend of a server, with the command that restarts it, if there is one."""
        restarter = self._restarters.find(choice.url)
        return RestartingBackend(backend, restarter, choice.settings) if restarter else backend

    def release(self) -> None:
        """Close the connections of the current backend; it can be used again."""
        close = getattr(self._current, "close", None)
        if close is not None:
            close()

    @property
    def slots(self) -> int:
        """How many requests the current backend serves at once."""
        return self._current.slots

    @property
    def description(self) -> BackendDescription:
        """The description of the current backend."""
        return self._current.description

    @property
    def file_hashes(self) -> FileHashes:
        """The hashes of the files that the current backend uses."""
        return file_hashes_of(self._current)

    def generate_images(
        self, request: GenerateRequest, *, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        """Make one attempt at one request on the current backend."""
        return self._current.generate_images(request, cancel=cancel, on_step=on_step)


class _Target(NamedTuple):
    """A server, and what kind of backend it is."""

    kind: BackendKind
    url: str

    @classmethod
    def of(cls, address: str, kind: str | None = None) -> _Target:
        """Raises ConfigurationError."""
        found = kind_of_server(address, kind)
        return cls(found, found.address(address))


def _target(
    server: ServerTable, recorded: BackendDescription | None, named: _Target | None
) -> _Target | None:
    """The server that a run goes to; None for the embedded backend. Raises ConfigurationError."""
    if recorded is None and server.kind is not None:
        installed_kind(server.kind)
        address = server.url if named is None else named.url
        return None if address is None else _Target.of(address, server.kind)
    if named is not None:
        return named
    if recorded is None:
        return None if server.url is None else _Target.of(server.url)
    if recorded.kind == EMBEDDED_KIND and recorded.url is None:
        return None
    if recorded.url is None or find_kind(recorded.kind) is None:
        raise ConfigurationError(
            f"the run was made by a backend of kind {recorded.kind!r}, which is not available; "
            "use --server to resume it on another server"
        )
    return _Target.of(recorded.url, recorded.kind)


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
        if not isinstance(opened, RunOpened) or opened.backend.url != url:
            continue
        is_clean = is_clean or not (entry.died or entry.alive)
        if entry.died or entry.alive:
            yield EarlierRun(backend=opened.backend, plan=opened.plan, is_alive=entry.alive)


def open_controller(
    runs: Path | str,
    server: str | None = None,
    *,
    insecure: bool = False,
    headers: Mapping[str, Mapping[str, str]] = {},
    step_delay_s: float = 0.0,
    restarts: Mapping[str, RestartCommand] = {},
) -> PipelineController:
    """Open a controller for the folder ``runs``: the one call that a GUI needs.

    ``server`` is the address of a WebUI server; without it each run uses the server of its
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
