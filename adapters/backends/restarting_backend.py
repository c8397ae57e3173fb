"""The backend of a server that the user's settings can restart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ...events.model import BackendDescription
from ...statemachine.config.schema import ServerTable
from ...statemachine.errors import BackendError, PreflightError
from ...statemachine.plan.plan import StageExecutionPlan
from ...statemachine.ports import (
    FileHashes,
    GenerateAnswer,
    GenerateRequest,
    OnStep,
    RecoveringBackend,
    file_hashes_of,
)
from ...statemachine.run.cancel_token import CancelToken
from ...statemachine.stages import StageConfig
from .http.errors import (
    ServerNotTrustedError,
    ServerOutOfMemoryError,
    ServerRestartingError,
    ServerStartingError,
)
from .registry import CheckpointBackend, OptionsBackend, RunPreparation, ServedBackend
from .restart import ServerRestarter

_GONE, _NO_MEMORY = "the server cannot be reached", "the server keeps running out of memory"


class RestartingBackend:
    """Has the server restarted where a request does not reach it, or it is out of memory again.

    While the server is being restarted no request is sent to it, and each raises
    ServerRestartingError at once: the runner waits, or another server takes over.
    """

    def __init__(
        self, backend: ServedBackend, restarter: ServerRestarter, settings: ServerTable
    ) -> None:
        self._backend = backend
        self._restarter = restarter
        self._retries = settings.retries
        self._out_of_memory: Counter[tuple[str, str, int]] = Counter()
        self._run_id = ""
        """The run of the last request."""

    @property
    def slots(self) -> int:
        """See ``ImageBackend``."""
        return self._backend.slots

    @property
    def description(self) -> BackendDescription:
        """See ``ImageBackend``."""
        return self._backend.description

    @property
    def file_hashes(self) -> FileHashes:
        """See ``HashingBackend``."""
        return file_hashes_of(self._backend)

    def preflight(self, plan: StageExecutionPlan) -> None:
        """See ``ServedBackend``; a server that died since an earlier run is restarted."""
        try:
            self._backend.preflight(plan)
        except PreflightError as error:
            run_id = self._restarter.serving_run
            if run_id is not None and _is_gone(error.__cause__):
                self._restarter.begin(_GONE, run_id)
            raise

    def pin_options(
        self, run: RunPreparation, like: BackendDescription | None = None
    ) -> Sequence[str]:
        """See ``OptionsBackend``."""
        if isinstance(self._backend, OptionsBackend):
            return self._backend.pin_options(run, like)
        return ()

    def has_loaded(self, config: StageConfig) -> bool:
        """See ``CheckpointBackend``."""
        return isinstance(self._backend, CheckpointBackend) and self._backend.has_loaded(config)

    def recover(self, cancel: CancelToken) -> None:
        """See ``RecoveringBackend``; no request is sent to a server that is set aside."""
        if self._restarter.is_under_way:
            raise self._restarting("it is being restarted", transient=True)
        if not isinstance(self._backend, RecoveringBackend):
            return
        try:
            self._backend.recover(cancel)
        except BackendError as error:
            if _is_gone(error) and self._restarter.begin(_GONE, self._run_id):
                raise self._restarting(str(error), transient=error.transient) from error
            raise

    def close(self) -> None:
        """See ``ServedBackend``."""
        self._backend.close()

    def generate_images(
        self, request: GenerateRequest, *, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        """Make one attempt at one request; see ``ImageBackend``."""
        self._run_id = request.run_id
        if self._restarter.is_under_way:
            raise self._restarting("it is being restarted", transient=True)
        try:
            answer = self._backend.generate_images(request, cancel=cancel, on_step=on_step)
        except BackendError as error:
            if self._restarts(error, request):
                raise self._restarting(str(error), transient=error.transient) from error
            raise
        self._restarter.serving_run = request.run_id
        return answer

    def _restarts(self, error: BackendError, request: GenerateRequest) -> bool:
        """Whether the server is being restarted because of an error."""
        if _is_gone(error):
            return self._restarter.begin(_GONE, request.run_id)
        if not isinstance(error, ServerOutOfMemoryError):
            return False
        image = (request.run_id, request.stage_id, request.image_index)
        self._out_of_memory[image] += 1
        # The second time, or the first of an image that would be given up then. Once an image.
        place = 2 if error.transient and self._retries else 1
        if self._out_of_memory[image] != place:
            return False
        return self._restarter.begin(_NO_MEMORY, request.run_id, while_it_listens=True)

    def _restarting(self, why: str, *, transient: bool) -> ServerRestartingError:
        url = self._backend.description.url or ""
        named = why if url in why else f"{url}: {why}"
        return ServerRestartingError(
            f"{named}; the restart command of your settings is at work",
            transient=transient,
            settled=True,
        )


def _is_gone(error: BaseException | None) -> bool:
    """Whether a restart can help where a server is not reached: not while it starts."""
    return (
        isinstance(error, BackendError)
        and error.is_out_of_reach
        and not isinstance(error, ServerStartingError | ServerNotTrustedError)
    )
