"""What the state machine asks of the world outside: backends, input images, time, chance."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec

from ..events.model import BackendDescription, StageType
from ..events.model import StepProgress as StepProgress

if TYPE_CHECKING:
    from .config.schema import ServerTable
    from .config.stage_configs import StageConfig
    from .plan.plan import StageExecutionPlan
    from .run.cancel import CancelToken


class ImageFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What an image's bytes say of themselves; ``width`` and ``height`` are pixels."""

    media_type: str
    width: int
    height: int


class SourceImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image to be sent: its source bytes (no ``stagewright`` chunk) and their digest."""

    data: bytes
    source_sha256: str
    media_type: str
    width: int
    height: int


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request for one or more images of a stage.

    ``seed`` belongs to the first of ``count`` images; each further one has one more.
    ``inputs`` is empty for txt2img and else holds one image. ``unanswered`` are call ids of
    earlier attempts, in order, that the backend must settle first: wait for them, or make
    sure that they no longer run. ``interrupted`` says that one of them was told to stop, so
    that a server may keep something half made of it. ``request_sha256`` is equal in all
    attempts and backends.
    """

    call_id: str
    run_id: str
    stage_id: str
    stage_type: StageType
    image_index: int
    count: int
    total_images: int
    attempt: int
    seed: int
    config: StageConfig
    inputs: tuple[SourceImage, ...] = ()
    mask: SourceImage | None = None
    unanswered: tuple[str, ...] = ()
    interrupted: bool = False
    request_sha256: str = ""


class GeneratedImage(msgspec.Struct, frozen=True, kw_only=True):
    """One image as the backend gave it: PNG, JPEG or WebP bytes."""

    data: bytes


class GenerateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """``images`` in seed order; ``info`` is what was really used, as JSON values.

    ``info["changed"]`` is False when the backend gave back the pixels it was sent. ``confirm``
    is called once the images are on disk, before they count, by a backend that goes on
    checking meanwhile; it raises BackendError if they are no good after all.
    """

    images: tuple[GeneratedImage, ...]
    endpoint: str
    info: Mapping[str, Any] = {}
    confirm: Callable[[], None] | None = None


class OnStep(Protocol):
    """Told by a backend how far a request is; cheap, and never raises."""

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
        """What it is, for the log."""
        ...

    def generate_images(
        self, request: GenerateRequest, *, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        """Make one attempt at one request.

        Raises BackendError, whose ``transient`` says whether to try again (retries are the
        runner's), and GenerationCancelled once ``cancel.cancelled`` made it stop.
        """
        ...


@runtime_checkable
class PreparableBackend(Protocol):
    """A backend that wants to know of each run before its folder is made."""

    def prepare(
        self,
        plan: StageExecutionPlan,
        server: ServerTable,
        *,
        preflight: bool,
        recorded: BackendDescription | None = None,
        unsettled: Mapping[str, StageType] = {},
    ) -> None:
        """Be ready for ``plan`` with these settings; ``description`` is asked for afterwards.

        With ``preflight``, see whether the names that it uses are there. For a run that is
        taken up again, ``recorded`` is what it was made with so far, and ``unsettled`` are
        the calls whose answers nobody got, to be settled before anything is sent. Raises
        ConfigurationError: nothing is started then.
        """
        ...

    def release(self) -> None:
        """The run has ended: give back what was held for it."""
        ...


class InputReader(Protocol):
    """Decodes images so far as to know that they can be used."""

    def inspect(self, data: bytes, *, name: str, decode: bool = True) -> ImageFacts:
        """Kind and size of an image; with ``decode`` every pixel is tried.

        Raises InputImageError, naming ``name``, for anything but a PNG, JPEG or WebP within
        the reader's bounds.
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
