"""A log's events as a sequence that stays on disk."""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from operator import eq
from pathlib import Path
from typing import TypeVar, overload

from ..codec import CODEC
from ..errors import LogCorruptError
from ..model import Artifact, StageEvent
from .format import check
from .kind import RUN_LOG
from .storage import open_regular
from .verified_scan import RecordScan, TornTail

T = TypeVar("T")
_Event = TypeVar("_Event", bound=StageEvent)


class LazySequence(Sequence[T]):
    """A sequence whose members are read when asked for; equal to any with equal members."""

    @abstractmethod
    def select(self, indexes: Iterable[int]) -> Iterator[T]:
        """The members at these indexes (0 or more), in the order asked for."""

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        places = range(len(self))
        if isinstance(index, slice):
            return tuple(self.select(places[index]))
        return next(self.select([places[index]]))

    def __iter__(self) -> Iterator[T]:
        return self.select(range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]  # sequences that compare by content have none


def events_at(events: Sequence[StageEvent], seqs: Iterable[int]) -> Iterator[StageEvent]:
    """The events with these numbers; those of a log are read through one open file."""
    if isinstance(events, LazySequence):
        return events.select(seqs)
    return (events[seq] for seq in seqs)


def with_files(event: _Event, folder: Path) -> _Event:
    """``event``, whose images know from now on that this is their run folder, an absolute path."""
    one: Artifact | None = getattr(event, "artifact", None)
    for artifact in getattr(event, "artifacts", ()) if one is None else (one,):
        artifact.locate(folder)
    return event


class FileTimeline(LazySequence[StageEvent]):
    """The sound records of a log file, read when asked for; 8 bytes of memory for each.

    ``torn`` is the torn tail behind them, if there is one. Every read is checked again.
    """

    def __init__(
        self,
        path: Path,
        offsets: array[int],
        end: int,
        *,
        torn: TornTail | None = None,
    ) -> None:
        self._path = path
        self._offsets = offsets
        self._end = end
        self.torn = torn

    @property
    def folder(self) -> Path:
        """The folder of the log, absolute."""
        return self._path.parent.absolute()

    def __len__(self) -> int:
        return len(self._offsets)

    def select(self, indexes: Iterable[int]) -> Iterator[StageEvent]:
        """The events at these indexes, in the order asked for."""
        folder = self.folder
        return (with_files(CODEC.decode(body), folder) for body in self.raw(indexes))

    def raw(self, indexes: Iterable[int]) -> Iterator[bytes]:
        """The bytes of ``e`` of these records, as they are in the log."""
        with open_regular(self._path) as stream:
            for index in indexes:
                start = self._offsets[index]
                is_last = index + 1 == len(self)
                end = self._end if is_last else self._offsets[index + 1]
                stream.seek(start)
                body = check(stream.read(end - start))
                if body is None:
                    raise self._changed(start, index)
                yield body

    def __iter__(self) -> Iterator[StageEvent]:
        folder = self.folder
        with open_regular(self._path) as stream:
            scan = RecordScan(RUN_LOG, stream, path=self._path, size=self._end)
            for batch in scan.batches():
                for event in batch:
                    yield with_files(event, folder)
            if scan.end != self._end:
                raise self._changed(scan.end, scan.count)

    def _changed(self, offset: int, seq: int) -> LogCorruptError:
        reason = "it changed while it was being read"
        return LogCorruptError(reason, offset=offset, seq=seq, path=self._path)

    def __repr__(self) -> str:
        return f"<{len(self)} events of {self._path}>"
