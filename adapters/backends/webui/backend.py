"""The image backend for WebUI servers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence

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
from ....statemachine.run.cancel_token import CancelToken
from ....statemachine.stages import AdetailerConfig, StageConfig, UpscaleConfig
from ..http.address import ServerAddress
from ..http.client import HttpClient
from ..http.credentials import Credentials
from ..http.errors import (
    RequestRefusedError,
    RouteMissingError,
    ServerStartingError,
    ServerUnavailableError,
    SettingsNotUsedError,
)
from ..registry import RunPreparation
from ..report import Verdict
from .answer_check import AnswerComparison, answer_limit, size_difference
from .answers import Answer, read_answer
from .call import Call
from .features import (
    ADVICE,
    EXTRA_SINGLE_IMAGE,
    SD_NEXT,
    TXT2IMG,
    ServerFeatures,
    discovered,
    with_detailer_keys,
)
from .file_hashes import ServerFileHashes
from .lists import ServerLists
from .name_comparison import NameComparison
from .names import KINDS, NameKind, respelled, silent_names
from .options import PinnedOptions, options_logger
from .payload import Payload
from .payloads import has_task_id, payload_of
from .pixels import is_plain_resize, same_pixels, size_of
from .server import Server, is_not_ready
from .settlement import settle
from .spellings import stem
from .upscale_payload import cache_fillers
from .used_files import PLAIN_UPSCALERS, restores_faces_only

KIND = "webui"
_LOOK_AGAIN_S = 1.0


class WebUIBackend:
    """One WebUI server, one generating request at a time.

    ``unsettled`` are calls of an earlier process that the server may still be working on,
    ``prompts`` those of single images, for ``preflight``. Failures are raised as errors of
    ``http.errors``, which are transient if
    ``settings.transient`` names their kind.
    """

    def __init__(
        self,
        address: ServerAddress,
        *,
        inputs: InputReader,
        settings: ServerTable | None = None,
        credentials: Credentials | None = None,
        unsettled: Mapping[str, str] = {},
        prompts: tuple[str, ...] = (),
    ) -> None:
        self._client = HttpClient(address, settings, credentials, advice=ADVICE)
        self._server = Server(self._client)
        self._options = PinnedOptions(self._server)
        self._loaded = ""
        """The checkpoint that a request has loaded last."""
        self._looked_up: set[str] = set()
        self._upscaled: set[str] = set()
        """Stages whose upscaler has been seen to work, since the last failed request."""
        self._inputs = inputs
        self._features: ServerFeatures | None = None
        self._turn = threading.Lock()
        self._stopped: set[str] = set()
        self._prompts = prompts
        self._files = self._files_in(ServerLists(self._client))
        self._hashes: Mapping[str, str] | msgspec.UnsetType = msgspec.UNSET
        self._lost = {call_id: not has_task_id(kind) for call_id, kind in unsettled.items()}

    @property
    def slots(self) -> int:
        """One: a server has one queue."""
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
            options=msgspec.UNSET if self._options.recorded is None else self._options.recorded,
            files=self._hashes,
        )

    @property
    def file_hashes(self) -> ServerFileHashes:
        """The hashes of the server's files, for the run that it was prepared for."""
        return self._files

    def close(self) -> None:
        """Restore options of the server, and close idle connections; it can be used again."""
        self._options.restore()
        self._server.close()

    def preflight(self, plan: StageExecutionPlan) -> None:
        """Check that the server has every name that ``plan`` uses.

        Afterwards ``description`` is complete. Raises PreflightError.
        """
        from .preflight import preflight  # noqa: PLC0415 - not needed with preflight off

        self._wait_until_started()
        lists = ServerLists(self._client)
        self._features = preflight(self._client, plan, self._prompts, lists=lists)
        self._files = self._files_in(lists)
        try:
            self._hashes = self._files.of_plan(plan, self._prompts)
        except BackendError as error:
            options_logger.info("the hashes of files are not recorded: %s", error)

    def pin_options(
        self, run: RunPreparation, like: BackendDescription | None = None
    ) -> Sequence[str]:
        """Read the server's options for the run; see ``OptionsBackend``."""
        if self._features is None:
            self._wait_until_started()
        self._options.pin(run, None if like is None else like.options or {})
        return self._options.lacking

    def has_loaded(self, config: StageConfig) -> bool:
        """Whether the server is known to have loaded the checkpoint of a stage."""
        wanted = next(filter(None, config.checkpoints()), None)
        return wanted is not None and stem(wanted) == stem(self._loaded or self._options.checkpoint)

    def recover(self, cancel: CancelToken) -> None:
        """Wait until the server answers, and works on no earlier request of ours."""
        with self._turn:
            self._server.look_or_fail()
            self._settle({}, cancel)

    def generate_images(
        self, request: GenerateRequest, *, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        """Make one attempt at one request; see ``ImageBackend``."""
        with self._turn:
            try:
                return self._generate(request, cancel, on_step)
            except (RouteMissingError, ServerUnavailableError) as error:
                if not (is_not_ready(error) and self._server.is_starting()):
                    raise
                why = f"the server is starting: {error}"
                raise self._client.failure(
                    ServerStartingError, error.endpoint, why, settled=error.settled
                ) from error

    def _generate(
        self, request: GenerateRequest, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        extras = not has_task_id(request.stage_type)
        varied = self._settle(dict.fromkeys(request.unanswered, extras), cancel)
        varied = varied or request.interrupted
        self._options.secure()
        self._refuse_unknown_names(request)
        features = self._known_features()
        request = _respelled(request, features)
        varied = varied or not self._stopped.isdisjoint(request.unanswered)
        for filler in cache_fillers(request) if varied else ():
            self._send(filler, request, cancel, on_step=_ignore_step)
        payload = payload_of(request, features, varied=varied, options=self._options.to_send)
        self._options.note_overrides(payload)
        call, data = self._send(payload, request, cancel, on_step)
        self._loaded = next(filter(None, reversed([*request.config.checkpoints()])), self._loaded)
        self._server.begin_look()
        try:
            answer = read_answer(self._client, data, payload.endpoint, request.count)
            del data
            return self._believed(request, call, answer, payload)
        except BaseException:
            self._server.drop_look()
            raise

    def _files_in(self, lists: ServerLists) -> ServerFileHashes:
        return ServerFileHashes(lists, self._known_features, lambda: self._options.to_send)

    def _wait_until_started(self) -> None:
        """Wait before a run, where ``wait_s`` is set, for a server that has not started yet."""
        end = time.monotonic() + (self._client.settings.wait_s or 0.0)
        while time.monotonic() < end and self._server.is_starting():
            options_logger.info("waiting for %s", self._client.address.url)
            time.sleep(_LOOK_AGAIN_S)

    def _believed(
        self, request: GenerateRequest, call: Call, answer: Answer, payload: Payload
    ) -> GenerateAnswer:
        """The answer, if it is what was asked for; without credentials."""
        detailing = isinstance(request.config, AdetailerConfig)

        def confirm() -> None:
            call.confirm(detailing=detailing)

        wrong = self._differences(request, answer, payload)
        if wrong is not None:
            confirm()  # An interrupted request differs as well; report the interrupt.
            raise wrong
        info = dict(self._client.credentials.scrub_values(answer.info))
        self._files.note_answer(info)
        if detailing:
            info["changed"] = not same_pixels(request.inputs[0].data, answer.images[0])
        elif restores_faces_only(request):
            plain = is_plain_resize(request.inputs[0].data, answer.images[0])
            info["changed"] = plain is not True
        return GenerateAnswer(
            images=tuple(GeneratedImage(data=image) for image in answer.images),
            endpoint=payload.endpoint,
            info=info,
            confirm=confirm,
        )

    def _send(
        self, payload: Payload, request: GenerateRequest, cancel: CancelToken, on_step: OnStep
    ) -> tuple[Call, bytes]:
        """Send one payload and wait for its answer; remember it if the answer was lost."""
        call = Call(self._server, payload, request.call_id, cancel, on_step)
        try:
            return call, call.run(answer_limit(request))
        except BackendError as error:
            self._upscaled.clear()
            if not error.settled:
                self._lost[request.call_id] = payload.endpoint == EXTRA_SINGLE_IMAGE
            raise

    def _known_features(self) -> ServerFeatures:
        """The features of the server; queried once, unless preflight has."""
        if self._features is not None:
            return self._features
        lists = ServerLists(self._client)
        features = discovered(lists)
        if lists.any_answered:  # It has started.
            self._features = features
        return features

    def _refuse_unknown_names(self, request: GenerateRequest) -> None:
        """Without preflight, look up the names whose absence no answer shows, once a stage.

        Raises RequestRefusedError.
        """
        features = self._known_features()
        if features.stems is not None or request.stage_id in self._looked_up:
            return
        lists = ServerLists(self._client)
        if isinstance(request.config, AdetailerConfig):
            self._features = features = with_detailer_keys(features, lists)
        comparison = NameComparison(lists, features, detailing=True)
        uses = [*silent_names(request), *comparison.names_in_styles(request.config)]
        for check in map(comparison.check, uses):
            if check.verdict is Verdict.MISSING:
                why = f'the server has no {check.kind} "{check.name}" ({check.key}), and would '
                why += f"ignore it{check.suggestion()}"
                route = KINDS[NameKind(check.kind)].route
                raise self._client.failure(RequestRefusedError, route, why)
        self._looked_up.add(request.stage_id)
        if comparison.spellings:
            spellings = {**features.spellings, **comparison.spellings}
            self._features = msgspec.structs.replace(features, spellings=spellings)

    def _settle(self, unanswered: Mapping[str, bool], cancel: CancelToken) -> bool:
        """Wait until the server works on no earlier request of ours.

        That is requests whose answer was lost, and those of an earlier process for an image; by
        call id, whether they are extras. Returns whether one of them was interrupted.
        """
        lost = {**unanswered, **self._lost}
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
        self, request: GenerateRequest, answer: Answer, payload: Payload
    ) -> SettingsNotUsedError | None:
        """The error for an answer that does not match the request; None if it matches."""
        comparison = self._comparison(request, answer)
        found = [*comparison.differences(), *comparison.unused_fields(payload.body)]
        if found and self._known_features().stems is None:
            # Without preflight: a model may be requested by a hash or another name that the info
            # does not show, so the list of models is read before a difference is reported.
            stems = ServerLists(self._client).stems()
            self._features = msgspec.structs.replace(self._known_features(), stems=stems)
            comparison = self._comparison(request, answer)
            found = [*comparison.differences(), *comparison.unused_fields(payload.body)]
        found += self._unused_upscaler(request, answer)
        found += comparison.skipped_names(self._shown_names())
        found += comparison.differences_in_stage()
        for place, image in enumerate(answer.images):
            name = f"image {request.image_index + place + 1}"
            size = size_of(image, self._inputs, self._client, payload.endpoint, name)
            wrong = size_difference(request, size, answer.info)
            if wrong is not None:
                found.append(wrong)
        if not found:
            return None
        scrub = self._client.credentials.scrub_values
        return self._client.failure(
            SettingsNotUsedError,
            payload.endpoint,
            "the server ignored settings of the request: " + "; ".join(dict.fromkeys(found)),
            detail=msgspec.json.encode(scrub(answer.info)).decode(),
        )

    def _unused_upscaler(self, request: GenerateRequest, answer: Answer) -> Iterator[str]:
        """A message if a server resized the image plainly instead of using the upscaler.

        A server that has loaded the model has it for the whole stage, so one image of it is looked
        at: comparing two of 512 and 1024 pixels takes 46 ms.
        """
        config = request.config
        if not isinstance(config, UpscaleConfig) or config.upscaler in PLAIN_UPSCALERS:
            return
        if config.upscaler_2 or config.crop is not None or request.stage_id in self._upscaled:
            return  # Another upscaler, or a cut, has changed the picture since.
        plain = is_plain_resize(request.inputs[0].data, answer.images[0])
        if plain is False:
            self._upscaled.add(request.stage_id)
        elif plain:
            yield (
                f"upscaler {config.upscaler} was requested, but the image was only resized; "
                "the server may lack the model's file"
            )

    def _shown_names(self) -> frozenset[NameKind]:
        """The kinds of names that the answers report when they are used."""
        features = self._known_features()
        if features.product == SD_NEXT:
            return frozenset()
        # Before 1.8 an answer lacks the embeddings of a prompt that the server has cached.
        caches = not features.takes(TXT2IMG, "force_task_id")
        return self._options.shown - ({NameKind.EMBEDDING} if caches else set())

    def _comparison(self, request: GenerateRequest, answer: Answer) -> AnswerComparison:
        scrub = self._client.credentials.scrub_values
        return AnswerComparison(request, answer.info, self._known_features(), scrub)


def _respelled(request: GenerateRequest, features: ServerFeatures) -> GenerateRequest:
    """The request with names as the server spells them."""
    if not features.spellings:
        return request
    config = respelled(request.config, request.stage_type, features.spellings)
    return msgspec.structs.replace(request, config=config)


def _ignore_step(
    step: int, steps: int, *, fraction: float | None = None, eta_s: float | None = None
) -> None:
    """Ignore the steps of a request that makes no image of the run."""
