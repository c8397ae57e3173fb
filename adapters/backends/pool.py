"""The servers of a run: which of them can be used, and which no longer."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import msgspec

from ...events.model import BackendDescription, ServerDescription
from ...statemachine.errors import BackendError, PreflightError
from ...statemachine.plan.plan import StageExecution
from ...statemachine.ports import (
    FileHashes,
    GenerateAnswer,
    GenerateRequest,
    ImageBackend,
    OnStep,
    RecoveringBackend,
    file_hashes_of,
)
from ...statemachine.run.cancel_token import CancelToken
from ...statemachine.stages import StageConfig
from .registry import CheckpointBackend, OptionsBackend, RunPreparation, ServedBackend
from .server_lock import ServerLock

_LOOK_AGAIN_S = 1.0
_VERSION_OF = "version of "
"""So begins what stands among the files for a program; only files are compared."""
_JOIN_EVERY_S = 2.0
"""How often a server that could not be reached is looked for while a run continues."""
_logger = logging.getLogger("stagewright.servers")


class DifferentFilesError(BackendError):
    """A server has used other files than the other servers of the run; it is not used any more."""


class PooledServer:
    """One server of a run, which is locked while it makes an image unless it is ``shared``.

    ``answers`` are, by stage, the ``info`` of the first answer of any of several servers.
    """

    def __init__(
        self,
        url: str,
        backend: ServedBackend,
        *,
        shared: bool,
        answers: dict[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.url = url
        self.backend = backend
        self._lock = None if shared else ServerLock(url)
        self._expected: Mapping[str, str] = {}
        """The hashes that the first server reports."""
        self._answers = answers
        self.refusal = ""
        """Why the server is not used, or not yet."""
        self.is_excluded = False

    @property
    def slots(self) -> int:
        """How many requests the server is sent at once."""
        return self.backend.slots

    @property
    def description(self) -> BackendDescription:
        """The description of the server, under the address that it was given by."""
        return self.backend.description

    def turn(self, cancel: CancelToken) -> AbstractContextManager[bool]:
        """See ``ExclusiveBackend``."""
        return nullcontext(enter_result=True) if self._lock is None else self._lock.hold(cancel)

    def recover(self, cancel: CancelToken) -> None:
        """See ``RecoveringBackend``."""
        if isinstance(self.backend, RecoveringBackend):
            with self.turn(cancel) as is_ours:
                if is_ours:
                    self.backend.recover(cancel)

    def generate_images(
        self, request: GenerateRequest, *, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        """See ``ImageBackend``; the files that the first answer in a stage shows are compared."""
        answer = self.backend.generate_images(request, cancel=cancel, on_step=on_step)
        if self._answers is not None and request.first_answer is None:
            self._compare(request, answer, self._answers)
        return answer

    def _compare(
        self,
        request: GenerateRequest,
        answer: GenerateAnswer,
        answers: dict[str, Mapping[str, Any]],
    ) -> None:
        """Raises DifferentFilesError."""
        # Another answer may have come since the request was made.
        first = answers.setdefault(request.stage_id, request.other_answer or answer.info)
        difference = self.difference(request.config, first, answer.info)
        if difference:
            self.exclude(difference)
            raise DifferentFilesError(
                f"{self.url}{answer.endpoint}: {self.refusal}",
                transient=True,
                settled=True,
                endpoint=answer.endpoint,
            )

    def difference(
        self, config: StageConfig, first: Mapping[str, Any], info: Mapping[str, Any]
    ) -> str:
        """Why an answer of this server is not like the ``first`` in its stage; "" if it is."""
        hashes = file_hashes_of(self.backend)
        expected = {**hashes.shown(config, first), **self._expected}
        found = [*_differences(expected, hashes.shown(config, info))]
        return (
            f"it has other files than another server of the run: {'; '.join(found)}"
            if found
            else ""
        )

    def exclude(self, reason: str) -> None:
        """Use the server no more in this run."""
        self.refusal, self.is_excluded = reason, True
        _logger.warning("%s is not used: %s", self.url, reason)

    def prepare(self, run: RunPreparation, like: BackendDescription | None = None) -> None:
        """Prepare the server for a run; a new one has the options of the first server, ``like``.

        Raises PreflightError, BackendError.
        """
        if run.preflight:
            self.backend.preflight(run.plan)
        if like is not None:
            self._expected = like.files or {}
            found = [*_differences(self._expected, self.description.files or {})]
            if found:
                raise PreflightError(f"it has other files than {like.url}: {'; '.join(found)}")
        if isinstance(self.backend, OptionsBackend):
            lacking = self.backend.pin_options(run, like)
            if lacking and like is not None:
                raise PreflightError(f"it lacks options of {like.url}: {', '.join(lacking)}")

    def has_loaded(self, stage: StageExecution) -> bool:
        """Whether the server is known to have loaded the checkpoint of a stage."""
        backend = self.backend
        return isinstance(backend, CheckpointBackend) and backend.has_loaded(stage.config)


class ServerPool:
    """The servers of one run. The first that can be used says what all others must agree with."""

    def __init__(self, servers: Sequence[PooledServer]) -> None:
        self.servers = tuple(servers)
        self._lock = threading.Lock()  # guards _ready
        self._ready: list[PooledServer] = []
        self._ended = threading.Event()

    @property
    def first(self) -> PooledServer:
        """The first server that can be used."""
        return self._ready[0] if self._ready else self.servers[0]

    @property
    def file_hashes(self) -> FileHashes:
        """The hashes of the files of the first server; all others have the same."""
        return file_hashes_of(self.first.backend)

    @property
    def description(self) -> BackendDescription:
        """That of the first server, with all servers of the run if there are several."""
        description = self.first.description
        if len(self.servers) == 1:
            return description
        all_of_them = [(one.url, one.description) for one in self.servers]
        return msgspec.structs.replace(
            description,
            servers=tuple(
                ServerDescription(url=url, product=it.product, version=it.version)
                for url, it in all_of_them
            ),
        )

    def prepare(self, run: RunPreparation, *, wait_s: float) -> None:
        """Find the servers that can be used, waiting ``wait_s`` for the first of several.

        Servers that cannot be reached may join the run later. Raises PreflightError if none can
        be used.
        """
        if len(self.servers) == 1:
            self._prepare_only_one(run)
            return
        end = time.monotonic() + wait_s
        while True:
            last = self._try_to_join(run)
            if self._ready:
                break
            if time.monotonic() >= end or all(one.is_excluded for one in self.servers):
                said = "; ".join(f"{one.url}: {one.refusal}" for one in self.servers)
                cause = last.__cause__ if isinstance(last, PreflightError) else last
                raise PreflightError(f"none of the servers can be used: {said}") from cause
            time.sleep(_LOOK_AGAIN_S)
        waiting = [*self._waiting()]
        for server in waiting:
            _logger.warning("%s is not used until it can be: %s", server.url, server.refusal)
        if waiting:
            name = "stagewright-servers"
            threading.Thread(target=self._let_join, args=(run,), name=name, daemon=True).start()

    def members(self, stage: StageExecution) -> Sequence[ImageBackend]:
        """See ``BackendPool``: servers that have loaded the stage's checkpoint come first."""
        with self._lock:
            usable = [one for one in self._ready if not one.is_excluded]
        if not usable and not [*self._waiting()]:
            raise BackendError("no server of the run can be used any more")
        return sorted(usable, key=lambda one: not one.has_loaded(stage))

    def close(self) -> None:
        """Release the servers; they can be used again."""
        self._ended.set()
        for server in self.servers:
            server.backend.close()

    def _prepare_only_one(self, run: RunPreparation) -> None:
        (server,) = self.servers
        try:
            server.prepare(run)
        except BackendError as error:
            # Preflight refuses such a server; without it, the run's first request reports it.
            _logger.info("the server's options are not pinned: %s", error)
        self._ready.append(server)

    def _waiting(self) -> Iterator[PooledServer]:
        """The servers that may join the run."""
        return (one for one in self.servers if not one.is_excluded and one not in self._ready)

    def _try_to_join(self, run: RunPreparation) -> Exception | None:
        """Prepare the servers that have not joined yet; the last error, if there was one."""
        last: Exception | None = None
        for server in [*self._waiting()]:
            try:
                server.prepare(run, self._ready[0].description if self._ready else None)
            except (PreflightError, BackendError) as error:
                last = error
                reason = str(error).removeprefix(f"{server.url}: ")
                if may_pass(error):
                    server.refusal = reason
                else:
                    server.exclude(reason)
            else:
                with self._lock:
                    self._ready.append(server)
        return last

    def _let_join(self, run: RunPreparation) -> None:
        """Look for servers that could not be reached, until all have joined or the run ends."""
        while [*self._waiting()] and not self._ended.wait(_JOIN_EVERY_S):
            before = len(self._ready)
            self._try_to_join(run)
            for server in self._ready[before:]:
                _logger.warning("%s takes part in the run now", server.url)


def may_pass(error: PreflightError | BackendError) -> bool:
    """Whether the server may be usable later, without a change of the configuration."""
    cause = error if isinstance(error, BackendError) else error.__cause__
    return isinstance(cause, BackendError) and (cause.is_out_of_reach or cause.transient)


def _differences(ones: Mapping[str, str], others: Mapping[str, str]) -> Iterator[str]:
    """The files of which both have a hash, but not the same."""
    for name in ones.keys() & others.keys():
        then, now = ones[name], others[name]
        if not name.startswith(_VERSION_OF) and then and now and then != now:
            yield f"{name} is {now}, not {then}"
