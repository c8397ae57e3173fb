"""The events of ``queue.jsonl``; ``host``, ``boot_id`` and ``pid`` are those of their writer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from ..groups.model import SweepAxis, Variant
from ..log.record_file import RecordFile
from ..log.shared_events import SharedEvent, shared_kind
from ..model import ErrorDetail, Index, Outcome

# A foreign queue names folders by these ids: none of them may lead elsewhere.
Id = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[0-9]{8}T[0-9]{6}\.[0-9]{6}Z-[^/\\\x00-\x1f]{1,120}-[0-9a-f]{6}\Z",
        max_length=160,
    ),
]
"""The id of a job, a run or a group."""
MOST_NAME_CHARACTERS, MOST_KINDS_OF_WORK = 1_000, 1_000
MOST_SERVERS, MOST_URL_CHARACTERS = 100, 2_000
"""A foreign queue may hold anything; these are kept in memory, or in every row of a list."""
Priority = Annotated[int, msgspec.Meta(ge=-1_000_000, le=1_000_000)]
Url = Annotated[str, msgspec.Meta(max_length=MOST_URL_CHARACTERS)]
Time = Annotated[datetime, msgspec.Meta(tz=True)]


class JobKind(StrEnum):
    """What a job does."""

    RUN = "run"
    SWEEP = "sweep"
    RERUN = "rerun"
    RESUME = "resume"


class PauseMode(StrEnum):
    """When a paused queue stops the jobs in progress."""

    NOW = "now"
    AFTER_IMAGE = "after_image"
    AFTER_RUN = "after_run"


class RerunSource(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The run that a rerun repeats, and the indexes there of its images.

    ``seed_indexes`` are those of ``RunOpened``; it runs on the server of that run, where
    ``on_its_server`` says so. With ``from_stage``, the job begins only if all
    images of the stages before it can be reused.
    """

    run_id: Id
    images: tuple[Index, ...]
    seed_indexes: tuple[Index, ...] = ()
    from_stage: str | None = None
    on_its_server: bool = True


class StageWork(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one kind of stage of a job has to do, for estimates.

    ``weight`` is that of all images together, and ``pixels`` the size of one, where it is known.
    """

    stage_type: str
    model: str = ""
    weight: float
    pixels: float | None = None


class QueueOpened(SharedEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """The queue exists."""

    software: str


class JobAdded(SharedEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """A job waits. Everything that it will do is recorded here, and in files that this names.

    ``config`` is the configuration without its sweep. ``seed`` stands in for every seed that is
    left to chance, and ``found`` is what was found outside the configuration, as in GroupOpened:
    drawn prompts, and copies of images in ``queue/JOB_ID/``. ``variants`` has one entry for a run.
    A rerun has ``rerun``; a resume has ``resumes``, the id of a run or group, and no configuration.
    ``checkpoints`` are the first and the last that the job loads.
    """

    job_id: Id
    job: JobKind
    config: Mapping[str, Any]
    name: Annotated[str, msgspec.Meta(max_length=MOST_NAME_CHARACTERS)]
    priority: Priority = 0
    not_before: Time | None = None
    seed: Index = 0
    found: tuple[Mapping[str, Any], ...] = ()
    axes: tuple[SweepAxis, ...] = ()
    variants: tuple[Variant, ...] = ()
    random: int | None = None
    random_seed: int | None = None
    fail_fast: bool = False
    rerun: RerunSource | None = None
    resumes: Id | None = None
    checkpoints: tuple[str | None, str | None] = (None, None)
    total_images: Index = 0
    work: Annotated[tuple[StageWork, ...], msgspec.Meta(max_length=MOST_KINDS_OF_WORK)] = ()


class JobEvent(SharedEvent, frozen=True, kw_only=True, gc=False):
    """Base of the events of a job that was added."""

    job_id: Id


class JobMoved(JobEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """A waiting job has its place before another one of its priority, or at their end."""

    before: Id | None


class JobBegun(JobEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """A worker works on a job, under this run or group; durable before its folder is made.

    A later worker that continues a job after the death of another one adds another such event.
    ``images`` are those that were finished by then.
    """

    run_id: Id | None = None
    group_id: Id | None = None
    images: Index = 0


class JobStopped(JobEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """The worker stopped, and not the job: it waits to be continued, before the others."""

    reason: str


class JobEnded(JobEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """A job has ended; ``error`` says why it is not completed, where that is known."""

    outcome: Outcome
    error: ErrorDetail | None = None


class JobSetAside(JobEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """No worker takes a job any more, for a reason, until it is retried."""

    reason: str


class JobRetried(JobEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """A job that ended, or was set aside, waits again."""


class JobRemoved(JobEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """A job is never done, or is not listed any more; its run stays."""


class QueuePaused(SharedEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """No job begins; those in progress stop as ``mode`` says."""

    mode: PauseMode


class QueueResumed(SharedEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """Jobs begin again."""


class ServerAdded(SharedEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """Workers that are given no server use this one too."""

    url: Url


class ServerRemoved(SharedEvent, frozen=True, kw_only=True, gc=False, tag=True):
    """Workers use this server no more."""

    url: str


QUEUE_EVENT_TYPES: tuple[type[SharedEvent], ...] = (
    QueueOpened,
    JobAdded,
    JobMoved,
    JobBegun,
    JobStopped,
    JobEnded,
    JobSetAside,
    JobRetried,
    JobRemoved,
    QueuePaused,
    QueueResumed,
    ServerAdded,
    ServerRemoved,
)
"""Every known event type of a queue but LogRepaired; ``docs/events.md`` is checked against it."""

QUEUE_LOG = shared_kind(
    "queue",
    "queue",
    QueueOpened,
    *QUEUE_EVENT_TYPES[1:],
    advice="`stagewright queue salvage` keeps all other records",
)
"""The log ``queue.jsonl``."""


class QueueFile(RecordFile[SharedEvent]):
    """The log of a queue while its lock is held."""

    kind = QUEUE_LOG
