"""One attempt at a generating request: sends it, watches progress, handles cancels and stalls."""

from __future__ import annotations

import threading
import time
from typing import NoReturn

from ....statemachine.errors import GenerationCancelled, GenerationInterrupted
from ....statemachine.ports import OnStep
from ....statemachine.run.cancel import CancelToken
from .errors import ServerStalledError, ServerStillBusyError
from .exchange import Exchange
from .features import EXTRA_SINGLE_IMAGE
from .payloads import Payload
from .progress import ServerProgress, StallWatch
from .server import Job, Server, TaskState, job_of

FIRST_LOOK_S = 0.3
"""The time of the first progress request; fast answers arrive earlier."""
LOOK_EVERY_S = 0.5
LOOK_EVERY_SHARED_S = 0.2
"""Shorter, because the next job of a shared server hides that ours was interrupted."""
_INTERRUPT_EVERY_S = 0.3
_UNRESPONSIVE_S = 10.0
"""How long a cancelled run waits for a server that does not answer the interrupt."""
_PAUSE_S = 0.05
"""The interval of checks for a cancel or stall; an answer is noticed at once."""


class Attempt:
    """Sends one payload, watches the server's progress, and interrupts it on a cancel or stall.

    Afterwards ``interrupted`` says whether this attempt interrupted the server,
    ``interrupted_by_others`` whether another client did, and ``open`` whether the server may
    still be working on the request.
    """

    def __init__(
        self,
        server: Server,
        payload: Payload,
        call_id: str,
        cancel: CancelToken,
        on_step: OnStep,
        *,
        answer_limit: int,
    ) -> None:
        self._server = server
        self._payload = payload
        self._task_id = call_id if "force_task_id" in payload.body else None
        self._cancel = cancel
        self._on_step = on_step
        self._extras = payload.endpoint == EXTRA_SINGLE_IMAGE
        self._watch = StallWatch(server.settings.stall_timeout_s, extras=self._extras)
        self._over = threading.Event()
        self._answer_limit = answer_limit
        self._others: Job | None = None
        self.interrupted = False
        self.interrupted_by_others = False
        self.open = False

    @property
    def endpoint(self) -> str:
        """The route of the request."""
        return self._payload.endpoint

    def run(self) -> bytes:
        """Send the request and return the bytes of the answer.

        Raises ServerError. If the run was cancelled, raises GenerationInterrupted where the
        server was interrupted, otherwise GenerationCancelled.
        """
        endpoint, body = self._payload.endpoint, self._payload.encoded()
        self._others = self._server.job_of_others()
        if self._cancel.cancelled:
            raise GenerationCancelled(
                f"{self._server.url}: nothing was sent, because the run was cancelled",
                endpoint=endpoint,
            )
        began = time.monotonic()
        exchange = Exchange(
            self._server.client, endpoint, body, self._answer_limit, self._watch.note_bytes
        )
        del body
        self._server.begin(exchange)
        try:
            self._wait(exchange, began)
            return exchange.answer()
        finally:
            self._over.set()
            self.open = not exchange.done or exchange.lost
            if not exchange.done:
                self._server.give_up(exchange)

    def _wait(self, exchange: Exchange, began: float) -> None:
        looking = False
        while not exchange.wait(_PAUSE_S):
            waited = time.monotonic() - began
            if self._cancel.cancelled:
                return self._stop_for_cancel(exchange)
            if not looking and waited > min(FIRST_LOOK_S, self._server.settings.stall_timeout_s):
                looking = True
                threading.Thread(target=self._poll_progress, daemon=True).start()
            why = self._timeout_reason(waited)
            if why is not None:
                return self._stop_for_stall(exchange, why)
        return None

    def _poll_progress(self) -> None:
        """Poll the progress until the attempt is over; runs on its own thread."""
        settings = self._server.settings
        pause = LOOK_EVERY_SHARED_S if settings.shared else LOOK_EVERY_S
        pause = min(pause, settings.stall_timeout_s / 4)
        while not self._over.is_set() and self._server.tells_progress:
            ours = not settings.shared or self._is_active()
            look = self._server.look()
            if look is not None:
                self._watch.note(look)
                if ours:
                    self._report_step(look)
                # The next job clears the flag, possibly before our answer has arrived.
                if settings.shared and ours and look.interrupted and self._is_active():
                    self.interrupted_by_others = True
            self._over.wait(pause)

    def _is_active(self) -> bool:
        """Whether the server reports our task as running."""
        return self._task_id is not None and (self._server.task(self._task_id) is TaskState.ACTIVE)

    def _is_queued(self) -> bool:
        """Whether the server reports our task as queued."""
        return self._task_id is not None and (self._server.task(self._task_id) is TaskState.QUEUED)

    def _report_step(self, look: ServerProgress) -> None:
        """Report the step if the job is ours; extras have no steps."""
        if self._extras or look.idle or not look.steps or job_of(look) == self._others:
            return
        if not self._over.is_set():
            self._on_step(
                min(look.step, look.steps), look.steps, fraction=look.fraction, eta_s=look.eta_s
            )

    def _timeout_reason(self, waited: float) -> str | None:
        total = self._server.settings.total_timeout_s
        if total is not None and waited > total:
            return f"the request took longer than server.total_timeout_s = {total:g} s"
        if self._watch.stalled:
            limit = f"{self._watch.limit_s:g} s"
            return f"no progress for {limit} (server.stall_timeout_s)"
        return None

    def _stop_for_cancel(self, exchange: Exchange) -> None:
        """Interrupt until the request is answered; an answer that arrives anyway is kept."""
        began, heard = time.monotonic(), False
        patience = self._server.settings.stall_timeout_s
        while not exchange.done:
            if self._server.may_interrupt(self._task_id, self._others):
                self.interrupted = True
                heard = self._server.interrupt() or heard
            elif self._server.settings.shared or self._is_queued():
                raise GenerationCancelled(
                    f"{self._server.url}: the request was not interrupted and finishes by itself, "
                    "because the running job is not known to be ours",
                    endpoint=self._payload.endpoint,
                )
            limit = patience if heard or not self.interrupted else min(patience, _UNRESPONSIVE_S)
            if not exchange.wait(_INTERRUPT_EVERY_S) and time.monotonic() - began > limit:
                self._leave(limit)
        if self.interrupted:
            raise GenerationInterrupted(
                f"{self._server.url}: interrupted, because the run was cancelled",
                endpoint=self._payload.endpoint,
            )

    def _leave(self, limit: float) -> NoReturn:
        """Give up waiting for the answer of a cancelled run."""
        where, endpoint = self._server.url, self._payload.endpoint
        if self.interrupted:
            raise GenerationInterrupted(
                f"{where}: the server did not stop within {limit:g} s of the interrupt",
                endpoint=endpoint,
            )
        raise GenerationCancelled(
            f"{where}: gave up after {limit:g} s, because a job of another client is still running",
            endpoint=endpoint,
        )

    def _stop_for_stall(self, exchange: Exchange, why: str) -> None:
        """Interrupt until the request is answered or the server is idle, for one more limit."""
        where = f"{self._server.url}{self._payload.endpoint}"
        limit = self._server.settings.stall_timeout_s
        deadline = time.monotonic() + limit
        while not exchange.done:
            if self._cancel.cancelled:
                return self._stop_for_cancel(exchange)
            look = self._server.look()
            if look is not None and look.idle:
                break
            if self._server.may_interrupt(self._task_id, self._others):
                self.interrupted = True
                self._server.interrupt()
            pause = min(_INTERRUPT_EVERY_S, limit / 4)
            if not exchange.wait(pause) and time.monotonic() > deadline:
                done = "after the interrupt" if self.interrupted else "with a job of another client"
                raise ServerStillBusyError(
                    f"{where}: {why}; the server was still busy {done} for another {limit:g} s; "
                    "check the server, then resume the run",
                    endpoint=self._payload.endpoint,
                )
        if self.interrupted or not exchange.done:
            state = "it was interrupted" if self.interrupted else "the server is idle now"
            raise ServerStalledError(f"{where}: {why}; {state}", endpoint=self._payload.endpoint)
        return None
