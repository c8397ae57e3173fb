"""The embedded backend: makes pictures in this process, without server, GPU or download."""

from __future__ import annotations

from ....events.model import BackendDescription
from ....events.version import VERSION
from ....statemachine.errors import BackendError
from ....statemachine.ports import (
    NO_FILES,
    FileHashes,
    GenerateAnswer,
    GeneratedImage,
    GenerateRequest,
    OnStep,
)
from ....statemachine.run.cancel_token import CancelToken
from .generation import Sources, make
from .infotext import PRODUCT, answer_info, infotext
from .pictures import PictureError, decode_picture, encode_png
from .settings import passes_of
from .steps import StepCounter

KIND = "embedded"


class EmbeddedBackend:
    """Makes PNG pictures in this process, each a pure function of its request.

    Any model, VAE, sampler, scheduler, upscaler and detector will do: a name changes the
    picture, nothing else. The pixels are the same on every machine, the bytes for the same
    versions of Pillow and zlib. It keeps no state, so several threads may share it.
    ``step_delay_s`` seconds are waited in each sampling step, which makes it as slow, and as
    easy to cancel, as one likes.
    """

    def __init__(self, *, step_delay_s: float = 0.0) -> None:
        self._step_delay_s = step_delay_s

    @property
    def slots(self) -> int:
        """One request at a time, as a WebUI does."""
        return 1

    @property
    def description(self) -> BackendDescription:
        """The description of the backend for the log; no option and no file changes its images."""
        return BackendDescription(kind=KIND, product=PRODUCT, version=VERSION, options={}, files={})

    @property
    def file_hashes(self) -> FileHashes:
        """Those of no file."""
        return NO_FILES

    def generate_images(
        self, request: GenerateRequest, *, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        """Make the pictures of one request; picture k equals that of a request for its seed alone.

        ``on_step`` receives the steps of each picture in turn (of both passes where there is
        hires) and, as ``fraction``, how much of the request is done. Raises BackendError,
        never transient, for a source that does not decode and for sizes beyond
        the limit of pixels, and GenerationCancelled within a step of ``cancel.cancelled``.
        """
        counter = StepCounter(
            cancel,
            on_step,
            images=request.count,
            steps=sum(passes_of(request.config)),
            delay_s=self._step_delay_s,
        )
        try:
            return _answer(request, counter)
        except PictureError as error:
            raise BackendError(
                f"{request.stage_id}, image {request.image_index + 1}: {error}",
                endpoint=_endpoint(request),
            ) from error


def _endpoint(request: GenerateRequest) -> str:
    return f"embedded:{request.stage_type}"


def _answer(request: GenerateRequest, counter: StepCounter) -> GenerateAnswer:
    counter.check()
    sources = _sources(request)
    images, texts, size, facts = [], [], (0, 0), {}
    for place in range(request.count):
        counter.begin_image(place)
        seed = request.seed + place
        made = make(request.config, seed, sources, counter)
        text = infotext(request.config, seed, made.size)
        images.append(GeneratedImage(data=encode_png(made.image, text)))
        texts.append(text)
        size, facts = made.size, dict(made.facts)
    return GenerateAnswer(
        images=tuple(images),
        endpoint=_endpoint(request),
        info=answer_info(request, size, texts) | facts,
    )


def _sources(request: GenerateRequest) -> Sources:
    """The request's pictures. Raises PictureError where one does not decode."""
    image = mask = None
    if request.inputs:
        image = decode_picture(request.inputs[0].data, "the input image")
    if request.mask is not None:
        mask = decode_picture(request.mask.data, "the mask")
    return Sources(image, mask)
