"""One generating request from the moment it is sent until its answer is there, or given up."""

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
"""The server is first asked how far it is after this; quick answers come before."""
LOOK_EVERY_S = 0.5
LOOK_EVERY_SHARED_S = 0.2
"""Others may interrupt our job on a shared server, and the next job hides it."""
_INTERRUPT_EVERY_S = 0.3
_DEAF_S = 10.0
"""How long a cancelled run waits for a server that does not even answer the interrupt."""
_PAUSE_S = 0.05
"""How soon a cancel and a stall are noticed; an answer is noticed at once."""


class Attempt:
    """Sends one payload, watches the server meanwhile, and stops it where that is asked for.

    ``interrupted`` says afterwards whether the server was told to stop, and
    ``interrupted_by_others`` whether somebody else was seen to tell it; ``open`` whether it
    may still be working on the request.
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
        """Where the payload goes."""
        return self._payload.endpoint

    def run(self) -> bytes:
        """The answer's bytes.

        Raises ServerError; GenerationInterrupted where the run was cancelled and the server
        told to stop, GenerationCancelled where it could not be told.
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
                threading.Thread(target=self._keep_looking, daemon=True).start()
            why = self._what_takes_too_long(waited)
            if why is not None:
                return self._stop_for_stall(exchange, why)
        return None

    def _keep_looking(self) -> None:
        """Note and tell how far the server is; runs on a thread of its own."""
        settings = self._server.settings
        pause = LOOK_EVERY_SHARED_S if settings.shared else LOOK_EVERY_S
        pause = min(pause, settings.stall_timeout_s / 4)
        while not self._over.is_set() and self._server.tells_progress:
            ours = not settings.shared or self._is_active()
            look = self._server.look()
            if look is not None:
                self._watch.note(look)
                if ours:
                    self._tell(look)
                # The next job clears the flag, so that it may be gone when our answer is here.
                if settings.shared and ours and look.interrupted and self._is_active():
                    self.interrupted_by_others = True
            self._over.wait(pause)

    def _is_active(self) -> bool:
        """Whether the server says that it is our task that runs."""
        return self._task_id is not None and (self._server.task(self._task_id) is TaskState.ACTIVE)

    def _is_queued(self) -> bool:
        """Whether the server says that our task waits for somebody else's."""
        return self._task_id is not None and (self._server.task(self._task_id) is TaskState.QUEUED)

    def _tell(self, look: ServerProgress) -> None:
        """Steps are told where they are ours; extras take none."""
        if self._extras or look.idle or not look.steps or job_of(look) == self._others:
            return
        if not self._over.is_set():
            self._on_step(
                min(look.step, look.steps), look.steps, fraction=look.fraction, eta_s=look.eta_s
            )

    def _what_takes_too_long(self, waited: float) -> str | None:
        total = self._server.settings.total_timeout_s
        if total is not None and waited > total:
            return f"it has taken longer than total_timeout_s = {total:g} s"
        if self._watch.stalled:
            limit = f"{self._watch.limit_s:g} s"
            return f"its progress has stood still for {limit} (stall_timeout_s, see the manual)"
        return None

    def _stop_for_cancel(self, exchange: Exchange) -> None:
        """Interrupt until the request is answered; an answer that was on its way is kept."""
        began, heard = time.monotonic(), False
        patience = self._server.settings.stall_timeout_s
        while not exchange.done:
            if self._server.may_interrupt(self._task_id, self._others):
                self.interrupted = True
                heard = self._server.interrupt() or heard
            elif self._server.settings.shared or self._is_queued():
                raise GenerationCancelled(
                    f"{self._server.url}: left to finish by itself; only a running job that is "
                    "known to be ours is interrupted",
                    endpoint=self._payload.endpoint,
                )
            limit = patience if heard or not self.interrupted else min(patience, _DEAF_S)
            if not exchange.wait(_INTERRUPT_EVERY_S) and time.monotonic() - began > limit:
                self._leave(limit)
        if self.interrupted:
            raise GenerationInterrupted(
                f"{self._server.url}: stopped, because the run was cancelled",
                endpoint=self._payload.endpoint,
            )

    def _leave(self, limit: float) -> NoReturn:
        """The run was cancelled and the request is not answered: go without it."""
        where, endpoint = self._server.url, self._payload.endpoint
        if self.interrupted:
            raise GenerationInterrupted(
                f"{where}: told to stop, it has not done so within {limit:g} s", endpoint=endpoint
            )
        raise GenerationCancelled(
            f"{where}: left, because somebody else's job still runs before ours after {limit:g} s",
            endpoint=endpoint,
        )

    def _stop_for_stall(self, exchange: Exchange, why: str) -> None:
        """Interrupt until the request is answered or the server rests, for one more limit."""
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
                told = (
                    "told to stop," if self.interrupted else "left alone, as the job is not ours,"
                )
                raise ServerStillBusyError(
                    f"{where}: {why}, and {told} it has not come to rest within {limit:g} s more; "
                    "look after the server, then resume the run",
                    endpoint=self._payload.endpoint,
                )
        if self.interrupted or not exchange.done:
            told = "it was told to stop" if self.interrupted else "it has no job any more"
            raise ServerStalledError(f"{where}: {why}; {told}", endpoint=self._payload.endpoint)
        return None
