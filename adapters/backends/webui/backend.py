"""The image backend for WebUI servers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ....events.model import BackendDescription
from ....statemachine.config.schema import ServerTable
from ....statemachine.errors import BackendError
from ....statemachine.plan.plan import StageExecutionPlan
from ....statemachine.ports import (
    GenerateAnswer,
    GeneratedImage,
    GenerateRequest,
    InputReader,
    OnStep,
)
from ....statemachine.run.cancel import CancelToken
from ....statemachine.stages import AdetailerConfig
from .address import Credentials, ServerAddress
from .answer_check import answer_limit, differences, size_difference
from .answers import Answer, AnswerReader
from .attempt import Attempt
from .client import WebUIClient
from .errors import (
    AnswerLostError,
    AuthenticationError,
    ServerError,
    ServerInterruptedError,
    ServerNotTrustedError,
    ServerUnavailableError,
    ServerUnreachableError,
    SettingsNotUsedError,
)
from .features import (
    EXTRA_SINGLE_IMAGE,
    ServerFeatures,
    discovered,
)
from .payloads import Payload, cache_fillers, has_task_id, payload_of
from .pixels import same_pixels, size_of
from .progress import ServerProgress
from .server import Server
from .settlement import settle

_logger = logging.getLogger("stagewright.webui")

KIND = "webui"
_LOOK_AGAIN_S = 0.2
_NO_SERVER_THERE = (
    AuthenticationError,
    AnswerLostError,
    ServerNotTrustedError,
    ServerUnavailableError,
    ServerUnreachableError,
)


class WebUIBackend:
    """One WebUI server, one generating request at a time.

    ``features`` are queried with the first request unless they are given. ``unsettled`` are
    calls of an earlier process that the server may still be working on. Failures are raised as
    errors of ``webui.errors``, which are transient if ``settings.transient`` names their kind.
    """

    def __init__(
        self,
        address: ServerAddress,
        *,
        inputs: InputReader,
        settings: ServerTable | None = None,
        credentials: Credentials | None = None,
        features: ServerFeatures | None = None,
        unsettled: Mapping[str, str] = {},
    ) -> None:
        self._settings = settings or ServerTable()
        self._client = WebUIClient(address, self._settings, credentials)
        self._server = Server(self._client, self._settings)
        self._reader = AnswerReader(self._client)
        self._inputs = inputs
        self._features = features
        self._turn = threading.Lock()
        self._stopped: set[str] = set()
        self._lost = {call_id: not has_task_id(kind) for call_id, kind in unsettled.items()}

    @property
    def slots(self) -> int:
        """One: a server has one queue, and stops answering when many requests wait."""
        return 1

    @property
    def description(self) -> BackendDescription:
        """The description of the server for the log."""
        features = self._features or ServerFeatures()
        return BackendDescription(
            kind=KIND,
            url=self._client.address.url,
            product=features.product,
            version=features.version,
        )

    @property
    def client(self) -> WebUIClient:
        """The HTTP client, for other requests to the server."""
        return self._client

    def close(self) -> None:
        """End the background thread and close idle connections; the backend can be used again."""
        self._server.close()

    def preflight(self, plan: StageExecutionPlan) -> None:
        """Check that the server has every name that ``plan`` uses.

        Afterwards ``description`` is complete. Raises PreflightError.
        """
        from .preflight import preflight  # noqa: PLC0415 - not needed with preflight off

        self._features = preflight(self._client, plan)

    def generate_images(
        self, request: GenerateRequest, *, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        """Make one attempt at one request; see ``ImageBackend``."""
        with self._turn:
            try:
                return self._generate(request, cancel, on_step)
            except BackendError as error:
                self._finish(error, request)
                raise

    def _finish(self, error: BackendError, request: GenerateRequest) -> None:
        """Set whether an error is transient and settled."""
        if isinstance(error, ServerError):
            error.transient = error.retry_kind in self._settings.transient
        error.settled = request.call_id not in self._lost

    def _generate(
        self, request: GenerateRequest, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        features = self._known_features()
        varied = self._settle(request, cancel) or request.interrupted
        varied = varied or not self._stopped.isdisjoint(request.unanswered)
        for filler in cache_fillers(request) if varied else ():
            self._send(filler, request, cancel, on_step=_ignore_step)
        payload = payload_of(request, features, varied=varied)
        attempt, data = self._send(payload, request, cancel, on_step)
        look = self._server.start_look()

        def confirm() -> None:
            self._confirm(request, attempt, look, cancel)

        answer = self._reader.read(data, payload.endpoint, request.count)
        del data
        wrong = self._differences(request, answer, payload)
        if wrong is not None:
            confirm()  # An interrupted request differs as well; report the interrupt.
            raise wrong
        info = dict(self._client.credentials.scrub_values(answer.info))
        if isinstance(request.config, AdetailerConfig):
            info["changed"] = not same_pixels(request.inputs[0].data, answer.images[0])
        return GenerateAnswer(
            images=tuple(GeneratedImage(data=image) for image in answer.images),
            endpoint=payload.endpoint,
            info=info,
            confirm=confirm,
        )

    def _send(
        self, payload: Payload, request: GenerateRequest, cancel: CancelToken, on_step: OnStep
    ) -> tuple[Attempt, bytes]:
        """Send one payload and wait for its answer; remember it if the answer was lost."""
        limit = answer_limit(request)
        attempt = Attempt(
            self._server, payload, request.call_id, cancel, on_step, answer_limit=limit
        )
        try:
            return attempt, attempt.run()
        except BackendError as error:
            error.interrupted = attempt.interrupted
            raise
        finally:
            if attempt.open:
                self._lost[request.call_id] = payload.endpoint == EXTRA_SINGLE_IMAGE

    def _confirm(
        self,
        request: GenerateRequest,
        attempt: Attempt,
        look: Callable[[], ServerProgress | None],
        cancel: CancelToken,
    ) -> None:
        """Check that no other client interrupted our job, which the answer does not show.

        Only the server's state shows it, so ask until the server answers. Raises
        ServerInterruptedError, and ServerUnavailableError without an answer within the stall
        limit. A server that has become unreachable is not an error here.
        """
        endpoint = attempt.endpoint
        seen = look()
        deadline = time.monotonic() + self._settings.stall_timeout_s
        try:
            while seen is None and self._server.tells_progress:
                seen = self._look_again()
                if seen is None and (time.monotonic() > deadline or cancel.wait(_LOOK_AGAIN_S)):
                    raise ServerUnavailableError(  # noqa: TRY301 - completed below
                        f"{self._server.url}{endpoint}: the server does not report whether another "
                        "client interrupted the request",
                        endpoint=endpoint,
                    )
        except ServerUnreachableError:
            return
        except ServerUnavailableError as error:
            self._finish(error, request)
            raise
        detailing = isinstance(request.config, AdetailerConfig)
        if attempt.interrupted_by_others or (
            seen is not None and (seen.interrupted or (detailing and seen.stopping))
        ):
            found = ServerInterruptedError(
                f"{self._server.url}{endpoint}: another client interrupted or skipped the request, "
                "so its image is incomplete",
                endpoint=endpoint,
                interrupted=True,
            )
            self._finish(found, request)
            raise found

    def _look_again(self) -> ServerProgress | None:
        try:
            return self._server.look_or_fail()
        except ServerUnreachableError:
            raise
        except BackendError:
            return None

    def _known_features(self) -> ServerFeatures:
        """The features of the server; queried once, unless preflight has."""
        if self._features is None:
            self._features = discovered(self._get_or_none)
        return self._features

    def _get_or_none(self, path: str) -> Any:
        """The answer of a route; None if the server does not have it."""
        try:
            return self._client.get(path)
        except BackendError as error:
            if isinstance(error, _NO_SERVER_THERE):
                raise
            _logger.info("not available: %s", error)
            return None

    def _settle(self, request: GenerateRequest, cancel: CancelToken) -> bool:
        """Wait until the server works on no earlier request of ours.

        That is requests whose answer was lost, and those of an earlier process for this image.
        Returns whether one of them was interrupted.
        """
        extras = not has_task_id(request.stage_type)
        lost = dict.fromkeys(request.unanswered, extras) | self._lost
        if not lost:
            return False
        tasks = [call_id for call_id, extras in lost.items() if not extras]
        interrupted = settle(self._server, tasks, extras=any(lost.values()), cancel=cancel)
        if interrupted:
            # It is unknown which one was interrupted; later requests may repeat any of them.
            self._stopped.update(lost)
        self._lost.clear()
        return interrupted

    def _differences(
        self,
        request: GenerateRequest,
        answer: Answer,
        payload: Payload,
    ) -> SettingsNotUsedError | None:
        """The error for an answer that does not match the request; None if it matches."""
        endpoint = payload.endpoint
        found = self._different_settings(request, answer.info)
        for place, image in enumerate(answer.images):
            name = f"{self._server.url}{endpoint}: image {request.image_index + place + 1}"
            wrong = size_difference(request, size_of(image, self._inputs, name, endpoint))
            if wrong is not None:
                found.append(wrong)
        if not found:
            return None
        return SettingsNotUsedError(
            f"{self._server.url}{endpoint}: the server ignored settings of the request: "
            + "; ".join(dict.fromkeys(found)),
            endpoint=endpoint,
            detail=msgspec.json.encode(self._client.credentials.scrub_values(answer.info)).decode(),
        )

    def _different_settings(self, request: GenerateRequest, info: Mapping[str, Any]) -> list[str]:
        """Messages for settings in the info that differ from the request.

        Without preflight the list of models is read before a difference is reported, because a
        model may be requested by a hash or another name that the info does not show.
        """
        shown = self._client.credentials.scrub_values
        features = self._known_features()
        found = list(differences(request, info, features, shown))
        if found and features.stems is None:
            from .lists import SD_MODELS, ServerLists, stems_of  # noqa: PLC0415 - few runs need it

            known = ServerLists(self._client).names(SD_MODELS) or ()
            self._features = msgspec.structs.replace(features, stems=stems_of(known))
            found = list(differences(request, info, self._features, shown))
        return found


def _ignore_step(
    step: int, steps: int, *, fraction: float | None = None, eta_s: float | None = None
) -> None:
    """Ignore the steps of a request that makes no image of the run."""
