"""The server beside a worker, prepared for each run that uses it. No part of it knows Dask."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from ....events.errors import StagewrightError
from ....events.model import BackendDescription, CancelMode
from ....statemachine.errors import BackendError, GenerationCancelled, PreflightError
from ....statemachine.plan.plan import StageExecutionPlan
from ....statemachine.ports import GenerateRequest
from ....statemachine.run.cancel_token import CancelToken
from ....statemachine.stages.registry import read_config
from ..pool import PooledServer, may_pass
from ..registry import BackendKind, RunPreparation, ServerChoice
from .messages import (
    Answer,
    Failure,
    Preparation,
    Prepared,
    Step,
    WorkerStatus,
    decode_comparison,
    decode_preparation,
    decode_task,
    encode,
)

_MOST_SESSIONS = 4
"""Of runs whose controllers were killed, no more than these are kept."""
_MOST_CANCELLED = 100


class SessionUnknownError(BackendError):
    """The worker is not prepared for the run any more; the controller prepares it again."""


class _Work(NamedTuple):
    request: GenerateRequest
    token: CancelToken


class ServerSessions:
    """Serves one request at a time on one server; safe from any thread.

    Dask gives a worker one request at a time, but one that has lost its scheduler joins again while
    its last request may still be under way. ``announce`` takes the sampling steps of the present
    request.
    """

    def __init__(self, kind: BackendKind, choice: ServerChoice) -> None:
        self._kind = kind
        self._choice = choice
        self.announce: Callable[[Step], None] = _ignore
        self._turn = threading.Lock()  # held while a request is served; taken before _lock
        self._lock = threading.Lock()  # guards the three below
        self._servers: OrderedDict[str, PooledServer] = OrderedDict()
        self._work: _Work | None = None
        self._cancelled: deque[str] = deque(maxlen=_MOST_CANCELLED)

    def prepare(self, message: bytes) -> bytes:
        """Prepare the server for a run: a ``Preparation``, answered by ``Prepared``."""
        try:
            return encode(Prepared(description=self._prepare(decode_preparation(message))))
        except (PreflightError, BackendError) as error:
            return encode(Prepared(refusal=str(error), may_pass=may_pass(error)))
        except (StagewrightError, msgspec.MsgspecError) as error:
            return encode(Prepared(refusal=str(error)))

    def release(self, session: str) -> None:
        """Forget a run, and restore what was changed on the server for it."""
        with self._lock:
            server = self._servers.pop(session, None)
        if server is not None:
            server.backend.close()

    def cancel(self, call_id: str) -> None:
        """Stop a request, now or when it comes."""
        with self._lock:
            self._cancelled.append(call_id)
            work = self._work
        if work is not None and work.request.call_id == call_id:
            work.token.request(CancelMode.NOW)

    def cancel_present(self, reason: str) -> None:
        """Stop the present request, whose answer would be dropped."""
        work = self._work
        if work is not None:
            work.token.request(CancelMode.NOW, reason)

    def make_images(self, message: bytes) -> bytes:
        """Make one attempt at one request: an ``Answer``, or a ``Failure``."""
        try:
            session, request = decode_task(message)
            with self._turn:
                return encode(self._answer(session, request))
        except BackendError as error:
            return encode(Failure.of(error))
        except (StagewrightError, msgspec.MsgspecError, OSError) as error:
            return encode(Failure.of(BackendError(str(error), settled=True)))

    def compare(self, message: bytes) -> str:
        """Why the answer of a ``Comparison`` is not like the first one; "" if it is."""
        try:
            asked = decode_comparison(message)
            server = self._prepared(asked.session)
            config = read_config(asked.stage_type, asked.config)
            return server.difference(config, asked.first, asked.info)
        except (StagewrightError, msgspec.MsgspecError) as error:
            return str(error)

    def recover(self, session: str) -> bytes:
        """See ``RecoveringBackend``: a ``Failure``, or None."""
        try:
            with self._turn:
                self._prepared(session).recover(CancelToken())
        except BackendError as error:
            return encode(Failure.of(error))
        return encode(None)

    def status(self) -> bytes:
        """What the server is, what it has loaded and works on: a ``WorkerStatus``."""
        work = self._work
        status = WorkerStatus(
            server=self._choice.url, call_id=work.request.call_id if work else None
        )
        try:
            report = self._kind.inspect(self._choice, None)
        except StagewrightError as error:
            return encode(msgspec.structs.replace(status, problem=str(error)))
        return encode(
            msgspec.structs.replace(
                status,
                product=report.product,
                version=report.version,
                loaded=report.loaded,
                problem="; ".join(report.problems),
            )
        )

    def _prepare(self, asked: Preparation) -> BackendDescription:
        # How to verify the certificate of this server, and with which credentials, is decided here.
        # The controller waits: it asks again where the server cannot be reached.
        settings = msgspec.structs.replace(
            asked.settings,
            kind=None,
            url=self._choice.url,
            tls_verify=True,
            ca_bundle=None,
            wait_s=0.0,
        )
        plan = StageExecutionPlan.from_document(asked.plan)
        backend = self._kind.make(
            msgspec.structs.replace(
                self._choice,
                settings=settings,
                unsettled=asked.unsettled,
                prompts=asked.prompts,
            )
        )
        server = PooledServer(self._choice.url, backend, shared=settings.shared)
        run = RunPreparation(
            plan=plan,
            recorded=asked.recorded,
            preflight=asked.preflight,
            earlier=lambda _url: (),  # their logs are on the machines of their controllers
        )
        try:
            server.prepare(run, asked.like)
        except BaseException:
            backend.close()
            raise
        self.release(asked.session)
        with self._lock:
            self._servers[asked.session] = server
            spare = list(self._servers)[:-_MOST_SESSIONS]
        for session in spare:
            self.release(session)
        return server.description

    def _answer(self, session: str, request: GenerateRequest) -> Answer:
        work = _Work(request, CancelToken())
        server = self._prepared(session)
        with self._lock:
            if request.call_id in self._cancelled:
                raise GenerationCancelled("the run was cancelled", settled=True)
            self._work = work
        try:
            with server.turn(work.token) as is_its_turn:
                if not is_its_turn:
                    raise GenerationCancelled("the run was cancelled", settled=True)
                return self._generate(server, work)
        finally:
            self._work = None

    def _prepared(self, session: str) -> PooledServer:
        """The server as it was prepared for a run. Raises SessionUnknownError."""
        with self._lock:
            server = self._servers.get(session)
            if server is None:
                raise SessionUnknownError(
                    "the worker is no longer prepared for this run", transient=True, settled=True
                )
            self._servers.move_to_end(session)
            return server

    def _generate(self, server: PooledServer, work: _Work) -> Answer:
        call_id = work.request.call_id

        def on_step(
            step: int, steps: int, *, fraction: float | None = None, eta_s: float | None = None
        ) -> None:
            made = Step(call_id=call_id, step=step, steps=steps, fraction=fraction, eta_s=eta_s)
            self.announce(made)

        answer = server.generate_images(work.request, cancel=work.token, on_step=on_step)
        if answer.confirm is not None:
            answer.confirm()
        return Answer(
            images=tuple(image.data for image in answer.images),
            endpoint=answer.endpoint,
            info=answer.info,
        )


def _ignore(step: Step) -> None:
    del step
