"""Before a request is sent again: whether a server still works on it."""

from __future__ import annotations

from collections.abc import Sequence

from ....statemachine.errors import GenerationCancelled
from ....statemachine.run.cancel import CancelToken
from ....statemachine.run.requests import LONGEST_RETRY_WAIT_S
from ..http.errors import AnswerLostError, ServerStillBusyError, ServerUnavailableError
from .progress import MODEL_LOADING_FACTOR, ServerProgress, StallWatch
from .server import Server, TaskState

_LOOK_EVERY_S = 0.25
_IDLE_LOOKS = 2
"""Between accepting a request and beginning its job a server looks idle for a moment."""


def settle(
    server: Server, tasks: Sequence[str], *, extras: bool = False, cancel: CancelToken
) -> bool:
    """Wait until no request of ours, whose answer nobody got, is being worked on.

    ``tasks`` are their call ids; ``extras`` says that there are upscales among them, which
    are no tasks that could be asked for. Whether one was interrupted, which is done when it
    stands still for too long. Raises GenerationCancelled, ServerStillBusyError, and
    ServerError where the server cannot be asked.
    """
    settlement = _Settling(server, tasks, extras=extras)
    pause = min(_LOOK_EVERY_S, server.settings.stall_timeout_s / 4)
    while not settlement.done():
        if cancel.wait(max(pause, settlement.asked_wait_s)):
            why = "the run was cancelled while it waited for an earlier request"
            raise server.client.failure(GenerationCancelled, "", why)
    return settlement.interrupted


class _Settling:
    """What has been seen so far of a server that may be at work for us."""

    def __init__(self, server: Server, tasks: Sequence[str], *, extras: bool) -> None:
        self._server = server
        self._tasks = tasks
        self._extras = extras
        self._limit = server.settings.stall_timeout_s
        self._watch = StallWatch(self._limit, extras=extras)
        self._idle_looks = 0
        self._told = False
        self.interrupted = False
        self.asked_wait_s = 0.0

    def done(self) -> bool:
        """Look once; whether nothing of ours is being worked on."""
        look = self._look()
        if look is None:
            tells = self._server.tells_progress
            over = not tells and not _any_open(self._server, self._tasks)
        else:
            self._watch.note(look)
            # An upscale is no task that could be asked for; what the server says of its last
            # job tells whether somebody stopped it after our process had died.
            self.interrupted |= self._extras and look.interrupted
            self._idle_looks = self._idle_looks + 1 if look.idle else 0
            over = self._is_over(look)
        if over or (look is not None and look.idle):
            return over
        return self._stop(look)

    def _look(self) -> ServerProgress | None:
        """A look at the server; None while it does not answer, within the stall limit."""
        self.asked_wait_s = 0.0
        try:
            return self._server.look_or_fail()
        except (AnswerLostError, ServerUnavailableError) as error:
            if self._watch.still_s > self._limit:
                raise
            self.asked_wait_s = min(error.retry_after_s or 0.0, LONGEST_RETRY_WAIT_S)
            return None

    def _is_over(self, look: ServerProgress) -> bool:
        if self._idle_looks >= _IDLE_LOOKS:
            return not self._waits()
        return not (look.idle or self._extras) and _all_ended(self._server, self._tasks)

    def _waits(self) -> bool:
        """Whether one of them stands in the server's queue, and may come to its turn yet.

        A server that changes models by itself looks idle; one whose task failed keeps it in
        its queue for ever.
        """
        if self._watch.still_s > self._limit * MODEL_LOADING_FACTOR:
            return False
        return any(self._server.task(task) is TaskState.QUEUED for task in self._tasks)

    def _stop(self, look: ServerProgress | None) -> bool:
        """Interrupt what stands still, if it is ours; whether there is no use in waiting."""
        if self._told and self._watch.still_s > self._limit:
            if self._extras and look is not None:
                return True  # What a failed upscale left looks like one that runs.
            raise self._server.client.failure(
                ServerStillBusyError,
                "",
                "it still works on an earlier request, and its progress has not changed for "
                f"{self._limit:g} s once more; look after the server, then resume the run",
                interrupted=self.interrupted,
            )
        if not self._told and self._watch.stalled:
            self._told = True
            if any(self._server.may_interrupt(task) for task in self._tasks or (None,)):
                self.interrupted = True
                self._server.interrupt()
            self._watch.restart()
        return False


def _any_open(server: Server, tasks: Sequence[str]) -> bool:
    """Whether a server that tells no progress says that it has one of these tasks still."""
    return any(server.task(task) in (TaskState.ACTIVE, TaskState.QUEUED) for task in tasks)


def _all_ended(server: Server, tasks: Sequence[str]) -> bool:
    """Whether the server says of each of these tasks that it is over.

    On a shared server one that it does not know (it keeps the last 16) is over as well, for
    the job that runs may be anybody's.
    """
    over = {TaskState.COMPLETED}
    if server.settings.shared:
        over.add(TaskState.UNKNOWN)
    return bool(tasks) and all(server.task(task) in over for task in tasks)
