"""What waits for one subscriber: in order, in bounded memory, facts never lost."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue

import msgspec

from .log import EventLog
from .model import StageEvent
from .progress import StepProgress
from .waking import wake_soon
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
        self._items: deque[Item] = deque()
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._is_asleep = self._will_ring = False
        self._lock = threading.Lock()
        self._left: dict[str, LeftInLog] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, event: StageEvent) -> None:
        """Queue one event; it is never lost. Events of one run come from one thread at a time."""
        if self._closed:
            return
        if len(self._items) < self._capacity and event.run_id not in self._left:
            self._add(event)
        else:
            self._leave(event)

    def put_error(self, error: ConfigError) -> None:
        """Queue why nothing was started; it stands in no log, so it is never lost either."""
        if not self._closed:
            self._add(error)

    def put_step(self, step: StepProgress) -> bool:
        """Queue a sampling step; whether there was room for it."""
        if self._closed or len(self._items) >= self._capacity:
            return self._closed
        self._add(step)
        return True

    def take(self, most: int, timeout_s: float | None) -> list[Item]:
        """The next items, ``most`` at most; none when none has come in time, or none will."""
        if not self._items and not self._closed:
            self._sleep(timeout_s)
        items: list[Item] = []
        while len(items) < most:
            try:
                items.append(self._items.popleft())
            except IndexError:  # also when it was closed this moment
                break
            if isinstance(item := items[-1], LeftInLog):
                with self._lock:
                    self._left.pop(item.log.run_id, None)
        return items

    @property
    def is_done(self) -> bool:
        """Whether it is closed and empty."""
        return self._closed and not self._items

    def close(self, *, discard: bool = False) -> None:
        """Take nothing more; what is there can still be taken, unless it is to be discarded."""
        self._closed = True
        if discard:
            with self._lock:
                self._items.clear()
                self._left.clear()
        self._bell.put(None)

    def _sleep(self, timeout_s: float | None) -> None:
        """Sleep until something may have come."""
        self._is_asleep = True
        # Whoever adds something after this look sees that somebody sleeps.
        if not self._items and not self._closed:
            with suppress(Empty):
                self._bell.get(timeout=timeout_s)
        self._is_asleep = False

    def _add(self, item: Item) -> None:
        self._items.append(item)
        if self._is_asleep and not self._will_ring:
            self._will_ring = True
            wake_soon(self._ring)

    def _ring(self) -> None:
        self._will_ring = False
        self._bell.put(None)

    def _leave(self, event: StageEvent) -> None:
        """Leave an event in its log, where there is one, and note its number alone."""
        with self._lock:
            left = self._left.get(event.run_id)
            if left is not None:
                # What follows must not overtake what is left; a resume has another log object.
                left.log, left.last = written_log_of(event.run_id) or left.log, event.seq
                return
            log = written_log_of(event.run_id) if len(self._items) >= self._capacity else None
            if log is None:
                self._add(event)
            else:
                left = self._left[event.run_id] = LeftInLog(log, event.seq)
                self._add(left)
