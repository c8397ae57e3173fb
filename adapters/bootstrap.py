"""The only place where concrete parts are put together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

from ..events.log.storage import Storage
from ..events.model import BackendDescription, StageType
from ..statemachine.config.schema import ServerTable
from ..statemachine.errors import ConfigurationError
from ..statemachine.plan.plan import StageExecutionPlan
from ..statemachine.ports import GenerateAnswer, GenerateRequest, ImageBackend, OnStep
from ..statemachine.run.cancel import CancelToken
from ..statemachine.run.controller import PipelineController
from .backends.embedded.backend import KIND as EMBEDDED_KIND
from .backends.embedded.backend import EmbeddedBackend
from .backends.registry import BackendKind, ServerChoice, find_kind, kind_of_server
from .inputs import PillowInputReader
from .projections.learning.writer import LearningRecordWriter

FAILPOINT_VARIABLE = "STAGEWRIGHT_FAILPOINT"
"""Set by tests alone; see ``events.failpoints``."""


class ConfiguredBackend:
    """The backend that each run's configuration asks for.

    That is ``server``, where there is one, else the configuration's ``[server].url``, else
    the embedded backend, whose sampling steps take ``step_delay_s`` seconds more. One run at
    a time.
    """

    def __init__(
        self, server: str | None = None, *, insecure: bool = False, step_delay_s: float = 0.0
    ) -> None:
        self._insecure = insecure
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
        unsettled: Mapping[str, StageType] = {},
    ) -> None:
        """Take the backend that ``server`` and the constructor ask for.

        A run that is taken up again goes to the one that was ``recorded``, unless the
        constructor named a server. With ``preflight`` a server is asked whether it has the
        names that ``plan`` uses. Raises PreflightError, ConfigurationError.
        """
        target = self._named or _target(server, recorded)
        self.release()
        if target is None:
            self._current = self._embedded
            return
        choice = ServerChoice(
            url=target.url,
            named_by_user=self._named is not None,
            settings=server,
            insecure=self._insecure,
            unsettled=unsettled,
        )
        self._current = backend = target.kind.make(choice)
        if preflight and plan is not None:
            backend.preflight(plan)

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
        """What the current backend is."""
        return self._current.description

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


def _target(server: ServerTable, recorded: BackendDescription | None) -> _Target | None:
    """The server that a run goes to; None for the embedded backend. Raises ConfigurationError."""
    if recorded is None:
        return None if server.url is None else _Target.of(server.url)
    if recorded.kind == EMBEDDED_KIND and recorded.url is None:
        return None
    if recorded.url is None or find_kind(recorded.kind) is None:
        raise ConfigurationError(
            f"the run was made by a backend of the kind {recorded.kind!r}, which is not installed "
            "here; give --server to resume it on another server"
        )
    return _Target.of(recorded.url, recorded.kind)


_learning_writers: WeakKeyDictionary[PipelineController, LearningRecordWriter] = WeakKeyDictionary()
"""Who writes the learning records of each controller's runs; one for each folder of runs."""


def open_controller(
    runs: Path | str,
    server: str | None = None,
    *,
    insecure: bool = False,
    step_delay_s: float = 0.0,
) -> PipelineController:
    """A controller that keeps its runs below ``runs``: the one call for authors of GUIs.

    ``server`` is the address of a WebUI server; without it each run goes to the server that
    its configuration names, or to the embedded backend. With ``insecure`` the credentials of
    ``STAGEWRIGHT_AUTH`` are sent over plain http as well, and where ``tls_verify`` or
    ``ca_bundle`` change the check of a certificate. ``step_delay_s`` seconds are waited in each
    sampling step of the embedded backend: time to watch a run, and to cancel it. The learning
    records in ``runs`` are kept up to date. Raises ConfigurationError.
    """
    storage = _storage()
    controller = PipelineController(
        backend=ConfiguredBackend(server, insecure=insecure, step_delay_s=step_delay_s),
        runs=Path(runs),
        inputs=PillowInputReader(),
        storage=storage,
    )
    _learning_writers[controller] = _learning_writer(Path(runs), storage)
    return controller


def _learning_writer(runs: Path, storage: Storage | None) -> LearningRecordWriter:
    place = runs.absolute()
    for writer in list(_learning_writers.values()):
        if writer.runs == place:
            return writer
    return LearningRecordWriter(place, storage=storage).start()


def _storage() -> Storage | None:
    """None, which is the real one, unless a test wants this process to die somewhere."""
    if FAILPOINT_VARIABLE not in os.environ:
        return None
    from ..events.testing.failpoints import FailpointStorage  # noqa: PLC0415 - only tests need it

    return FailpointStorage(os.environ[FAILPOINT_VARIABLE])
