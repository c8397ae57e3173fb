"""One worker of a farm, as a backend of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import wait
from typing import Any, NoReturn, Protocol

from ....events.codec import json_values
from ....events.model import BackendDescription
from ....statemachine.errors import GenerationCancelled
from ....statemachine.ports import GenerateAnswer, GeneratedImage, GenerateRequest, OnStep
from ....statemachine.run.cancel_token import CancelToken
from .connection import FarmConnection, RequestTask, WorkerEntry, WorkerLostError
from .messages import (
    CANCEL,
    COMPARE,
    RECOVER,
    Answer,
    Comparison,
    Failure,
    decode_outcome,
    decode_recovery,
    encode,
    encode_task,
)
from .server_sessions import SessionUnknownError

_LOOK_S = 0.1
_RECOVER_S = 600.0
"""How long a worker may wait for its server before it is asked again."""
_COMPARE_S = 60.0
_CANCEL_S = 10.0
"""How long a worker that was told to stop is waited for."""


class OnLost(Protocol):
    """Takes the request with which a worker was lost, and whether its server is done with it."""

    def __call__(self, member: FarmMember, request: GenerateRequest, *, settled: bool) -> None: ...


class FarmMember:
    """Sends requests to one worker, which serves one at a time.

    ``answers`` holds the first ``info`` of each stage, of any worker. ``on_lost`` is called when
    the worker is gone, or is not prepared for the run any more.
    """

    def __init__(
        self,
        entry: WorkerEntry,
        description: BackendDescription,
        connection: FarmConnection,
        session: str,
        answers: dict[str, Mapping[str, Any]],
        on_lost: OnLost,
    ) -> None:
        self.entry = entry
        self.is_present = True
        self.loaded: str | None = None
        self._description = description
        self._connection = connection
        self._session = session
        self._answers = answers
        self._on_lost = on_lost
        # Kept until the next one is on its way: Dask sends at most every 10 ms, and would send that
        # this one is over first.
        self._latest: RequestTask | None = None
        self.refusal = ""
        """Why the worker is not used in this run any more."""

    @property
    def slots(self) -> int:
        """One: a server serves one request at a time."""
        return 1

    @property
    def description(self) -> BackendDescription:
        """That of the worker's server; ``url`` is the worker's name."""
        return self._description

    def recover(self, cancel: CancelToken) -> None:
        """See ``RecoveringBackend``; one that has left has nothing to recover from."""
        asked = self._connection.begin_to_ask(
            self.entry.address, RECOVER, _RECOVER_S, session=self._session
        )
        while self.is_present and not wait([asked], _LOOK_S).done:
            if cancel.cancelled:
                asked.cancel()
                return
        if not self.is_present:
            asked.cancel()
            return
        try:
            failure = decode_recovery(asked.result())
        except OSError as error:
            raise self._lost(f"it does not answer: {error}") from error
        if failure is not None:
            raise failure.error(self.entry.name)

    def generate_images(
        self, request: GenerateRequest, *, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        """Make one attempt at one request on the worker's server; see ``ImageBackend``.

        Raises WorkerLostError, SchedulerLostError, and what its server's backend raises.
        """
        try:
            outcome = self._outcome(request, cancel, on_step)
            if isinstance(outcome, Failure):
                self._raise(outcome, is_cancelled=cancel.cancelled)
            self._compare(request, outcome)
        except WorkerLostError as error:
            self._on_lost(self, request, settled=error.settled)
            raise
        self.loaded = next(iter(request.config.checkpoints()), self.loaded)
        images = tuple(GeneratedImage(data=data) for data in outcome.images)
        return GenerateAnswer(images=images, endpoint=outcome.endpoint, info=outcome.info)

    def _compare(self, request: GenerateRequest, answer: Answer) -> None:
        """Raises WorkerLostError if the first answer in a stage shows other files than another's.

        Another answer may have come since the request was made.
        """
        if request.first_answer is not None:
            return
        first = self._answers.setdefault(request.stage_id, request.other_answer or answer.info)
        if first is answer.info:
            return
        comparison = Comparison(
            session=self._session,
            stage_type=request.stage_type,
            config=json_values(request.config),
            first=first,
            info=answer.info,
        )
        asked = self._connection.begin_to_ask(
            self.entry.address, COMPARE, _COMPARE_S, message=encode(comparison)
        )
        try:
            self.refusal = asked.result()
        except OSError as error:
            raise self._lost(f"it does not answer: {error}", settled=True) from error
        if self.refusal:
            raise self._lost(self.refusal, settled=True)

    def _outcome(
        self, request: GenerateRequest, cancel: CancelToken, on_step: OnStep
    ) -> Answer | Failure:
        if not self.is_present:
            raise self._lost("it has left the farm", settled=True)
        message = encode_task(self._session, request)
        with self._connection.steps_of(request.call_id, on_step):
            task = self._connection.submit(self.entry.address, request.call_id, message)
            self._latest = task
            try:
                self._wait(task, request.call_id, cancel)
                return decode_outcome(task.result(self._lost))
            except BaseException:
                task.give_up()
                raise

    def _raise(self, failure: Failure, *, is_cancelled: bool) -> NoReturn:
        """Raise what the worker's server failed with."""
        if failure.kind == SessionUnknownError.__name__:
            raise self._lost(failure.message, settled=True)
        error = failure.error(self.entry.name)
        if isinstance(error, GenerationCancelled) and not is_cancelled:
            raise self._lost("it has stopped", interrupted=True, settled=error.settled)
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
