"""Before a request is sent again: whether a server still works on it."""

from __future__ import annotations

from collections.abc import Sequence

from ...statemachine.cancel import CancelToken
from ...statemachine.errors import GenerationCancelled
from .errors import ServerStillBusyError
from .progress import StallWatch
from .server import Server, TaskState

_LOOK_EVERY_S = 0.25
_IDLE_LOOKS = 2
"""Between accepting a request and beginning its job a server looks idle for a moment."""


def settle(
    server: Server, call_ids: Sequence[str], *, cancel: CancelToken, extras: bool = False
) -> bool:
    """Wait until none of these requests, whose answers nobody got, is being worked on.

    Whether one of them was interrupted, which is done when it stands still for too long.
    ``extras`` requests are no tasks that could be asked for. Raises GenerationCancelled,
    ServerStillBusyError, and ServerError where the server cannot be asked.
    """
    limit = server.settings.stall_timeout_s
    watch = StallWatch(limit, extras=extras)
    tasks = () if extras else tuple(call_ids)
    idle_looks = 0
    interrupted = told = False
    while True:
        look = server.look_or_fail()
        if look is None:
            if not _any_open(server, tasks):
                return interrupted
        else:
            watch.note(look)
            idle_looks = idle_looks + 1 if look.idle else 0
            if idle_looks >= _IDLE_LOOKS or (not look.idle and _all_ended(server, tasks)):
                return interrupted
        if watch.stalled and not (look and look.idle):
            if told:
                raise ServerStillBusyError(
                    f"{server.url}: it still works on an earlier request, and its progress has "
                    f"stood still for {watch.limit_s:g} s twice; look after the server, then "
                    "resume the run",
                    interrupted=interrupted,
                )
            told = True
            if any(server.may_interrupt(task) for task in tasks or (None,)):
                interrupted = True
                server.interrupt()
            watch.note_bytes()
        if cancel.wait(min(_LOOK_EVERY_S, limit / 4)):
            raise GenerationCancelled(f"{server.url}: the run was cancelled while it waited")


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
