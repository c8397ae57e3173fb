"""One generating request, from the moment it is sent until its answer is believed or given up."""

from __future__ import annotations

import time
from typing import NoReturn

from ....statemachine.errors import BackendError, GenerationCancelled, GenerationInterrupted
from ....statemachine.ports import OnStep
from ....statemachine.run.cancel import CancelToken
from ..http.errors import (
    ServerInterruptedError,
    ServerStalledError,
    ServerStillBusyError,
    ServerUnavailableError,
    ServerUnreachableError,
)
from ..http.exchange import Exchange
from .features import EXTRA_SINGLE_IMAGE
from .payloads import Payload
from .progress import ServerProgress, StallWatch
from .server import Job, Server, TaskState, job_of

FIRST_LOOK_S = 0.3
"""The server is first asked how far it is after this; quick answers come before."""
LOOK_EVERY_S = 0.5
LOOK_EVERY_SHARED_S = 0.2
"""Others may interrupt our job on a shared server, and the next job hides it."""
_LOOK_AGAIN_S = 0.2
_INTERRUPT_EVERY_S = 0.3
_DEAF_S = 10.0
"""How long a cancelled run waits for a server that does not even answer the interrupt."""


class Call:
    """Sends one payload, watches the server meanwhile, and stops it where that is asked for.

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
        self._watch = StallWatch(server.settings.stall_timeout_s, extras=self._extras)
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

        Raises ServerError; GenerationInterrupted where the run was cancelled and the server
        told to stop, GenerationCancelled where it could not be told. The error's ``settled`` says
        whether the server is done with the request.
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
            raise self._cancelled_error(why, settled=True)
        try:
            exchange.send("POST", self._body)
            self._body = b""
            answer = client.not_empty(exchange.answer(), self._endpoint, settled=False)
        except (GenerationCancelled, ServerStalledError):
            raise  # by ``tick``
        except BackendError as error:
            self._refuse_stopped(settled=error.settled)
            raise
        self._refuse_stopped(settled=True)
        return answer

    def tick(self) -> None:
        """Stop the server, or see how far it is, if it is time to."""
        now = time.monotonic()
        if self._cancel.cancelled:
            self._stop_for_cancel()
        elif self._is_stalled(now):
            self._stop_for_stall()
        elif now >= self._next_look and self._server.tells_progress:
            self._look()

    def note_bytes(self, count: int) -> None:
        """Part of the request or its answer has gone over the line."""
        self._watch.note_bytes(count)

    def confirm(self, *, detailing: bool) -> None:
        """See that nobody else interrupted our job: its answer would look like any other.

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
                "another client interrupted or skipped the request; its image is half made",
                interrupted=True,
            )

    def _seen_afterwards(self) -> ServerProgress | None:
        """What the server does after the answer; None where it never says what it does."""
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
                    "it does not say whether another client interrupted the request",
                )
        return seen

    def _is_cancelled(self) -> bool:
        return self._cancel.cancelled

    def _is_over(self) -> bool:
        """Whether something is more urgent than how far the server is."""
        return self._cancel.cancelled or (self._exchange is not None and self._exchange.readable)

    def _look(self) -> None:
        """Note and tell how far the server is."""
        shared = self._server.settings.shared
        ours = not shared or self._is_task(TaskState.ACTIVE)
        look = self._server.look(self._is_over)
        if look is not None:
            self._watch.note(look)
            if ours:
                self._tell(look)
            # The next job clears the flag, so that it may be gone when our answer is here.
            if shared and ours and look.interrupted and self._is_task(TaskState.ACTIVE):
                self._interrupted_by_others = True
        pause = LOOK_EVERY_SHARED_S if shared else LOOK_EVERY_S
        self._next_look = time.monotonic() + min(pause, self._server.settings.stall_timeout_s / 4)

    def _is_task(self, state: TaskState) -> bool:
        """Whether the server says that our task is in this state."""
        return (
            self._task_id is not None and self._server.task(self._task_id, self._is_over) is state
        )

    def _tell(self, look: ServerProgress) -> None:
        """Steps are told where they are ours; extras take none."""
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
                self._why_stalled = f"it has taken longer than total_timeout_s = {total:g} s"
            elif self._watch.stalled:
                limit = f"{self._watch.limit_s:g} s"
                self._why_stalled = (
                    f"its progress has not changed for {limit} (stall_timeout_s, see the manual)"
                )
            self._stop_began = self._next_interrupt = now
        return self._why_stalled is not None

    def _stop_for_cancel(self) -> None:
        """Interrupt until the request is answered; an answer that was on its way is kept."""
        now = time.monotonic()
        if not self._is_cancelling:
            self._is_cancelling = True
            self._stop_began = self._next_interrupt = now
        settings = self._server.settings
        if now >= self._next_interrupt:
            if not self._interrupt_ours() and (settings.shared or self._is_queued()):
                raise self._cancelled_error(
                    "left to finish by itself; only a running job that is known to be ours is "
                    "interrupted"
                )
            self._next_interrupt = time.monotonic() + _INTERRUPT_EVERY_S
        patience = settings.stall_timeout_s
        limit = patience if self._is_heard or not self._interrupted else min(patience, _DEAF_S)
        if time.monotonic() - self._stop_began > limit:
            self._leave(limit)

    def _is_queued(self) -> bool:
        """Whether the server says that our task waits for another one."""
        return self._task_id is not None and (self._server.task(self._task_id) is TaskState.QUEUED)

    def _interrupt_ours(self) -> bool:
        """Interrupt the running job if it is ours; whether it is."""
        if not self._server.may_interrupt(self._task_id, self._others):
            return False
        self._interrupted = True
        self._is_heard = self._server.interrupt() or self._is_heard
        return True

    def _leave(self, limit: float) -> NoReturn:
        """The run was cancelled and the request is not answered: go without it."""
        if self._interrupted:
            raise self._interrupted_error(f"it did not stop within {limit:g} s of the interrupt")
        raise self._cancelled_error(
            f"left, because another client's job still runs before ours after {limit:g} s"
        )

    def _stop_for_stall(self) -> None:
        """Interrupt until the request is answered or the server rests, for one more limit."""
        if time.monotonic() < self._next_interrupt:
            return
        look = self._server.look(self._is_cancelled)
        if look is not None and look.idle:
            raise self._stalled_error(settled=False)
        self._interrupt_ours()
        limit = self._server.settings.stall_timeout_s
        self._next_interrupt = time.monotonic() + min(_INTERRUPT_EVERY_S, limit / 4)
        if time.monotonic() > self._stop_began + limit:
            what = "the interrupt" if self._interrupted else "that, and the job is not ours to stop"
            raise self._server.client.failure(
                ServerStillBusyError,
                self._endpoint,
                f"{self._why_stalled}, and it is still busy {limit:g} s after {what}; look after "
                "the server, then resume the run",
                interrupted=self._interrupted,
                settled=False,
            )

    def _refuse_stopped(self, *, settled: bool) -> None:
        """Raise the error of a request that was stopped, whatever came back for it."""
        if self._interrupted and self._is_cancelling:
            raise self._interrupted_error("stopped, because the run was cancelled", settled=settled)
        if self._interrupted:
            raise self._stalled_error(settled=settled)

    def _stalled_error(self, *, settled: bool) -> ServerStalledError:
        told = "it was interrupted" if self._interrupted else "it has no job any more"
        return self._server.client.failure(
            ServerStalledError,
            self._endpoint,
            f"{self._why_stalled}; {told}",
            interrupted=self._interrupted,
            settled=settled,
        )

    def _interrupted_error(self, why: str, *, settled: bool = False) -> GenerationInterrupted:
        return self._server.client.failure(
            GenerationInterrupted, self._endpoint, why, interrupted=True, settled=settled
        )

    def _cancelled_error(self, why: str, *, settled: bool = False) -> GenerationCancelled:
        return self._server.client.failure(
            GenerationCancelled, self._endpoint, why, interrupted=self._interrupted, settled=settled
        )
