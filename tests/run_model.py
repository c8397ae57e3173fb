"""What a run is, as plainly as it can be said, and the ways in which a crash tears its log."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from stagewright.events import LifecycleChanged, MemoryEventLog, Outcome, RunState, StageEvent
from stagewright.events.folds import Fold
from stagewright.events.log.kind import RUN_LOG
from stagewright.events.log.verified_scan import RecordScan
from stagewright.statemachine.states import TRANSITIONS

SECTOR = 512
WHOLE = 1000
LEGAL: dict[tuple[str, RunState], RunState] = {
    (row.trigger, row.source): row.dest for row in TRANSITIONS
}
TRIGGERS = sorted({row.trigger for row in TRANSITIONS})
FINAL = {
    RunState.COMPLETED: Outcome.COMPLETED,
    RunState.ERROR: Outcome.FAILED,
    RunState.CANCELLED: Outcome.CANCELLED,
}


@dataclass
class Model:
    """What is to be true of a run, without a log."""

    state: RunState = RunState.IDLE
    sealed: bool = False
    epoch: int = 0
    resumes: int = 0
    fruitless: int = 0
    sending_epoch: int = -1
    staged: bool = False
    finished: set[int] = field(default_factory=set)
    attempts: dict[int, int] = field(default_factory=dict)

    def request(self, index: int) -> None:
        """A request leaves."""
        self.sealed = False
        self.attempts[index] = self.attempts.get(index, 0) + 1
        if self.sending_epoch != self.epoch:
            self.sending_epoch = self.epoch
            self.fruitless += 1

    def finish(self, index: int) -> None:
        """An image is recorded."""
        self.finished.add(index)
        self.fruitless = 0

    def move(self, state: RunState) -> None:
        """The run is in another state."""
        self.state, self.sealed = state, False

    def resume(self, sound: set[int]) -> None:
        """Another process has taken the run up, and found the files of these images sound."""
        self.finished &= sound
        self.epoch += 1
        self.resumes += 1
        self.move(RunState.RUNNING)

    def close(self, *, torn: bool) -> None:
        """Somebody has looked after a run whose images are all there."""
        self.epoch += torn or not self.sealed
        self.sealed = True

    def whole_epoch(self, sound: set[int], to_make: Sequence[int], answers: int) -> None:
        """A resume makes these images, one after the other, until there is no further answer."""
        self.resume(sound)
        for index in to_make[: answers + 1]:
            self.staged = True
            self.request(index)
            if index in to_make[:answers]:
                self.finish(index)
        self.move(RunState.COMPLETED if len(to_make) <= answers else RunState.ERROR)
        self.sealed = True

    def assert_equals(self, fold: Fold, stage_id: str) -> None:
        """The log says of the run, and of its one stage, what is said here."""
        assert (fold.state, fold.sealed, fold.epoch) == (self.state, self.sealed, self.epoch)
        assert fold.outcome == FINAL.get(self.state)
        assert (fold.resumes, fold.epochs_without_progress) == (self.resumes, self.fruitless)
        stage = fold.stages.get(stage_id)
        assert (stage is not None) == self.staged
        if stage is not None:
            assert {index for index, _ in stage.finished.items()} == self.finished
            assert dict(stage.attempts.items()) == self.attempts


def assert_legal(events: Iterable[StageEvent]) -> None:
    """Every transition is one of the table, from the state that the one before it led to."""
    state, epoch = RunState.IDLE, 0
    for event in events:
        assert event.epoch in (epoch, epoch + 1)
        epoch = event.epoch
        if isinstance(event, LifecycleChanged):
            assert event.source is state
            assert LEGAL[event.trigger, event.source] is event.dest
            state = event.dest


Draw = Callable[[int, int], int]
"""Chooses a whole number between two, both included."""


def drawing(shares: Iterable[int]) -> Draw:
    """Chooses by shares of WHOLE: no log is as long as another, and a test must be repeatable."""
    left = iter(shares)
    return lambda least, most: least + (most - least) * next(left) // WHOLE


def begun_record(content: bytes, draw: Draw) -> bytes:
    """The log, and behind it the first bytes of the record that would have followed."""
    log = MemoryEventLog.from_bytes(content)
    last = log.event_at(log.next_seq - 1)
    log.append(
        LifecycleChanged(
            run_id=log.run_id,
            seq=log.next_seq,
            ts=last.ts,
            epoch=last.epoch,
            trigger="fail",
            source=RunState.RUNNING,
            dest=RunState.ERROR,
            reason="x" * 700,
        )
    )
    whole = log.to_bytes()
    return whole[: draw(len(content) + 1, len(whole) - 1)]


def lost_tail(content: bytes, synced: int, draw: Draw) -> bytes:
    """The log without some of the bytes that were not synced."""
    return content[: draw(synced, len(content))]


def lost_sectors(content: bytes, synced: int, draw: Draw) -> bytes:
    """The log with zeros in place of some of the sectors that were not synced."""
    first = draw(synced // SECTOR, max(synced, len(content) - 1) // SECTOR)
    start = max(synced, first * SECTOR)
    end = max(start, min(len(content), draw(first + 1, len(content) // SECTOR + 1) * SECTOR))
    return content[:start] + bytes(end - start) + content[end:]


def scanned(content: bytes) -> tuple[RecordScan[StageEvent], int]:
    """A reading of a whole log, and where what a power loss cannot take ends."""
    scan = RecordScan(RUN_LOG, io.BytesIO(content))
    events = [event for batch in scan.batches() for event in batch]
    last = max(event.seq for event in events if event.seq == 0 or event.barrier)
    return scan, [*scan.offsets[1:], scan.end][last]


def records_before(torn: bytes, content: bytes, scan: RecordScan[StageEvent]) -> tuple[int, int]:
    """How many records stand before the first byte that is not what it was, and their end."""
    pairs = zip(torn, content, strict=False)
    changed = (at for at, (one, other) in enumerate(pairs) if one != other)
    same = next(changed, min(len(torn), len(content)))
    ends = [end for end in [*scan.offsets[1:], scan.end] if end <= same]
    return len(ends), ends[-1]
