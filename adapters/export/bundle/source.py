"""The sound records of the log that a bundle is made from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from ....events.errors import LogCorruptError
from ....events.folds import Fold
from ....events.log.intact_records import PlanLostError, SoundRecords
from ....events.log.lock import is_locked
from ....events.log.reader import log_path, read_log
from ....events.log.storage import OsStorage, open_regular
from ....events.log.timeline import LazySequence
from ....events.model import StageEvent

_MOST_RANGES = 1000
_READ_BYTES = 1024 * 1024

Observe = Callable[[Sequence[StageEvent]], None]


class ByteRange(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of a log that are not part of a sound record; a bundle leaves them out."""

    offset: int
    bytes: int
    sha256: str


class SourceLog(ABC):
    """The sound records of a log, in order.

    ``events`` are numbered from 0, read on demand, and folded into ``fold``. ``renumbered``
    says that their numbers differ from those in the log, because some are lost; ``running``
    that a process is executing the run. ``left_out`` lists the bytes outside sound records: a
    torn tail, or damage.
    """

    renumbered = False
    running = False

    def __init__(self, path: Path, corruption: LogCorruptError | None = None) -> None:
        self.path = path
        self.corruption = corruption
        self.fold = Fold()
        self.events: Sequence[StageEvent] = ()
        self.left_out: tuple[ByteRange, ...] = ()

    @abstractmethod
    def bodies(self) -> Iterator[bytes]:
        """The bytes of each event, in order. Raises LogCorruptError if the log has changed."""


def open_source(folder: Path, observe: Observe) -> SourceLog:
    """The log of a run folder; ``observe`` receives its sound events in batches, in order.

    A record that another process is writing does not count as torn. Raises RunNotFoundError,
    OSError.
    """
    try:
        return _SoundLog(folder, observe)
    except LogCorruptError as error:
        corruption = error
    with suppress(PlanLostError):
        return _DamagedLog(folder, corruption, observe)
    return _LostLog(log_path(folder), corruption)


class _SoundLog(SourceLog):
    def __init__(self, folder: Path, observe: Observe) -> None:
        super().__init__(log_path(folder))
        self.running = is_locked(folder)

        def both(events: Sequence[StageEvent]) -> None:
            observe(events)
            self.fold.apply_all(events)

        self.events = self._timeline = read_log(folder, both)
        torn = None if self.running else self._timeline.torn
        if torn is not None:
            self.left_out = (_byte_range(self.path, torn.offset, torn.bytes),)

    def bodies(self) -> Iterator[bytes]:
        return self._timeline.raw(range(len(self._timeline)))


class _DamagedLog(SourceLog):
    renumbered = True

    def __init__(self, folder: Path, corruption: LogCorruptError, observe: Observe) -> None:
        super().__init__(log_path(folder), corruption)
        self._records = SoundRecords(self.path, storage=OsStorage())
        self.events = _RenumberedEvents(self._records)
        for event in self.events:
            observe((event,))
            self.fold.apply(event)
        records = ((one.offset, one.offset + one.size) for one in self._records)
        self.left_out = tuple(_between(self.path, sorted(records)))

    def bodies(self) -> Iterator[bytes]:
        return (record.body for record in self._records)


class _LostLog(SourceLog):
    """A log without a sound RunOpened, of which nothing can be used."""

    def __init__(self, path: Path, corruption: LogCorruptError) -> None:
        super().__init__(path, corruption)
        self.left_out = (_byte_range(path, 0, path.stat().st_size),)

    def bodies(self) -> Iterator[bytes]:
        return iter(())


class _RenumberedEvents(LazySequence[StageEvent]):
    """The events of a damaged log, numbered without gaps."""

    def __init__(self, records: SoundRecords) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[StageEvent]:
        for place, record in enumerate(self._records):
            yield _numbered(record.event, place)

    def select(self, indexes: Iterable[int]) -> Iterator[StageEvent]:
        for place in indexes:
            yield _numbered(self._records[place].event, place)


def _numbered(event: StageEvent, place: int) -> StageEvent:
    return msgspec.structs.replace(event, seq=place)


def _between(path: Path, records: Sequence[tuple[int, int]]) -> Iterator[ByteRange]:
    """The ranges before, between and after records, which are given by start and end."""
    size = path.stat().st_size
    found = 0
    for (_, end), (start, _) in pairwise([(0, 0), *records, (size, size)]):
        if start > end and found < _MOST_RANGES:
            found += 1
            yield _byte_range(path, end, start - end)


def _byte_range(path: Path, offset: int, size: int) -> ByteRange:
    with open_regular(path) as stream:
        stream.seek(offset)
        return ByteRange(offset=offset, bytes=size, sha256=_digest(stream, size))


def _digest(stream: BinaryIO, size: int) -> str:
    digest: Any = sha256()
    while size > 0 and (chunk := stream.read(min(size, _READ_BYTES))):
        size -= len(chunk)
        digest.update(chunk)
    return str(digest.hexdigest())
