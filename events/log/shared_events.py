"""The events of logs that several processes append to: their envelope, and what is common to all.

The rules for fields and tags are those of ``stagewright.events.model``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, TypedDict

import msgspec

from ..codec import Codec
from ..model import Index, InsidePath
from .kind import LogKind


class SharedEnvelope(TypedDict):
    """The fields that a shared log gives to every event."""

    seq: int
    ts: datetime
    host: str
    boot_id: str
    pid: int


class SharedEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="type"):
    """Base of every event of a shared log; ``host``, ``boot_id`` and ``pid`` are its writer's.

    All events are barriers: nothing follows one before it is durable.
    """

    v: int = 1
    seq: Index
    ts: Annotated[datetime, msgspec.Meta(tz=True)]
    host: str
    boot_id: str
    pid: int

    barrier: ClassVar[bool] = True


class SharedLogRepaired(SharedEvent, frozen=True, kw_only=True, gc=False, tag="LogRepaired"):
    """A torn tail of ``bytes`` bytes at ``offset`` was copied to ``copied_to`` and cut."""

    offset: int
    bytes: int
    sha256: str
    copied_to: InsidePath


class UnknownSharedEvent(SharedEvent, frozen=True, kw_only=True, gc=False, tag=False):
    """An event of a type, or of a version, that a newer stagewright wrote; see UnknownEvent."""

    type: str
    raw: bytes


def shared_kind(
    noun: str, stem: str, first: type[SharedEvent], *others: type[SharedEvent], advice: str
) -> LogKind[SharedEvent]:
    """The kind of the log ``STEM.jsonl`` with its lock ``STEM.lock``.

    Its first event is a ``first``; ``others`` and LogRepaired follow.
    """
    return LogKind(
        noun=noun,
        file_name=f"{stem}.jsonl",
        lock_name=f"{stem}.lock",
        codec=Codec((first, *others, SharedLogRepaired), UnknownSharedEvent),
        first=first,
        seal=None,
        owner_of=lambda _event: "",  # there is one in a folder of runs
        advice=advice,
    )
