"""Where a subscriber stands in a log: what is announced is completed from it, never doubled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .live_steps import read_step
from .model import StageEvent
from .progress import StepProgress
from .tailing import POLL_S, LogTail
from .written_logs import written_log

_REST_S = 0.5


class LogCursor:
    """Stands before event ``from_seq`` of a log, or behind its present end.

    Raises ValueError, RunNotFoundError, and LogCorruptError where it has to read to the end.
    """

    def __init__(self, log: Path, from_seq: int | None) -> None:
        if from_seq is not None and from_seq < 0:
            raise ValueError(f"from_seq = {from_seq} is no sequence number")
        self._tail = LogTail(log, from_seq=from_seq or 0)
        self._next = self._count_of(log) if from_seq is None else from_seq
        self._last_step: StepProgress | None = None

    def catch_up(self) -> Iterator[StageEvent]:
        """What the log holds beyond what was given already. Raises LogCorruptError."""
        for event in self._tail.read():
            if event.seq >= self._next:
                self._next = event.seq + 1
                yield event

    def complete(self, event: StageEvent) -> Iterator[StageEvent]:
        """An event that was announced, and before it those that were not heard of."""
        if event.seq > self._next:
            yield from self.catch_up()
        if event.seq == self._next:
            self._next += 1
            yield event

    def new_step(self) -> StepProgress | None:
        """What another process, which runs the run, has told of its sampling steps since."""
        step = None if self._is_heard_of else read_step(self._tail.path.parent)
        if step == self._last_step:
            return None
        self._last_step = step
        return step

    @property
    def pause_s(self) -> float:
        """How long to wait for an announcement before the log is looked at again.

        Where this process writes the log, every event is announced; where nobody does, a
        later resume may still write to it.
        """
        return _REST_S if self._is_heard_of or self._tail.has_ended() else POLL_S

    @property
    def _is_heard_of(self) -> bool:
        return written_log(self._tail.path) is not None

    def _count_of(self, log: Path) -> int:
        """How many events there are now."""
        written = written_log(log)
        if written is not None:
            return written.next_seq
        for _ in self._tail.read():
            pass
        return self._tail.next_seq

    def close(self) -> None:
        """Give the log back."""
        self._tail.close()
