"""Waits, before a request is repeated, until the server no longer works on the earlier one."""

from __future__ import annotations

from collections.abc import Sequence

from ....statemachine.errors import GenerationCancelled
from ....statemachine.run.cancel_token import CancelToken
from ....statemachine.run.requests import LONGEST_RETRY_WAIT_S
from ..http.errors import AnswerLostError, ServerStillBusyError, ServerUnavailableError
from .progress import MODEL_LOADING_FACTOR, ServerProgress, StallWatch
from .server import Server, TaskState

_LOOK_EVERY_S = 0.25
_IDLE_LOOKS = 2
"""One idle answer is not enough: a server seems idle before it starts an accepted job."""


def settle(
    server: Server, tasks: Sequence[str], *, extras: bool = False, cancel: CancelToken
) -> bool:
    """Wait until the server works on none of our requests whose answer was lost.

    ``tasks`` are their call ids; ``extras`` says that upscales are among them, which have no
    task id on the server. Requests without progress are interrupted; returns whether that was
    done. Raises GenerationCancelled, ServerStillBusyError, and ServerError if the server cannot
    be queried.
    """
    settlement = _Settlement(server, tasks, extras=extras)
    pause = min(_LOOK_EVERY_S, server.settings.stall_timeout_s / 4)
    while not settlement.done():
        if cancel.wait(max(pause, settlement.requested_wait_s)):
            why = "the run was cancelled while it waited for an earlier request"
            raise server.client.failure(GenerationCancelled, "", why)
    return settlement.interrupted


class _Settlement:
    """Watches a server that may still work on our earlier requests."""

    def __init__(self, server: Server, tasks: Sequence[str], *, extras: bool) -> None:
        self._server = server
        self._tasks = tasks
        self._extras = extras
        self._limit = server.settings.stall_timeout_s
        self._watch = StallWatch(self._limit, is_patient=extras)
        self._idle_looks = 0
        self._interrupt_sent = False
        self.interrupted = False
        self.requested_wait_s = 0.0

    def done(self) -> bool:
        """Query the server once; True if it works on none of our requests."""
        look = self._look()
        if look is None:
            tells = self._server.tells_progress
            over = not tells and not _any_open(self._server, self._tasks)
        else:
            self._watch.note(look)
            # An upscale has no task id. The state of the last job shows whether it was
            # interrupted after our process died.
            self.interrupted |= self._extras and look.interrupted
            self._idle_looks = self._idle_looks + 1 if look.idle else 0
            over = self._is_over(look)
        if over or (look is not None and look.idle):
            return over
        return self._stop(look)

    def _look(self) -> ServerProgress | None:
        """The progress of the server; None if it does not answer, within the stall limit."""
        self.requested_wait_s = 0.0
        try:
            return self._server.look_or_fail()
        except (AnswerLostError, ServerUnavailableError) as error:
            if self._watch.still_s > self._limit:
                raise
            self.requested_wait_s = min(error.retry_after_s or 0.0, LONGEST_RETRY_WAIT_S)
            return None

    def _is_over(self, look: ServerProgress) -> bool:
        if self._idle_looks >= _IDLE_LOOKS:
            return not self._waits()
        return not (look.idle or self._extras) and _all_ended(self._server, self._tasks)

    def _waits(self) -> bool:
        """Whether one of the tasks is queued and may still run.

        A server that loads a model seems idle, and a failed task stays in the queue, so this
        is believed only for a limited time.
        """
        if self._watch.still_s > self._limit * MODEL_LOADING_FACTOR:
            return False
        return any(self._server.task(task) is TaskState.QUEUED for task in self._tasks)

    def _stop(self, look: ServerProgress | None) -> bool:
        """Interrupt a job of ours that makes no progress; True if waiting is pointless."""
        if self._interrupt_sent and self._watch.still_s > self._limit:
            if self._extras and look is not None:
                return True  # the state after a failed upscale looks like a running one
            raise self._server.client.failure(
                ServerStillBusyError,
                "",
                "the server is still busy with an earlier request, without progress for another "
                f"{self._limit:g} s; check the server, then resume the run",
                interrupted=self.interrupted,
            )
        if not self._interrupt_sent and self._watch.stalled:
            self._interrupt_sent = True
            if any(self._server.may_interrupt(task) for task in self._tasks or (None,)):
                self.interrupted = True
                self._server.interrupt()
            self._watch.restart()
        return False


def _any_open(server: Server, tasks: Sequence[str]) -> bool:
    """Whether a server without a progress route reports one of these tasks as open."""
    return any(server.task(task) in (TaskState.ACTIVE, TaskState.QUEUED) for task in tasks)


def _all_ended(server: Server, tasks: Sequence[str]) -> bool:
    """Whether the server reports each of these tasks as completed.

    On a shared server an unknown task (it keeps the last 16) counts as completed, because the
    running job may belong to another client.
    """
    over = {TaskState.COMPLETED}
    if server.settings.shared:
        over.add(TaskState.UNKNOWN)
    return bool(tasks) and all(server.task(task) in over for task in tasks)
