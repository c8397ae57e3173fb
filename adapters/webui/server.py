"""What a server does now, whose task it is, and how it is told to stop."""

from __future__ import annotations

import logging
from enum import Enum
from typing import Any

from ...statemachine.config import ServerTable
from ...statemachine.errors import BackendError
from .client import WebUIClient
from .errors import RequestRefusedError
from .features import INTERNAL_PROGRESS, INTERRUPT, PROGRESS
from .progress import ServerProgress, progress_of

LOOK_TIMEOUT_S = 2.0
"""How long one look may take; with many requests waiting a server answers none at all."""

_logger = logging.getLogger("stagewright.webui")


class TaskState(Enum):
    """What a server says of one of our tasks."""

    ACTIVE = "active"
    QUEUED = "queued"
    COMPLETED = "completed"
    UNKNOWN = "unknown"


class Server:
    """One server beside its generating requests. Safe from any thread."""

    def __init__(self, client: WebUIClient, settings: ServerTable) -> None:
        self.client = client
        self.settings = settings
        self._tells_progress = True
        self._tells_tasks = True

    @property
    def url(self) -> str:
        """Its base address."""
        return self.client.address.url

    @property
    def tells_progress(self) -> bool:
        """Whether it can be asked how far it is."""
        return self._tells_progress

    def look(self) -> ServerProgress | None:
        """How far it is; None where it does not say, or not now."""
        try:
            return self.look_or_fail()
        except BackendError as error:
            _logger.debug("no progress: %s", error)
            return None

    def look_or_fail(self) -> ServerProgress | None:
        """How far it is; None where it never says. Raises ServerError."""
        if not self._tells_progress:
            return None
        try:
            return progress_of(self.client.get(PROGRESS, timeout_s=LOOK_TIMEOUT_S))
        except RequestRefusedError as error:
            _logger.warning("progress cannot be watched: %s", error)
            self._tells_progress = False
            return None

    def task(self, call_id: str) -> TaskState | None:
        """What it says of the task with this id; None where it keeps no tasks, or says nothing."""
        if not self._tells_tasks:
            return None
        asked: dict[str, Any] = {"id_task": call_id, "id_live_preview": -1, "live_preview": False}
        try:
            told = self.client.post(INTERNAL_PROGRESS, asked, timeout_s=LOOK_TIMEOUT_S)
        except RequestRefusedError:
            self._tells_tasks = False  # It runs without its user interface.
            return None
        except BackendError as error:
            _logger.debug("no task state: %s", error)
            return None
        if not isinstance(told, dict):
            return None
        for state in (TaskState.ACTIVE, TaskState.QUEUED, TaskState.COMPLETED):
            if told.get(state.value) is True:
                return state
        return TaskState.UNKNOWN

    def may_interrupt(self, call_id: str | None) -> bool:
        """Whether the job that runs now is ours to stop.

        ``call_id`` is the id of the task that we wait for, None if it was sent without one.
        Where the server does not say whose job it is, it is ours unless others use the server.
        """
        state = None if call_id is None else self.task(call_id)
        if state is None or state is TaskState.UNKNOWN:
            return not self.settings.shared
        return state is TaskState.ACTIVE

    def interrupt(self) -> None:
        """Tell it to stop the job that runs now; it may not hear. Never raises."""
        try:
            self.client.post(INTERRUPT, {}, timeout_s=LOOK_TIMEOUT_S)
        except BackendError as error:
            _logger.warning("interrupt: %s", error)
