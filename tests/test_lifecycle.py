"""The lifecycle: every trigger from every state, durability first, one winner of a race."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import transitions
from stagewright.events import (
    LifecycleChanged,
    LogWriteError,
    MemoryEventLog,
    RunState,
    StageEvent,
    signals,
)
from stagewright.events.folds import Fold
from stagewright.statemachine import TRANSITIONS, InvalidTransitionError, RunLifecycle
from stagewright.statemachine.ports import SystemClock
from stagewright.statemachine.run.journal import RunJournal
from stagewright.statemachine.states import Transition, Trigger

from .support import run_opened

pytestmark = pytest.mark.lowest

TRIGGERS = [row.trigger for row in TRANSITIONS]
TABLE = {(row.trigger, row.source): row.dest for row in TRANSITIONS}
WAYS: dict[RunState, tuple[Trigger, ...]] = {
    RunState.IDLE: (),
    RunState.RUNNING: ("start",),
    RunState.COMPLETED: ("start", "finish"),
    RunState.ERROR: ("start", "fail"),
    RunState.CANCELLED: ("start", "cancel"),
}


class Log(MemoryEventLog):
    """A log in memory; ``before`` is called with each event, and may refuse it."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[StageEvent], None] = lambda _event: None

    def append(self, event: StageEvent) -> None:
        self.before(event)
        super().append(event)


def journal_in(state: RunState, log: Log | None = None) -> RunJournal:
    """The journal of a run that has come to this state."""
    log = log or Log()
    opened = run_opened("a-run")
    log.append(opened)
    fold = Fold()
    fold.apply(opened)
    journal = RunJournal(log, fold, epoch=0, clock=SystemClock())
    for trigger in WAYS[state]:
        journal.move(trigger)
    return journal


@contextmanager
def announced(journal: RunJournal) -> Iterator[list[str]]:
    """The triggers that subscribers were told of, complete after the block."""
    heard: list[str] = []

    def receive(_run_id: str, event: LifecycleChanged) -> None:
        heard.append(event.trigger)

    with signals.lifecycle_changed.connected_to(receive):
        yield heard
        journal.flush()


def refuse(_event: StageEvent) -> None:
    raise LogWriteError("the disk is full")


@pytest.mark.parametrize("source", list(RunState))
@pytest.mark.parametrize("trigger", TRIGGERS)
def test_every_trigger_from_every_state_does_what_the_table_says(
    trigger: Trigger, source: RunState
) -> None:
    """The 7 of 35 in the table move, the journal's and the bare machine's; others do nothing."""
    log = Log()
    journal = journal_in(source, log)
    count = log.next_seq
    dest = TABLE.get((trigger, source))
    machine = RunLifecycle(source)
    with announced(journal) as heard:
        if dest is None:
            for refused in (journal.move, machine.dest, machine.move):
                with pytest.raises(InvalidTransitionError, match=f"cannot {trigger} .* {source}"):
                    refused(trigger)
        else:
            assert machine.dest(trigger) is dest
            machine.move(trigger)
            journal.move(trigger, "why")
    assert journal.state is machine.state is (dest or source)
    events = log.timeline()[count:]
    expected = [] if dest is None else [(trigger, source, dest, "why")]
    changes = [event for event in events if isinstance(event, LifecycleChanged)]
    assert [(one.trigger, one.source, one.dest, one.reason) for one in changes] == expected
    assert len(events) == len(expected)
    assert heard == [row[0] for row in expected]


@pytest.mark.parametrize("row", TRANSITIONS, ids=lambda row: row.trigger)
def test_a_failing_append_leaves_the_state_unchanged(row: Transition) -> None:
    """The error reaches the caller, nothing is announced, and `fail` may be tried again."""
    log = Log()
    journal = journal_in(row.source, log)
    before, log.before = log.before, refuse
    with announced(journal) as heard, pytest.raises(LogWriteError, match="disk is full"):
        journal.move(row.trigger)
    assert journal.state is row.source
    assert heard == []
    log.before = before
    if row.trigger == "fail":
        journal.move("fail")
        assert journal.state is row.dest
        return
    with pytest.raises(LogWriteError, match="disk is full"):
        journal.move(row.trigger)  # the failure is all that may still be recorded
    assert journal.state is row.source


def test_the_event_is_recorded_before_the_state_is_visible() -> None:
    """While the record is being made the old state still stands; when announced, the new."""
    log, seen = Log(), list[RunState]()
    journal = journal_in(RunState.IDLE, log)
    log.before = lambda _event: seen.append(journal.state)

    def receive(_run_id: str, **_: object) -> None:
        seen.append(journal.state)

    with (
        signals.event_appended.connected_to(receive),
        signals.lifecycle_changed.connected_to(receive),
    ):
        journal.move("start")
        journal.flush()
    assert seen == [RunState.IDLE, RunState.RUNNING, RunState.RUNNING]


def test_an_error_that_is_no_exception_of_ours_passes_through() -> None:
    """KeyboardInterrupt from the log is not swallowed, and the state stays."""

    def interrupt(_event: StageEvent) -> None:
        raise KeyboardInterrupt

    log = Log()
    journal = journal_in(RunState.IDLE, log)
    log.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        journal.move("start")
    assert journal.state is RunState.IDLE


def test_only_the_machine_of_a_run_is_kept_from_logging_each_callback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A program's own `transitions` machines log as that program has set it up."""
    caplog.set_level(logging.INFO)
    RunLifecycle().move("start")
    assert caplog.messages == []
    machine = transitions.Machine(states=["idle", "busy"], initial="idle", name="lamp")
    machine.add_transition("work", "idle", "busy")
    machine.trigger("work")
    assert any(message.startswith("lamp: ") for message in caplog.messages)
