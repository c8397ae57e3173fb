"""The interfaces that adapters implement: backends, input images, time, chance."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import msgspec

from ..events.model import BackendDescription
from ..events.model import StepProgress as StepProgress

if TYPE_CHECKING:
    from .config.schema import ServerTable
    from .plan.plan import StageExecution, StageExecutionPlan
    from .run.cancel_token import CancelToken
    from .stages.stage import StageConfig


class ImageFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Kind and size of an image; ``width`` and ``height`` are in pixels."""

    media_type: str
    width: int
    height: int


class SourceImage(ImageFacts, frozen=True, kw_only=True):
    """An image to be sent: its source bytes (no ``stagewright`` chunk) and their digest."""

    data: bytes
    source_sha256: str


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request for one or more images of a stage.

    ``seed`` belongs to the first of ``count`` images; each further one has one more.
    ``inputs`` is empty for txt2img and else holds one image. ``script_images`` are the images
    that ``config.alwayson_scripts`` names, by path. ``unanswered`` are call ids of
    earlier attempts on this backend, in order, that it must settle first: wait for them, or make
    sure that they no longer run. ``interrupted`` says that one of them was told to stop, so
    that a server may still hold a half-made image of it. ``first_answer`` are the first image index
    and the recorded ``info`` of the first answer that this backend gave in the stage, in any epoch;
    ``other_answer`` is that ``info`` of the first answer of another one, where several share the
    work.
    ``request_sha256`` is equal in all attempts and backends.
    """

    call_id: str
    run_id: str
    stage_id: str
    stage_type: str
    image_index: int
    count: int
    total_images: int
    attempt: int
    seed: int
    config: StageConfig
    inputs: tuple[SourceImage, ...] = ()
    mask: SourceImage | None = None
    script_images: Mapping[str, SourceImage] = {}
    unanswered: tuple[str, ...] = ()
    interrupted: bool = False
    first_answer: tuple[int, Mapping[str, Any]] | None = None
    other_answer: Mapping[str, Any] | None = None
    request_sha256: str = ""


class GeneratedImage(msgspec.Struct, frozen=True, kw_only=True):
    """One image as the backend gave it: PNG, JPEG or WebP bytes."""

    data: bytes


class GenerateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """``images`` in seed order; ``info`` is what the backend used, as JSON values.

    ``info["changed"]`` is False when the backend returned the pixels that it was sent, if need be
    resized.
    ``confirm`` is for a backend that keeps checking the images: it is called once they are
    on disk, before they count, and raises BackendError if they must not be used.
    """

    images: tuple[GeneratedImage, ...]
    endpoint: str
    info: Mapping[str, Any] = {}
    confirm: Callable[[], None] | None = None


class OnStep(Protocol):
    """Takes the progress of a request from a backend; it is cheap and never raises."""

    def __call__(
        self, step: int, steps: int, *, fraction: float | None = None, eta_s: float | None = None
    ) -> None:
        """``step`` of ``steps`` is done."""
        ...


class ImageBackend(Protocol):
    """Makes images. One method serves every stage; it may be called from several threads."""

    @property
    def slots(self) -> int:
        """How many requests it serves at once."""
        ...

    @property
    def description(self) -> BackendDescription:
        """Kind, address, product and version, for the log."""
        ...

    def generate_images(
        self, request: GenerateRequest, *, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        """Make one attempt at one request.

        Raises BackendError, whose ``transient`` says whether to try again (retries are the
        runner's), and GenerationCancelled once ``cancel.cancelled`` made it stop.
        """
        ...


class UnsettledCall(NamedTuple):
    """A call without a recorded answer, which its server may still be working on."""

    call_id: str
    stage_type: str
    server: str | None


@runtime_checkable
class PreparableBackend(Protocol):
    """A backend that prepares for each run before its folder is made."""

    def prepare(
        self,
        plan: StageExecutionPlan,
        server: ServerTable,
        *,
        preflight: bool,
        recorded: BackendDescription | None = None,
        unsettled: Sequence[UnsettledCall] = (),
        prompts: Sequence[str] = (),
    ) -> None:
        """Prepare for ``plan`` with these settings; ``description`` is read afterwards.

        With ``preflight``, check that the server has the names that the plan uses, and those in
        ``prompts``: the texts of images with prompts of their own, given only where there are any.
        For a resume, ``recorded`` is the backend of the run so far, and ``unsettled`` are the calls
        that its servers are to settle before they are sent anything. Raises ConfigurationError,
        and nothing is started.
        """
        ...

    def release(self) -> None:
        """Release what was held for the run, which has ended."""
        ...


@runtime_checkable
class BackendPool(Protocol):
    """Several backends that share the work of a run. Which are usable may change at any time."""

    def members(self, stage: StageExecution) -> Sequence[ImageBackend]:
        """Those that belong to the run now, the ones preferred for a stage first.

        It returns at once, and is called several times a second. Each member keeps its identity as
        long as it belongs to the run, and has a ``description.url`` of its own. A member that has
        left is given no further request. Raises BackendError if there will be no member any more.
        """
        ...


@runtime_checkable
class ExclusiveBackend(Protocol):
    """A backend whose server serves one request at a time, over all processes of the machine."""

    def turn(self, cancel: CancelToken) -> AbstractContextManager[bool]:
        """Wait for the server's turn, and keep it from the record of a request to its answer.

        The context says whether it is this request's turn: it is not if ``cancel`` has ended the
        wait.
        """
        ...


@runtime_checkable
class RecoveringBackend(Protocol):
    """A member of a pool that can say whether it has recovered from a failure."""

    def recover(self, cancel: CancelToken) -> None:
        """Settle what an earlier failure has left behind; afterwards it is given requests.

        It is called where other members can make the images meanwhile. Raises BackendError if the
        member cannot be used yet, or ``cancel`` has ended the wait.
        """
        ...


class FileHashes(Protocol):
    """What a backend reports of the files that a stage names: models, VAEs, LoRAs, detectors.

    A file is named by its kind and name (``model sd_xl_base_1.0``). Hashes of one file are equal
    wherever they are reported; "" means that none is.
    """

    def reported(self, config: StageConfig) -> Mapping[str, str | None]:
        """The present hash of each file that a resolved stage names.

        "" means that a backend which knew it before may have lost it, because the file was
        replaced; None that a backend need not know it before it uses the file.
        """
        ...

    def shown(self, config: StageConfig, info: Mapping[str, Any]) -> Mapping[str, str]:
        """The hashes of such files that the ``info`` of an answer shows."""
        ...


@runtime_checkable
class HashingBackend(Protocol):
    """A backend that knows which files it uses, so that images made before can be trusted."""

    @property
    def file_hashes(self) -> FileHashes:
        """The hashes of files, once the backend has been prepared for a run."""
        ...


class FixedHashes(msgspec.Struct, frozen=True):
    """The same ``hashes`` for every stage; its answers show none."""

    hashes: Mapping[str, str] = {}

    def reported(self, config: StageConfig) -> Mapping[str, str | None]:
        """See ``FileHashes``."""
        del config
        return self.hashes

    def shown(self, config: StageConfig, info: Mapping[str, Any]) -> Mapping[str, str]:
        """See ``FileHashes``."""
        del config, info
        return {}


SERVER_VERSION = "version of the server"
"""Stands among the files for the version of what made an image."""
NO_FILES = FixedHashes()
"""Of a backend whose images depend on the request alone."""
UNKNOWN_FILES = FixedHashes({"everything": ""})
"""Of a backend that does not say which files it uses."""


def file_hashes_of(backend: ImageBackend) -> FileHashes:
    """The hashes of the files of any backend."""
    return backend.file_hashes if isinstance(backend, HashingBackend) else UNKNOWN_FILES


class ReuseIndex(Protocol):
    """Says in which runs a request was answered; what it says is proved before it is used."""

    def refresh(self) -> None:
        """Take into account what runs have recorded until now. Never fails."""
        ...

    def find(self, request_sha256: str) -> Sequence[Path]:
        """The folders of runs that may have an answer to a request, newest first."""
        ...


class InputReader(Protocol):
    """Checks that images can be used, by decoding them."""

    def inspect(
        self, data: bytes, *, name: str, decode: bool = True, convertible: bool = False
    ) -> ImageFacts:
        """Kind and displayed size of an image; with ``decode`` every pixel is decoded.

        Raises InputImageError, naming ``name``, for anything but a PNG, JPEG or WebP within
        the reader's bounds. With ``convertible`` it may be of any format that
        ``convert_to_png`` takes.
        """
        ...

    def convert_to_png(self, data: bytes, *, name: str) -> bytes:
        """An image of another format as PNG, as it is displayed.

        Raises InputImageError, naming ``name``.
        """
        ...


class Clock(Protocol):
    """Time. Order is by sequence number; durations come from the monotonic clock."""

    def now(self) -> datetime:
        """The time of day, in UTC."""
        ...

    def monotonic_ms(self) -> float:
        """Milliseconds that never go back."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic_ms(self) -> float:
        return time.monotonic() * 1000.0


RandomBelow = Callable[[int], int]
"""Draws a whole number from 0 up to, and not including, its argument."""
