"""One worker of a farm, as a backend of its own."""

from __future__ import annotations

import time
from collections.abc import Callable

from ....events.model import BackendDescription
from ....statemachine.errors import GenerationCancelled
from ....statemachine.ports import GenerateAnswer, GeneratedImage, GenerateRequest, OnStep
from ....statemachine.run.cancel import CancelToken
from .connection import FarmConnection, RequestTask, WorkerEntry
from .errors import WorkerLostError
from .messages import CANCEL, Answer, decode_outcome, encode_task
from .server_sessions import SessionUnknownError

_LOOK_S = 0.1
_CANCEL_S = 10.0
"""How long a worker that was told to stop is waited for."""


class FarmMember:
    """Sends requests to one worker, which serves one at a time.

    ``on_lost`` is called when the worker is gone, or is not prepared for the run any more.
    """

    def __init__(
        self,
        entry: WorkerEntry,
        description: BackendDescription,
        connection: FarmConnection,
        session: str,
        on_lost: Callable[[FarmMember], None],
    ) -> None:
        self.entry = entry
        self.is_present = True
        self.loaded: str | None = None
        self._description = description
        self._connection = connection
        self._session = session
        self._on_lost = on_lost

    @property
    def slots(self) -> int:
        """One: a server serves one request at a time."""
        return 1

    @property
    def description(self) -> BackendDescription:
        """That of the worker's server; ``url`` is the worker's name."""
        return self._description

    def generate_images(
        self, request: GenerateRequest, *, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        """Make one attempt at one request on the worker's server; see ``ImageBackend``.

        Raises WorkerLostError, SchedulerLostError, and what its server's backend raises.
        """
        if not self.is_present:
            raise self._lost("it has left the farm", settled=True)
        with self._connection.steps_of(request.call_id, on_step):
            message = encode_task(self._session, request)
            task = self._connection.submit(self.entry.address, request.call_id, message)
            try:
                self._wait(task, request.call_id, cancel)
                outcome = decode_outcome(task.result(self._lost))
            except BaseException as error:
                task.give_up()
                if isinstance(error, WorkerLostError):
                    self._on_lost(self)
                raise
        if isinstance(outcome, Answer):
            self.loaded = next(iter(request.config.checkpoints()), self.loaded)
            images = tuple(GeneratedImage(data=data) for data in outcome.images)
            return GenerateAnswer(images=images, endpoint=outcome.endpoint, info=outcome.info)
        if outcome.kind == SessionUnknownError.__name__:
            self._on_lost(self)
            raise self._lost(outcome.message, settled=True)
        error = outcome.error(self.entry.name)
        if isinstance(error, GenerationCancelled) and not cancel.cancelled:
            raise self._lost("it has stopped", interrupted=True, settled=outcome.settled)
        raise error

    def _wait(self, task: RequestTask, call_id: str, cancel: CancelToken) -> None:
        told_at: float | None = None
        while not task.wait(_LOOK_S):
            self._connection.check()
            if not self.is_present:
                raise self._lost("it has left the farm")
            if cancel.cancelled and told_at is None:
                told_at = time.monotonic()
                self._connection.ask_in_vain(self.entry.address, CANCEL, call_id=call_id)
            if told_at is not None and time.monotonic() - told_at > _CANCEL_S:
                why = f"{self.entry.name}: the run was cancelled, and the worker does not answer"
                raise GenerationCancelled(why, interrupted=True)

    def _lost(
        self, why: str, *, interrupted: bool = False, settled: bool = False
    ) -> WorkerLostError:
        return WorkerLostError(
            f"the worker {self.entry.name} is lost: {why}",
            transient=True,
            interrupted=interrupted,
            settled=settled,
        )
