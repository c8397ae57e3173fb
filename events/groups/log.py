"""The log of a group: ``group.jsonl``, framed, chained and locked as the log of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from operator import attrgetter
from pathlib import Path

import msgspec

from ..codec import Codec, tag_of
from ..errors import GroupNotFoundError
from ..log.kind import LogKind
from ..log.record_file import RecordFile
from ..log.scan import RecordScan
from ..log.storage import Storage, is_regular
from .model import GROUP_EVENT_TYPES, GroupEvent, GroupOpened, GroupSealed

GROUP_LOG_NAME = "group.jsonl"
GROUP_LOCK_NAME = "group.lock"


class UnknownGroupEvent(GroupEvent, frozen=True, kw_only=True, gc=False, tag=False):
    """An event of a type, or of a version, that a newer stagewright wrote; see UnknownEvent."""

    type: str
    raw: bytes


class _Envelope(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    v: int = 1
    group_id: str
    seq: int
    ts: datetime
    epoch: int = 0


GROUP_LOG: LogKind[GroupEvent] = LogKind(
    noun="group",
    file_name=GROUP_LOG_NAME,
    lock_name=GROUP_LOCK_NAME,
    codec=Codec(GROUP_EVENT_TYPES, UnknownGroupEvent, _Envelope, {}),
    first=GroupOpened,
    seal=GroupSealed,
    barrier_tags=frozenset(map(tag_of, GROUP_EVENT_TYPES)),
    owner_of=attrgetter("group_id"),
    advice="its runs are not affected: `stagewright list` shows them, `resume RUN` continues one",
)


class GroupLog(RecordFile[GroupEvent]):
    """The log of one group's folder, held by ``group.lock`` until ``close``; see RecordFile."""


def read_group_log(
    folder: Path,
    observe: Callable[[Sequence[GroupEvent]], None],
    *,
    storage: Storage | None = None,
) -> None:
    """Give the events of a group to ``observe``, in order; a torn tail is left alone.

    Raises GroupNotFoundError, LogCorruptError once the sound events before the place have been
    observed, and OSError.
    """
    path = folder / GROUP_LOG_NAME
    if not is_regular(path):
        raise GroupNotFoundError(f"{folder}: no group is here (there is no {GROUP_LOG_NAME})")
    with (storage or Storage()).open_read(path) as stream:
        for batch in RecordScan(GROUP_LOG, stream, path=path).batches():
            observe(batch)


def read_group(folder: Path) -> list[GroupEvent]:
    """The events of a group, in order; raises what ``read_group_log`` raises."""
    events: list[GroupEvent] = []
    read_group_log(folder, events.extend)
    return events
