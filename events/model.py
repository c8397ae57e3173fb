"""The facts of a run: one frozen tagged union, with a common envelope.

Field order is wire order. New fields have defaults and tags are never reused. A change of a
type's shape raises its ``v`` and adds an upcaster to ``codec``. A change of meaning takes a new
type: an older reader reads a higher ``v`` of a type that it knows as far as the fields fit.
Durations are milliseconds as floats; times are UTC; paths use ``/`` and are relative to the run
folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec


class RunState(StrEnum):
    """The states of a run's lifecycle."""

    IDLE = "IDLE"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    ERROR = "ERROR"
    CANCELLED = "CANCELLED"


TRIGGERS = ("start", "finish", "fail", "cancel", "recover", "cleanup", "reset")
"""The triggers of the lifecycle; the table is in ``stagewright.statemachine.states``."""


class StageType(StrEnum):
    """The built-in stages in canonical order; a log may hold the names of others."""

    TXT2IMG = "txt2img"
    IMG2IMG = "img2img"
    UPSCALE = "upscale"
    ADETAILER = "adetailer"


class Outcome(StrEnum):
    """How a run, or a stage within one epoch, ended."""

    COMPLETED = "completed"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"


class CancelMode(StrEnum):
    """``now`` interrupts the image being made; ``after_image`` lets it finish."""

    NOW = "now"
    AFTER_IMAGE = "after_image"


class Durability(StrEnum):
    """When the log is synced.

    ``checkpoint``: at the barriers, so that a power loss takes nothing that was announced.
    ``every``: after each record. ``process``: never; this survives the death of the process
    but not of the machine.
    """

    CHECKPOINT = "checkpoint"
    EVERY = "every"
    PROCESS = "process"


# No segment begins with a dot, so none is "." or ".." and none is hidden; no drive, no
# backslash, no control character. What this pattern accepts stays inside the run folder.
_SEGMENT = r"[^/\\:\x00-\x1f\x7f.][^/\\:\x00-\x1f\x7f]*"
InsidePath = Annotated[
    str, msgspec.Meta(pattern=rf"^{_SEGMENT}(?:/{_SEGMENT})*\Z", max_length=1024)
]
# Beyond 2**53 - 1 a JSON reader may round, and beyond 64 bits no table of ours could hold it.
Index = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


_FOLDER = "folder"
"""Under this name, an artifact knows its run's folder: no field, for the log has none."""


