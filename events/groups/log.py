"""The log of a group: ``group.jsonl``, framed, chained and locked as the log of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path

from ..codec import Codec
from ..errors import GroupNotFoundError
from ..log.kind import LogKind
from ..log.record_file import RecordFile
from ..log.storage import is_regular, open_regular
from ..log.verified_scan import RecordScan
from .model import GROUP_EVENT_TYPES, GroupEvent, GroupOpened, GroupSealed

GROUP_LOG_NAME = "group.jsonl"
GROUP_LOCK_NAME = "group.lock"


class UnknownGroupEvent(GroupEvent, frozen=True, kw_only=True, gc=False, tag=False):
    """An event of a type, or of a version, that a newer stagewright wrote; see UnknownEvent."""

    type: str
    raw: bytes


GROUP_LOG: LogKind[GroupEvent] = LogKind(
    noun="group",
    file_name=GROUP_LOG_NAME,
    lock_name=GROUP_LOCK_NAME,
    codec=Codec(GROUP_EVENT_TYPES, UnknownGroupEvent),
    first=GroupOpened,
    seal=GroupSealed,
    owner_of=attrgetter("group_id"),
    advice="its runs are not affected: `stagewright list` shows them, `resume RUN` continues one",
)


class GroupLog(RecordFile[GroupEvent]):
    """The log of one group's folder, held by ``group.lock`` until ``close``."""

    kind = GROUP_LOG


def read_group_log(folder: Path, observe: Callable[[Sequence[GroupEvent]], None]) -> None:
    """Give the events of a group to ``observe``, in order; a torn tail is left alone.

    Raises GroupNotFoundError, LogCorruptError once the sound events before the place have been
    observed, and OSError.
    """
    path = folder / GROUP_LOG_NAME
    if not is_regular(path):
        raise GroupNotFoundError(f"{folder}: no group is here (there is no {GROUP_LOG_NAME})")
    with open_regular(path) as stream:
        for batch in RecordScan(GROUP_LOG, stream, path=path).batches():
            observe(batch)


def read_group(folder: Path) -> list[GroupEvent]:
    """The events of a group, in order; raises what ``read_group_log`` raises."""
    events: list[GroupEvent] = []
    read_group_log(folder, events.extend)
    return events


class GroupLogTail:
    """A position in the log of a group; ``last`` is the last event that was read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last: GroupEvent | None = None
        self._size = -1

    def read(self) -> list[GroupEvent]:
        """The events since the last reading, in order.

        Cheap while the log does not grow. Raises GroupNotFoundError, LogCorruptError, OSError.
        """
        path = self.folder / GROUP_LOG_NAME
        size = path.stat().st_size if path.exists() else -1
        if size == self._size:
            return []
        after = -1 if self.last is None else self.last.seq
        news = [event for event in read_group(self.folder) if event.seq > after]
        self._size = size
        self.last = news[-1] if news else self.last
        return news
