"""One generating request: sends it, watches the progress, handles cancels and stalls, confirms."""

from __future__ import annotations

import time
from typing import NoReturn, TypeVar

from ....statemachine.errors import BackendError, GenerationCancelled, GenerationInterrupted
from ....statemachine.ports import OnStep
from ....statemachine.run.cancel_token import CancelToken
from ..http.errors import (
    ServerInterruptedError,
    ServerStalledError,
    ServerStillBusyError,
    ServerUnavailableError,
    ServerUnreachableError,
)
from ..http.exchange import Exchange
from .features import EXTRA_SINGLE_IMAGE
from .payload import Payload
from .progress import ServerProgress, StallWatch
from .server import Job, Server, TaskState, job_of

FIRST_LOOK_S = 0.3
"""The time of the first progress request; fast answers arrive earlier."""
LOOK_EVERY_S = 0.5
LOOK_EVERY_SHARED_S = 0.2
"""Shorter, because the next job of a shared server hides that ours was interrupted."""
_LOOK_AGAIN_S = 0.2
_INTERRUPT_EVERY_S = 0.3
_UNRESPONSIVE_S = 10.0
"""How long a cancelled run waits for a server that does not answer the interrupt."""

E = TypeVar("E", bound=BackendError)


class Call:
    """Sends one payload, watches the server's progress, and interrupts it on a cancel or stall.

    All of it happens on the thread that waits for the answer: while nothing arrives, the
    connection calls ``tick``, which looks at the cancel token, the limits and the server.
    """

    def __init__(
        self, server: Server, payload: Payload, call_id: str, cancel: CancelToken, on_step: OnStep
    ) -> None:
        self._server = server
        self._endpoint = payload.endpoint
        self._body = payload.encoded()
        self._task_id = call_id if "force_task_id" in payload.body else None
        self._cancel = cancel
        self._on_step = on_step
        self._extras = payload.endpoint == EXTRA_SINGLE_IMAGE
        self._watch = StallWatch(
            server.settings.stall_timeout_s, is_patient=self._extras or payload.loads_models
        )
        self._others: Job | None = None
        self._exchange: Exchange | None = None
        self._began = self._next_look = 0.0
        self._why_stalled: str | None = None
        self._is_cancelling = False
        self._stop_began = self._next_interrupt = 0.0
        self._is_heard = False
        self._interrupted = False
        self._interrupted_by_others = False

    def run(self, answer_limit: int) -> bytes:
        """The answer, of ``answer_limit`` bytes at most.

        Raises ServerError. If the run was cancelled, raises GenerationInterrupted if the server was
        interrupted, else GenerationCancelled. The error's ``settled`` says whether the server is
        done with the request.
        """
        self._others = self._server.job_of_others(self._is_cancelled)
        self._began = time.monotonic()
        settings = self._server.settings
        self._next_look = self._began + min(FIRST_LOOK_S, settings.stall_timeout_s)
        client = self._server.client
        self._exchange = exchange = Exchange(
            client, self._endpoint, self, limit=answer_limit, is_work=True
        )
        if self._cancel.cancelled:
            exchange.close()
            why = "nothing was sent, because the run was cancelled"
            raise self._failure(GenerationCancelled, why, settled=True)
        try:
            exchange.send("POST", self._body)
            self._body = b""
            answer = client.not_empty(exchange.answer(), self._endpoint, settled=False)
            self._server.has_worked = True
        except (GenerationCancelled, ServerStalledError):
            raise  # by ``tick``
        except BackendError as error:
            self._refuse_stopped(settled=error.settled)
            raise
        self._refuse_stopped(settled=True)
        return answer

    def tick(self) -> None:
        """Interrupt the server, or ask for its progress, if it is time to."""
        now = time.monotonic()
        if self._cancel.cancelled:
            self._stop_for_cancel()
        elif self._is_stalled(now):
            self._stop_for_stall()
        elif now >= self._next_look and self._server.tells_progress:
            self._look()

    def note_bytes(self, count: int) -> None:
        """Note transferred bytes of the request or its answer."""
        self._watch.note_bytes(count)

    def confirm(self, *, detailing: bool) -> None:
        """Check that no other client interrupted our job, which the answer does not show.

        ``begin_look`` of the server comes before. The server's state is the only evidence, so it
        is asked until it answers. Raises ServerInterruptedError, and ServerUnavailableError where
        it does not within the stall limit; a server that is gone since has answered for itself.
        """
        try:
            seen = self._seen_afterwards()
        except ServerUnreachableError:
            return
        if self._interrupted_by_others or (
            seen is not None and (seen.interrupted or (detailing and seen.stopping))
        ):
            raise self._server.client.failure(
                ServerInterruptedError,
                self._endpoint,
                "another client interrupted or skipped the request, so its image is incomplete",
                interrupted=True,
            )

    def _seen_afterwards(self) -> ServerProgress | None:
        """The progress after the answer; None if the server has no progress route."""
        server = self._server
        seen = server.end_look()
        deadline = time.monotonic() + server.settings.stall_timeout_s
        while seen is None and server.tells_progress:
            try:
                seen = server.look_or_fail()
            except ServerUnreachableError:
                raise
            except BackendError:
                pass
            if seen is None and (time.monotonic() > deadline or self._cancel.wait(_LOOK_AGAIN_S)):
                raise server.client.failure(
                    ServerUnavailableError,
                    self._endpoint,
                    "the server does not report whether another client interrupted the request",
                )
        return seen

    def _is_cancelled(self) -> bool:
        return self._cancel.cancelled

    def _is_over(self) -> bool:
        """Whether something is more urgent than the progress."""
        return self._cancel.cancelled or (self._exchange is not None and self._exchange.readable)

    def _look(self) -> None:
        """Note and report the progress."""
        shared = self._server.settings.shared
        ours = not shared or self._is_task(TaskState.ACTIVE)
        look = self._server.look(self._is_over)
        if look is not None:
            self._watch.note(look)
            if ours:
                self._report_step(look)
            # The next job clears the flag, possibly before our answer has arrived.
            if shared and ours and look.interrupted and self._is_task(TaskState.ACTIVE):
                self._interrupted_by_others = True
        pause = LOOK_EVERY_SHARED_S if shared else LOOK_EVERY_S
        self._next_look = time.monotonic() + min(pause, self._server.settings.stall_timeout_s / 4)

    def _is_task(self, state: TaskState) -> bool:
        """Whether the server reports our task in this state."""
        return (
            self._task_id is not None and self._server.task(self._task_id, self._is_over) is state
        )

    def _report_step(self, look: ServerProgress) -> None:
        """Report the step if the job is ours; extras have no steps."""
        if self._extras or look.idle or not look.steps or job_of(look) == self._others:
            return
        self._on_step(
            min(look.step, look.steps), look.steps, fraction=look.fraction, eta_s=look.eta_s
        )

    def _is_stalled(self, now: float) -> bool:
        """Whether the request takes too long; once it does, it stays so."""
        if self._why_stalled is None:
            total = self._server.settings.total_timeout_s
            if total is not None and now - self._began > total:
                self._why_stalled = (
                    f"the request took longer than server.total_timeout_s = {total:g} s"
                )
            elif self._watch.stalled:
                limit = f"{self._watch.limit_s:g} s"
                self._why_stalled = f"no progress for {limit} (server.stall_timeout_s)"
            self._stop_began = self._next_interrupt = now
        return self._why_stalled is not None

    def _stop_for_cancel(self) -> None:
        """Interrupt until the request is answered; an answer that arrives anyway is kept."""
        now = time.monotonic()
        if not self._is_cancelling:
            self._is_cancelling = True
            self._stop_began = self._next_interrupt = now
        settings = self._server.settings
        if now >= self._next_interrupt:
            if not self._interrupt_ours() and (settings.shared or self._is_queued()):
                raise self._failure(
                    GenerationCancelled,
                    "the request was not interrupted and finishes by itself, because the running "
                    "job is not known to be ours",
                )
            self._next_interrupt = time.monotonic() + _INTERRUPT_EVERY_S
        patience = settings.stall_timeout_s
        limit = (
            patience if self._is_heard or not self._interrupted else min(patience, _UNRESPONSIVE_S)
        )
        if time.monotonic() - self._stop_began > limit:
            self._leave(limit)

    def _is_queued(self) -> bool:
        """Whether the server reports our task as queued."""
        return self._task_id is not None and (self._server.task(self._task_id) is TaskState.QUEUED)

    def _interrupt_ours(self) -> bool:
        """Interrupt the running job if it is ours; whether it is."""
        if not self._server.may_interrupt(self._task_id, self._others):
            return False
        self._interrupted = True
        self._is_heard = self._server.interrupt() or self._is_heard
        return True

    def _leave(self, limit: float) -> NoReturn:
        """Give up waiting for the answer of a cancelled run."""
        if self._interrupted:
            raise self._failure(
                GenerationInterrupted,
                f"the server did not stop within {limit:g} s of the interrupt",
            )
        raise self._failure(
            GenerationCancelled,
            f"gave up after {limit:g} s, because a job of another client is still running",
        )

    def _stop_for_stall(self) -> None:
        """Interrupt until the request is answered or the server is idle, for one more limit."""
        if time.monotonic() < self._next_interrupt:
            return
        look = self._server.look(self._is_cancelled)
        if look is not None and look.idle:
            raise self._stalled_error(settled=False)
        is_first = not self._interrupted
        if self._interrupt_ours() and is_first:
            # A server that is silent has taken its time until here.
            self._stop_began = time.monotonic()
        limit = self._server.settings.stall_timeout_s
        self._next_interrupt = time.monotonic() + min(_INTERRUPT_EVERY_S, limit / 4)
        if time.monotonic() > self._stop_began + limit:
            done = "after the interrupt" if self._interrupted else "with a job of another client"
            raise self._failure(
                ServerStillBusyError,
                f"{self._why_stalled}; the server was still busy {done} for another {limit:g} s; "
                "check the server, then resume the run",
            )

    def _refuse_stopped(self, *, settled: bool) -> None:
        """Raise the error of an interrupted request, whatever came back for it."""
        if self._interrupted and self._is_cancelling:
            raise self._failure(
                GenerationInterrupted, "interrupted, because the run was cancelled", settled=settled
            )
        if self._interrupted:
            raise self._stalled_error(settled=settled)

    def _stalled_error(self, *, settled: bool) -> ServerStalledError:
        state = "it was interrupted" if self._interrupted else "the server is idle now"
        return self._failure(ServerStalledError, f"{self._why_stalled}; {state}", settled=settled)

    def _failure(self, kind: type[E], why: str, *, settled: bool = False) -> E:
        return self._server.client.failure(
            kind, self._endpoint, why, interrupted=self._interrupted, settled=settled
        )