class Artifact(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One image file of a run.

    ``sha256`` is the digest of the file, ``source_sha256`` that of its source: the image
    without the ``stagewright`` chunk, which is what the next stage is sent. ``bytes`` is the
    file's size, ``width`` and ``height`` are pixels.
    """

    path: InsidePath
    image_index: Index
    sha256: str
    source_sha256: str
    bytes: int
    media_type: str
    width: int
    height: int
    seed: int

    @property
    def number(self) -> int:
        """The image's number, as people count: from 1."""
        return self.image_index + 1

    @property
    def file(self) -> Path:
        """The image's file, absolute; relative to the run folder for a log in memory."""
        return Path(self.__dict__.get(_FOLDER, "")) / self.path

    def locate(self, folder: Path) -> None:
        """Say in which run folder, an absolute path, the image's ``file`` is."""
        self.__dict__[_FOLDER] = folder


class OriginalFile(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The file that an input was copied from: its name and its digest."""

    name: str
    sha256: str


class InputRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One input image, or a mask: its copy in the run folder and where it came from.

    ``original`` is the file that it was copied from; the copy of another format than PNG, JPEG
    or WebP is a PNG. (Earlier versions recorded it for those alone.) ``seed`` is the seed that
    made the image, where that is known. An input with a ``refusal`` could not be used, so it has
    no copy, no digest and no images.
    """

    path: InsidePath
    sha256: str
    source_sha256: str
    parent_run_id: str | None = None
    original: OriginalFile | None = None
    seed: int | None = None
    refusal: str | None = None


class ImagePrompt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The prompts of one image, as they were drawn; a None is not sent."""

    prompt: str
    negative_prompt: str | None = None


class SourceFile(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A file that prompts came from: a prompt file or a wildcard; ``path`` as written."""

    path: str
    sha256: str


class ServerDescription(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One of several servers that make the images of a run."""

    url: str
    product: str | None = None
    version: str | None = None


class BackendDescription(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The backend that made the images: ``kind`` is ``embedded`` or a server's family.

    ``options`` are those of the server that change pixels and that every request of the run
    carries; they are left out where the server's options are not known. ``files`` are the hashes
    that it reports, by kind and name (``model sd_xl_base_1.0``), of the files that the plan names;
    a file without a reported hash is left out. ``servers`` are all servers of the run where there
    are several; ``url``, ``product`` and ``version`` are those of the first.
    """

    kind: str
    url: str | None = None
    product: str | None = None
    version: str | None = None
    options: Mapping[str, Any] | msgspec.UnsetType = msgspec.UNSET
    files: Mapping[str, str] | msgspec.UnsetType = msgspec.UNSET
    servers: tuple[ServerDescription, ...] | msgspec.UnsetType = msgspec.UNSET

    @property
    def urls(self) -> tuple[str | None, ...]:
        """The addresses of all servers; None stands for a backend without one."""
        if isinstance(self.servers, tuple):
            return tuple(one.url for one in self.servers)
        return (self.url,)


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An exception as text: its type, its message, and what else is known of it.

    ``stage_id`` and ``image_index`` say where it happened, when it happened in a stage.
    """

    kind: str
    message: str
    detail: str = ""
    stage_id: str | None = None
    image_index: int | None = None


class StageEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="type"):
    """Base of the union: the envelope that every event carries.

    ``v`` is the schema version of the event's own type, ``seq`` counts from 0 without a gap,
    ``epoch`` is 0 for the first process that ran the run and one more for each resume.
    """

    v: int = 1
    run_id: str
    seq: Index
    ts: Annotated[datetime, msgspec.Meta(tz=True)]
    epoch: Index = 0

    barrier: ClassVar[bool] = False


class RunOpened(StageEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """The run exists: its whole configuration, plan and every random choice.

    ``inputs`` are the input images, then the mask, or a mask for each of them. ``ca_bundle`` is the
    absolute path of ``server.ca_bundle``, where ``config`` has another. ``prompts`` are those of
    the images by index, left out where all have those of the top level; ``sources`` are the files
    that they came from. A run of a group has its ``group_id``, and the ``variant_index`` and
    ``varied`` values (by key) of its variant. A rerun has its ``parent_run_id``, and
    ``parent_images``: the index there of each of its images; a stage's own seed counts from its
    ``seed_indexes`` instead of the indexes of the images.
    """

    config: Mapping[str, Any]
    plan: Mapping[str, Any]
    seeds: tuple[int, ...]
    inputs: tuple[InputRecord, ...] = ()
    backend: BackendDescription
    software: str
    group_id: str | None = None
    variant_index: int | None = None
    host: str
    boot_id: str
    pid: int
    ca_bundle: str | msgspec.UnsetType = msgspec.UNSET
    prompts: tuple[ImagePrompt, ...] | msgspec.UnsetType = msgspec.UNSET
    sources: tuple[SourceFile, ...] | msgspec.UnsetType = msgspec.UNSET
    varied: Mapping[str, Any] | msgspec.UnsetType = msgspec.UNSET
    parent_run_id: str | msgspec.UnsetType = msgspec.UNSET
    parent_images: tuple[Index, ...] | msgspec.UnsetType = msgspec.UNSET
    seed_indexes: tuple[Index, ...] | msgspec.UnsetType = msgspec.UNSET

    barrier: ClassVar[bool] = True


class LifecycleChanged(StageEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """The lifecycle moved; durable before the new state is visible."""

    trigger: str
    source: RunState
    dest: RunState
    reason: str = ""
    error: ErrorDetail | None = None

    barrier: ClassVar[bool] = True


class StageStart(StageEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """Work on a stage begins in this epoch."""

    stage_id: str
    stage_type: str
    order_index: Index
    total_images: Index
    metadata: Mapping[str, Any]


class CallRequested(StageEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """One attempt at one request is about to be sent; ``inputs`` are ``source_sha256`` values.

    ``server`` is the address of the server that it is sent to.
    """

    call_id: str
    stage_id: str
    image_index: Index
    count: int
    attempt: Index
    request_sha256: str
    inputs: tuple[str, ...] = ()
    server: str | msgspec.UnsetType = msgspec.UNSET

    barrier: ClassVar[bool] = True


class CallCompleted(StageEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """The answer's images are durable. ``info`` is what the server says it really used."""

    call_id: str
    endpoint: str
    artifacts: tuple[Artifact, ...]
    info: Mapping[str, Any]
    duration_ms: float

    barrier: ClassVar[bool] = True


class ReuseOrigin(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The run that made an image, and its call, also across several reuses."""

    run_id: str
    call_id: str


class CallReused(StageEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """The images of a request were made before, and their copies here are durable.

    ``image_index`` is the first of them, ``info`` that of the answer then, ``origin`` (``from`` in
    the log) the call that made them. ``inputs`` are ``source_sha256`` values. ``not_checked`` are
    the files that the request names, of which no hash was reported then or now.
    """

    stage_id: str
    image_index: Index
    request_sha256: str
    artifacts: tuple[Artifact, ...]
    info: Mapping[str, Any]
    origin: ReuseOrigin = msgspec.field(name="from")
    inputs: tuple[str, ...] = ()
    not_checked: tuple[str, ...] = ()

    barrier: ClassVar[bool] = True


class CallFailed(StageEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """An attempt gave no image; ``will_retry`` says whether another follows in this epoch.

    ``interrupted`` is set, and true, if the backend was asked to stop the request, so that it may
    keep a half-made image of it; ``settled`` if it is known not to work on it any more.
    """

    call_id: str
    endpoint: str
    error: ErrorDetail
    will_retry: bool
    interrupted: bool | msgspec.UnsetType = msgspec.UNSET
    settled: bool | msgspec.UnsetType = msgspec.UNSET


class StageImageProgress(StageEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """Image ``image_index`` of ``total_images`` is finished in this stage."""

    stage_id: str
    stage_type: str
    image_index: Index
    total_images: Index
    artifact: Artifact


class StageEnd(StageEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """Work on a stage ends in this epoch; ``image_count`` images of it are finished by now."""

    stage_id: str
    stage_type: str
    image_count: Index
    duration_ms: float
    outcome: Outcome


class CancelRequested(StageEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """The run is asked to stop; durable before the server is notified."""

    reason: str
    mode: CancelMode

    barrier: ClassVar[bool] = True


class RunResumed(StageEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """A later process goes on with the run; ``completed_images`` need not be made again.

    ``lost`` is set if files of finished images are missing or altered, so that these must be made
    again: by stage id, the first and the last index of each range of them.
    """

    completed_images: int
    backend: BackendDescription
    software: str
    host: str
    boot_id: str
    pid: int
    lost: Mapping[str, tuple[tuple[Index, Index], ...]] | msgspec.UnsetType = msgspec.UNSET

    barrier: ClassVar[bool] = True


class LogRepaired(StageEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """A torn tail of ``bytes`` bytes at ``offset`` was copied to ``copied_to`` and cut."""

    offset: int
    bytes: int
    sha256: str
    copied_to: InsidePath

    barrier: ClassVar[bool] = True


class ImagesRemoved(StageEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """The files of these images are removed on purpose: they are sound, and never made again."""

    artifacts: tuple[Artifact, ...]
    reason: str

    barrier: ClassVar[bool] = True


class StorageLimited(StageEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """The file system of the run cannot guarantee ``what``, as its error ``errno`` says.

    ``folder_sync``: after a power loss, a file that was made last may be missing or have no name.
    ``drive_sync``: the drive may lose what it has in its own cache.
    """

    what: str
    errno: int


class RunSealed(StageEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """An epoch is closed: ``count`` records precede this one, ``head`` is the chain here."""

    count: int
    head: str
    outcome: Outcome

    barrier: ClassVar[bool] = True


class UnknownEvent(StageEvent, frozen=True, kw_only=True, gc=False, tag=False):
    """An event of a type, or of a version, that a newer stagewright wrote.

    ``type`` is its tag and ``raw`` the bytes of the whole event as they are in the log.
    """

    type: str
    raw: bytes


EVENT_TYPES: tuple[type[StageEvent], ...] = (
    RunOpened,
    LifecycleChanged,
    StageStart,
    CallRequested,
    CallCompleted,
    CallReused,
    CallFailed,
    StageImageProgress,
    StageEnd,
    CancelRequested,
    RunResumed,
    LogRepaired,
    ImagesRemoved,
    StorageLimited,
    RunSealed,
)
"""Every known event type; ``docs/events.md`` is checked against it."""


class StepProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the image being made is: ``step`` of ``steps``; never a fact of the log.

    ``fraction`` is 0 to 1 over the whole request, ``eta_s`` seconds left, where known.
    """

    stage_id: str
    image_index: int
    step: int
    steps: int
    fraction: float
    eta_s: float | None = None
