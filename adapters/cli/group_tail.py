"""Following a group of another process: its own events, and those of its runs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ...events.errors import RunNotFoundError
from ...events.groups.log import GROUP_LOCK_NAME, GROUP_LOG_NAME, read_group
from ...events.groups.model import GroupEvent, GroupSealed, VariantBegun
from ...events.log.lock import is_locked
from ...events.model import StageEvent
from ...events.subscriptions.log_tail import LogTail

_POLL_S = 0.2
"""How often to look at the log of the group."""


class Followed(NamedTuple):
    """An event; ``is_past`` if it had happened before its log was looked at."""

    event: GroupEvent | StageEvent
    is_past: bool


class GroupTail:
    """A position in the log of a group, and in that of the run in progress.

    ``last`` is the last event of the group. ``run_folder`` is that of the run in progress, if
    any. With ``whole``, runs that ended before are read too. Use it from one thread, as a context
    manager.
    """

    def __init__(self, folder: Path, *, whole: bool = False) -> None:
        self.folder = folder
        self._whole = whole
        self.last: GroupEvent | None = None
        self.has_ended = False
        self._runs = folder.parent.parent
        self._begun: list[str] = []
        self._waiting: deque[str] = deque()
        """Runs to follow one after the other."""
        self._positions: dict[str, int] = {}
        """The next sequence number of each run that was followed; it may be resumed."""
        self._tail: LogTail | None = None
        self._due_s = 0.0
        self._size = -1

    def __enter__(self) -> GroupTail:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._close_tail()

    @property
    def run_folder(self) -> Path | None:
        """The folder of the run in progress, if any."""
        return None if self._tail is None else self._tail.path.parent

    def read(self) -> Iterator[Followed]:
        """What has come since the last reading: all of one run before the next one begins.

        Raises RunNotFoundError, LogCorruptError, OSError.
        """
        is_first = self.last is None
        looks, news = self._look_at_group()
        yield from self._read_run()
        for event in news:
            self.last = event
            if isinstance(event, VariantBegun):
                self._begun.append(event.run_id)
                if self._whole or not is_first:
                    self._waiting.append(event.run_id)
            yield Followed(event, is_first)
        if self._tail is None:
            yield from self._open_next(looks=looks)

    def _look_at_group(self) -> tuple[bool, list[GroupEvent]]:
        """Whether it was time to look at the group's log, and what is new there."""
        if time.monotonic() < self._due_s:
            return False, []
        self._due_s = time.monotonic() + _POLL_S
        # The lock first: what is written before its release is then read.
        is_running = is_locked(self.folder, GROUP_LOCK_NAME)
        path = self.folder / GROUP_LOG_NAME
        size = path.stat().st_size
        news: list[GroupEvent] = []
        if size != self._size:
            after = -1 if self.last is None else self.last.seq
            news = [event for event in read_group(self.folder) if event.seq > after]
            self._size = size
        last = news[-1] if news else self.last
        self.has_ended = isinstance(last, GroupSealed) or not is_running
        return True, news

    def _read_run(self) -> Iterator[Followed]:
        while self._tail is not None:
            for event in self._tail.read():
                yield Followed(event, is_past=False)
            if not self._tail.has_ended():
                return
            self._close_tail()
            yield from self._open_next(looks=False)

    def _open_next(self, *, looks: bool) -> Iterator[Followed]:
        """Begin with the next run, if there is one; what a run that goes on had before is past."""
        while self._waiting and self._tail is None:
            self._tail = self._tail_of(self._waiting[0])
            if self._tail is None and len(self._waiting) == 1 and not self.has_ended:
                return  # Its folder is about to be made.
            self._waiting.popleft()
        if self._tail is None and looks:
            self._tail = self._run_in_progress()
            for event in self._tail.read() if self._tail else ():
                yield Followed(event, is_past=True)

    def _tail_of(self, run_id: str) -> LogTail | None:
        """The log of a run from where it was left; None while there is none, or no more."""
        with suppress(RunNotFoundError):
            return LogTail(self._runs / run_id, from_seq=self._positions.get(run_id, 0))
        return None

    def _run_in_progress(self) -> LogTail | None:
        """The log of the run that some process works on."""
        for run_id in reversed(self._begun):
            if is_locked(self._runs / run_id):
                return self._tail_of(run_id)
        return None

    @property
    def is_over(self) -> bool:
        """Whether nothing more is expected."""
        return self.has_ended and self._tail is None and not self._waiting

    def _close_tail(self) -> None:
        if self._tail is not None:
            self._positions[self._tail.path.parent.name] = self._tail.next_seq
            self._tail.close()
            self._tail = None
