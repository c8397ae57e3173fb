"""A log's events as a sequence that stays on disk."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..codec import CODEC
from ..errors import LogCorruptError
from ..model import StageEvent
from .format import check
from .lazy_sequence import LazySequence
from .scan import LogScan, TornTail
from .storage import OsStorage, Storage


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
        storage: Storage | None = None,
    ) -> None:
        self._path = path
        self._offsets = offsets
        self._end = end
        self._storage = storage or OsStorage()
        self._codec = CODEC
        self.torn = torn

    def __len__(self) -> int:
        return len(self._offsets)

    def select(self, indexes: Iterable[int]) -> Iterator[StageEvent]:
        """The events at these indexes, in the order asked for."""
        return map(self._codec.decode, self.raw(indexes))

    def raw(self, indexes: Iterable[int]) -> Iterator[bytes]:
        """The bytes of ``e`` of these records, as they stand in the log."""
        with self._storage.open_read(self._path) as stream:
            for index in indexes:
                position = range(len(self))[index]
                start = self._offsets[position]
                last = position + 1 == len(self)
                stream.seek(start)
                size = (self._end if last else self._offsets[position + 1]) - start
                body = check(stream.read(size))
                if body is None:
                    raise self._changed(start, position)
                yield body

    def __iter__(self) -> Iterator[StageEvent]:
        with self._storage.open_read(self._path) as stream:
            scan = LogScan(stream, path=self._path, size=self._end)
            for batch in scan.batches():
                yield from batch
            if scan.end != self._end:
                raise self._changed(scan.end, scan.count)

    def _changed(self, offset: int, seq: int) -> LogCorruptError:
        reason = "it changed while it was being read"
        return LogCorruptError(reason, offset=offset, seq=seq, path=self._path)

    def __repr__(self) -> str:
        return f"<{len(self)} events of {self._path}>"
