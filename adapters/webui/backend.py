"""The image backend that is a WebUI server."""

from __future__ import annotations

import logging
import threading
from typing import Any

import msgspec

from ...events.model import BackendDescription
from ...statemachine.cancel import CancelToken
from ...statemachine.config import RetryKind, ServerTable
from ...statemachine.errors import BackendError, GenerationCancelled
from ...statemachine.plan import StageExecutionPlan
from ...statemachine.ports import (
    GenerateAnswer,
    GeneratedImage,
    GenerateRequest,
    InputReader,
    OnStep,
)
from ...statemachine.stage_configs import AdetailerConfig, UpscaleConfig
from .address import Credentials, ServerAddress
from .answers import AnswerReader
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
from .evidence import answer_limit, differences, size_difference
from .features import OPENAPI, ServerFeatures, features_of
from .payloads import Payload, cache_fillers, payload_of
from .pixels import same_pixels, size_of
from .server import Server
from .settling import settle

_logger = logging.getLogger("stagewright.webui")

KIND = "webui"
_NO_SERVER_THERE = (
    AuthenticationError,
    AnswerLostError,
    ServerNotTrustedError,
    ServerUnavailableError,
    ServerUnreachableError,
)


class WebUIBackend:
    """One WebUI server, one generating request at a time.

    ``features`` are asked for with the first request unless they are given. What went wrong
    is raised as an error of ``webui.errors``; it is transient if ``settings.transient`` names
    its kind.
    """

    def __init__(
        self,
        address: ServerAddress,
        *,
        inputs: InputReader,
        settings: ServerTable | None = None,
        credentials: Credentials | None = None,
        features: ServerFeatures | None = None,
    ) -> None:
        self._settings = settings or ServerTable()
        self._client = WebUIClient(address, self._settings, credentials)
        self._server = Server(self._client, self._settings)
        self._reader = AnswerReader(self._client)
        self._inputs = inputs
        self._features = features
        self._turn = threading.Lock()
        self._settled: set[str] = set()

    @property
    def slots(self) -> int:
        """One: a server has one queue, and with many requests waiting it answers nobody."""
        return 1

    @property
    def description(self) -> BackendDescription:
        """What it is, for the log."""
        features = self._features or ServerFeatures()
        return BackendDescription(
            kind=KIND,
            url=self._client.address.url,
            product=features.product,
            version=features.version,
        )

    @property
    def client(self) -> WebUIClient:
        """Its connection, for whoever wants to ask the server something else."""
        return self._client

    def close(self) -> None:
        """End its thread and close idle connections; it can be used again afterwards."""
        self._server.close()

    def preflight(self, plan: StageExecutionPlan) -> None:
        """See whether the server has every name that ``plan`` uses.

        Afterwards ``description`` says what it is. Raises PreflightError.
        """
        from .preflight import preflight  # noqa: PLC0415 - without it nothing is to be loaded

        self._features = preflight(self._client, plan)

    def generate_images(
        self, request: GenerateRequest, *, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        """Make one attempt at one request; see ``ImageBackend``."""
        with self._turn:
            try:
                return self._generate(request, cancel, on_step)
            except ServerError as error:
                error.transient = error.retry_kind in self._settings.transient
                raise

    def _generate(
        self, request: GenerateRequest, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        payload = self._payload(request, cancel)
        attempt = Attempt(
            self._server,
            payload,
            request.call_id,
            cancel,
            on_step,
            answer_limit=answer_limit(request),
        )
        try:
            data = attempt.run()
        except BackendError as error:
            error.interrupted = attempt.interrupted
            self._remember(request, error)
            raise
        self._settled.add(request.call_id)
        look = self._server.look_beside()

        def confirm() -> None:
            seen = look()
            if attempt.interrupted_by_others or (seen is not None and seen.interrupted):
                raise self._interrupted(payload.endpoint)

        answer = self._reader.read(data, payload.endpoint, request.count)
        del data
        info = dict(answer.info)
        wrong = self._differences(request, answer.images, info, payload.endpoint)
        if wrong is not None:
            confirm()  # What was interrupted differs as well.
            raise wrong
        if isinstance(request.config, AdetailerConfig):
            info["changed"] = not same_pixels(request.inputs[0].data, answer.images[0])
        return GenerateAnswer(
            images=tuple(GeneratedImage(data=image) for image in answer.images),
            endpoint=payload.endpoint,
            info=info,
            confirm=confirm,
        )

    def _payload(self, request: GenerateRequest, cancel: CancelToken) -> Payload:
        """What is to be sent, once no earlier attempt is in the way."""
        try:
            features = self._known_features()
            interrupted = self._settle(request, cancel) or request.interrupted
            for filler in cache_fillers(request) if interrupted else ():
                self._client.post(filler.endpoint, filler.body)
            return payload_of(request, features, varied=interrupted)
        except BackendError:
            self._settled.add(request.call_id)  # It was never sent.
            raise

    def _known_features(self) -> ServerFeatures:
        if self._features is None:
            try:
                self._features = features_of(self._client.get(OPENAPI))
            except BackendError as error:
                if isinstance(error, _NO_SERVER_THERE):
                    raise
                _logger.info("the server does not show its schema: %s", error)
                self._features = ServerFeatures()
        return self._features

    def _settle(self, request: GenerateRequest, cancel: CancelToken) -> bool:
        """See to it that no earlier attempt of this request is being worked on.

        Whether one of them was told to stop just now.
        """
        if not request.unanswered:
            self._settled.clear()  # Those of an image that is done with.
        pending = [one for one in request.unanswered if one not in self._settled]
        if not pending:
            return False
        extras = isinstance(request.config, UpscaleConfig)
        interrupted = settle(self._server, pending, cancel=cancel, extras=extras)
        self._settled.update(pending)
        return interrupted

    def _remember(self, request: GenerateRequest, error: BackendError) -> None:
        """Note an attempt that the server has answered, if only with a failure."""
        lost = isinstance(error, GenerationCancelled) or (
            isinstance(error, ServerError) and error.unanswered
        )
        if not lost:
            self._settled.add(request.call_id)

    def _interrupted(self, endpoint: str) -> ServerInterruptedError:
        """Our job was interrupted, and not by us: its answer looks like any other."""
        return ServerInterruptedError(
            f"{self._server.url}{endpoint}: somebody else interrupted or skipped the request; "
            "its image is half made",
            transient=RetryKind.INTERRUPTED in self._settings.transient,
            endpoint=endpoint,
            interrupted=True,
        )

    def _differences(
        self,
        request: GenerateRequest,
        images: tuple[bytes, ...],
        info: dict[str, Any],
        endpoint: str,
    ) -> SettingsNotUsedError | None:
        """The error that says where the answer is not what was asked for, if it is not."""
        found = list(differences(request, info, self._known_features()))
        for place, image in enumerate(images):
            name = f"{self._server.url}{endpoint}: image {request.image_index + place}"
            wrong = size_difference(request, size_of(image, self._inputs, name, endpoint))
            if wrong is not None:
                found.append(wrong)
        if not found:
            return None
        return SettingsNotUsedError(
            f"{self._server.url}{endpoint}: the server did something else: "
            + "; ".join(dict.fromkeys(found)),
            endpoint=endpoint,
            detail=msgspec.json.encode(info).decode(),
        )
