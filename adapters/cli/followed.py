"""Reads the events of a run or a group that another process executes, as they come."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ...events.errors import RunNotFoundError
from ...events.groups.log import GROUP_LOCK_NAME, GroupLogTail
from ...events.groups.model import GroupEvent, GroupSealed, VariantBegun
from ...events.log.lock import is_locked
from ...events.model import StageEvent
from ...events.subscriptions.log_tail import LogTail
from ...statemachine.files.run_folder import is_run_id

_POLL_S = 0.2
"""How often to look at the log of the group."""


class Followed(NamedTuple):
    """An event; ``is_past`` if it was in its log before it was followed."""

    event: GroupEvent | StageEvent
    is_past: bool


class RunTail:
    """A position in the log of a run. Use it from one thread, as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.run_folder = folder
        self._tail = LogTail(folder)
        self._has_begun = False

    def __enter__(self) -> RunTail:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._tail.close()

    def read(self) -> Iterator[Followed]:
        """The new events. Raises RunNotFoundError, LogCorruptError, OSError."""
        is_past, self._has_begun = not self._has_begun, True
        for event in self._tail.read():
            yield Followed(event, is_past)

    @property
    def is_over(self) -> bool:
        """Whether nothing more is expected."""
        return self._tail.has_ended()


class GroupTail:
    """A position in the log of a group, whose runs are in ``runs``, and in that of its run.

    ``last`` is the last event of the group. ``run_folder`` is that of the run in progress, if
    any. With ``whole``, runs that ended before are read too. Use it from one thread, as a context
    manager.
    """

    def __init__(self, folder: Path, runs: Path, *, whole: bool = False) -> None:
        self.folder = folder
        self._whole = whole
        self._group = GroupLogTail(folder)
        self.last: GroupEvent | None = None
        self.has_ended = False
        self._runs = runs
        self._begun: list[str] = []
        self._waiting: str | None = None
        """The run to follow next."""
        self._news: deque[GroupEvent] = deque()
        """Events of the group that come after the run in progress."""
        self._positions: dict[str, int] = {}
        """The next sequence number of each run that was followed; it may be resumed."""
        self._tail: LogTail | None = None
        self._due_s = 0.0

    def __enter__(self) -> GroupTail:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._close_tail()

    @property
    def run_folder(self) -> Path | None:
        """The folder of the run in progress, if any."""
        return None if self._tail is None else self._tail.path.parent

    def read(self) -> Iterator[Followed]:
        """The new events: those of a run come before the group's next event.

        Raises RunNotFoundError, LogCorruptError, OSError.
        """
        is_first = self.last is None
        looks = self._look_at_group()
        while True:
            yield from self._read_run()
            if self._tail is not None or self._waiting is not None:
                return
            if not self._news:
                break
            self.last = event = self._news.popleft()
            # A foreign log may name a path, which would lead to another folder.
            if isinstance(event, VariantBegun) and is_run_id(event.run_id):
                self._begun.append(event.run_id)
                if self._whole or not is_first:
                    self._waiting = event.run_id
            yield Followed(event, is_first)
        if looks:
            self._tail = self._run_in_progress()
            # The events that the run in progress has had so far are past.
            for past in self._tail.read() if self._tail else ():
                yield Followed(past, is_past=True)

    def _look_at_group(self) -> bool:
        """Read what is new in the log of the group, if it is time; whether it was."""
        if time.monotonic() < self._due_s:
            return False
        self._due_s = time.monotonic() + _POLL_S
        # The lock first: what is written before its release is then read.
        is_running = is_locked(self.folder, GROUP_LOCK_NAME)
        self._news += self._group.read()
        self.has_ended = isinstance(self._group.last, GroupSealed) or not is_running
        return True

    def _read_run(self) -> Iterator[Followed]:
        """Read the run in progress, or the one that has just begun."""
        if self._tail is None and self._waiting is not None:
            self._tail = self._tail_of(self._waiting)
            if self._tail is None and not self._news and not self.has_ended:
                return  # Its folder is about to be made.
            self._waiting = None
        if self._tail is not None:
            for event in self._tail.read():
                yield Followed(event, is_past=False)
            if self._tail.has_ended():
                self._close_tail()

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
        return self.has_ended and not (self._tail or self._waiting or self._news)

    def _close_tail(self) -> None:
        if self._tail is not None:
            self._positions[self._tail.path.parent.name] = self._tail.next_seq
            self._tail.close()
            self._tail = None
