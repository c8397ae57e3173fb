"""Queries a server's progress and tasks, and interrupts it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

from ....statemachine.errors import BackendError
from ..http.client import Deadline, HttpClient
from ..http.errors import RequestRefusedError, RouteMissingError, ServerUnavailableError
from ..http.exchange import Exchange
from .features import INTERNAL_PROGRESS, INTERRUPT, PROGRESS
from .lists import OPTIONS
from .progress import ServerProgress, progress_of

LOOK_TIMEOUT_S = 2.0
"""The time limit of one progress request; a server with many queued requests answers none."""
_NO_SUCH_ROUTE = frozenset([403, 404, 405])
_FRESH_S = 1.0
"""For how long a server that was idle is assumed to be idle."""

Job = tuple[str, str]
"""Identifies a job of a server: its name and start time."""
Abandon = Callable[[], bool]
"""Whether an answer that is waited for has become of no use."""

T = TypeVar("T")


_logger = logging.getLogger("stagewright.webui")


def is_not_ready(error: BackendError) -> bool:
    """Whether a server answers so as long as it is starting: itself, or the proxy before it."""
    if isinstance(error, ServerUnavailableError):
        return error.status == 503 and not error.retry_after_s
    return isinstance(error, RouteMissingError)


def job_of(look: ServerProgress) -> Job:
    """The job in an answer of the progress route."""
    return look.job, look.job_timestamp


class TaskState(Enum):
    """The state that a server reports for one of our tasks."""

    ACTIVE = "active"
    QUEUED = "queued"
    COMPLETED = "completed"
    UNKNOWN = "unknown"


class Server:
    """The state of one server, apart from its generating requests; used by one thread at a time.

    ``has_worked`` says that it has answered a generating request, ``tells_progress`` that it has a
    progress route.
    """

    def __init__(self, client: HttpClient) -> None:
        self.client = client
        self.settings = client.settings
        self.tells_progress = True
        self._tells_tasks = True
        self.has_worked = False
        self._asked: Exchange | None = None
        self._rested: float | None = None
        self.last_look: ServerProgress | None = None
        self._timeout_s = min(LOOK_TIMEOUT_S, max(0.25, self.settings.stall_timeout_s / 2))

    def close(self) -> None:
        """Close idle connections; it can be used again afterwards."""
        self.drop_look()
        self.client.close()

    @property
    def url(self) -> str:
        """The base address of the server."""
        return self.client.address.url

    def look(self, abandon: Abandon | None = None) -> ServerProgress | None:
        """The progress; None if the server does not report it, or does not answer."""
        return self._or_none(lambda: self.look_or_fail(abandon))

    def look_or_fail(self, abandon: Abandon | None = None) -> ServerProgress | None:
        """The progress; None if the server has no progress route. Raises ServerError."""
        if not self.tells_progress:
            return None
        return self._seen(
            lambda: self.client.get(PROGRESS, timeout_s=self._timeout_s, abandon=abandon)
        )

    def is_starting(self) -> bool:
        """Whether the server cannot be reached, or lacks the routes that every WebUI has."""
        for path in (OPTIONS, PROGRESS):
            try:
                self.client.get(path, timeout_s=self._timeout_s)
            except BackendError as error:
                if error.is_out_of_reach:
                    return True
                if is_not_ready(error):
                    continue
            return False
        return True

    def begin_look(self) -> None:
        """Ask how far it is; ``end_look`` waits for the answer."""
        self.drop_look()
        if self.tells_progress:
            self._asked = self._or_none(self._ask)

    def end_look(self) -> ServerProgress | None:
        """The answer to ``begin_look``; None where there is none, or not now."""
        asked, self._asked = self._asked, None
        if asked is None:
            return None
        asked.patience = Deadline(self._timeout_s)  # Its time begins when it is waited for.
        return self._or_none(lambda: self._seen(lambda: self.client.json_answer(asked, PROGRESS)))

    def drop_look(self) -> None:
        """Forget what ``begin_look`` asked."""
        if self._asked is not None:
            self._asked.close()
            self._asked = None

    def _ask(self) -> Exchange:
        exchange = Exchange(self.client, PROGRESS, Deadline(self._timeout_s))
        exchange.send("GET")
        return exchange

    def _seen(self, read: Callable[[], Any]) -> ServerProgress | None:
        try:
            look = progress_of(read())
        except RequestRefusedError as error:
            if error.status not in _NO_SUCH_ROUTE or self._may_be_starting(error):
                raise
            _logger.warning("the progress cannot be shown: %s", error)
            self.tells_progress = False
            return None
        self._rested = time.monotonic() if look.idle else None
        self.last_look = look
        return look

    def _may_be_starting(self, error: BackendError) -> bool:
        """Whether the route is missing only because the server is starting."""
        has_no_progress = self.has_worked and self.last_look is None
        return is_not_ready(error) and not has_no_progress and self.is_starting()

    def _or_none(self, ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except BackendError as error:
            _logger.debug("no progress: %s", error)
            return None

    def job_of_others(self, abandon: Abandon | None = None) -> Job | None:
        """The job that runs before our request is sent; None if the server is idle."""
        if self._rested is not None and time.monotonic() - self._rested < _FRESH_S:
            return None
        look = self.look(abandon)
        return None if look is None or look.idle else job_of(look)

    def task(self, call_id: str, abandon: Abandon | None = None) -> TaskState | None:
        """The state of the task with this id; None if the server does not report it."""
        if not self._tells_tasks:
            return None
        asked: dict[str, Any] = {"id_task": call_id, "id_live_preview": -1, "live_preview": False}
        try:
            answer = self.client.post(
                INTERNAL_PROGRESS, asked, timeout_s=self._timeout_s, abandon=abandon
            )
        except BackendError as error:
            _logger.debug("no task state: %s", error)
            if isinstance(error, RequestRefusedError) and error.status in _NO_SUCH_ROUTE:
                self._tells_tasks = False  # The server runs without its user interface.
            return None
        if not isinstance(answer, dict):
            return None
        for state in (TaskState.ACTIVE, TaskState.QUEUED, TaskState.COMPLETED):
            if answer.get(state.value) is True:
                return state
        return TaskState.UNKNOWN

    def may_interrupt(self, call_id: str | None, others: Job | None = None) -> bool:
        """Whether the job that runs now is ours to stop.

        ``call_id`` is the id of the task that we wait for, None if it was sent without one.
        Where the server does not say whose job it is, it is ours unless others use the server,
        or it is the job of ``others``, which ran before anything was sent.
        """
        state = None if call_id is None else self.task(call_id)
        if state is not None:
            return state is TaskState.ACTIVE
        if self.settings.shared:
            return False
        if others is None:
            return True
        look = self.look()
        return look is not None and job_of(look) != others

    def interrupt(self) -> bool:
        """Interrupt the running job; True if the server answered. Never raises."""
        try:
            self.client.post(INTERRUPT, {}, timeout_s=self._timeout_s)
        except BackendError as error:
            _logger.warning("interrupt: %s", error)
            return False
        return True
