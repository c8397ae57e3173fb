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
from typing import Annotated, Any, ClassVar

import msgspec

from .values import TRIGGERS as TRIGGERS
from .values import Artifact as Artifact
from .values import BackendDescription as BackendDescription
from .values import CancelMode as CancelMode
from .values import Durability as Durability
from .values import ErrorDetail as ErrorDetail
from .values import ImagePrompt as ImagePrompt
from .values import Index as Index
from .values import InputRecord as InputRecord
from .values import InsidePath as InsidePath
from .values import OriginalFile as OriginalFile
from .values import Outcome as Outcome
from .values import ReuseOrigin as ReuseOrigin
from .values import RunState as RunState
from .values import ServerDescription as ServerDescription
from .values import SourceFile as SourceFile
from .values import StageType as StageType
from .values import StepProgress as StepProgress


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
    """A later process continues the run; ``completed_images`` need not be made again.

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
