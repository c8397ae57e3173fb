"""What waits for one subscriber: in order, in bounded memory, facts never lost."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

import msgspec

from .log import EventLog
from .model import StageEvent
from .progress import StepProgress
from .written_logs import written_log_of

CAPACITY = 1024
"""How much waits for a subscriber in memory, unless it asks for another number."""


class ConfigError(msgspec.Struct, frozen=True):
    """A configuration with which nothing was started: "Config Error" and the reason."""

    message: str


class LeftInLog:
    """Events ``first`` to ``last`` of a log, to be read back once the subscriber gets to them."""

    __slots__ = ("first", "last", "log")

    def __init__(self, log: EventLog, first: int) -> None:
        self.log = log
        self.first = first
        self.last = first

    def events(self) -> Iterator[StageEvent]:
        """Read them back, one at a time."""
        return map(self.log.event_at, range(self.first, self.last + 1))


Item = StageEvent | StepProgress | ConfigError | LeftInLog


class Mailbox:
    """A queue of at most ``capacity`` items, filled from any thread and emptied by one.

    When it is full, sampling steps are refused, and events stay in their log: only their
    numbers are kept. Where this process writes no log of them they are kept in memory all the
    same, and so are errors of configurations, of which there are few.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._changed = threading.Condition()
        self._items: deque[Item] = deque()
        self._left: dict[str, LeftInLog] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, event: StageEvent) -> None:
        """Queue one event; it is never lost."""
        with self._changed:
            if self._closed:
                return
            left = self._left.get(event.run_id)
            if left is not None:
                # What follows must not overtake what is left; a resume has another log object.
                left.log, left.last = written_log_of(event.run_id) or left.log, event.seq
                return
            log = None if len(self._items) < self._capacity else written_log_of(event.run_id)
            if log is None:
                self._add(event)
            else:
                left = self._left[event.run_id] = LeftInLog(log, event.seq)
                self._add(left)

    def put_error(self, error: ConfigError) -> None:
        """Queue why nothing was started; it stands in no log, so it is never lost either."""
        with self._changed:
            if not self._closed:
                self._add(error)

    def put_step(self, step: StepProgress) -> bool:
        """Queue a sampling step; whether there was room for it."""
        with self._changed:
            if self._closed or len(self._items) >= self._capacity:
                return self._closed
            self._add(step)
            return True

    def _add(self, item: Item) -> None:
        self._items.append(item)
        # While more is there, whoever takes it has not gone to sleep.
        if len(self._items) == 1:
            self._changed.notify()

    def take(self, most: int, timeout_s: float | None) -> list[Item]:
        """The next items, ``most`` at most; none when none has come in time, or none will."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, timeout_s)
            items = [self._items.popleft() for _ in range(min(most, len(self._items)))]
            for item in items:
                if isinstance(item, LeftInLog):
                    del self._left[item.log.run_id]
            return items

    @property
    def is_done(self) -> bool:
        """Whether it is closed and empty."""
        return self._closed and not self._items

    def close(self, *, discard: bool = False) -> None:
        """Take nothing more; what is there can still be taken, unless it is to be discarded."""
        with self._changed:
            self._closed = True
            if discard:
                self._items.clear()
                self._left.clear()
            self._changed.notify_all()
