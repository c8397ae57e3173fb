"""The lifecycle: every trigger from every state, durability first, one winner of a race."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
import transitions
from stagewright.events import LogWriteError, RunState
from stagewright.statemachine import TRANSITIONS, InvalidTransitionError, RunLifecycle

pytestmark = pytest.mark.lowest

TRIGGERS = [row.trigger for row in TRANSITIONS]
TABLE = {(row.trigger, row.source): row.dest for row in TRANSITIONS}


class Notes:
    """Takes the place of the journal: keeps what it is told, or refuses."""

    def __init__(self, *, refuse: bool = False) -> None:
        self.kept: list[dict[str, Any]] = []
        self.announced: list[str] = []
        self.refuse = refuse

    def __call__(self, **transition: Any) -> Callable[[], None]:
        if self.refuse:
            raise LogWriteError("the disk is full")
        self.kept.append(transition)
        return lambda: self.announced.append(transition["trigger"])


def fire(lifecycle: RunLifecycle, trigger: str) -> None:
    arguments = {"fail": ["it broke"], "cancel": ["asked to"]}.get(trigger, [])
    getattr(lifecycle, trigger)(*arguments)


@pytest.mark.parametrize("source", list(RunState))
@pytest.mark.parametrize("trigger", TRIGGERS)
def test_every_trigger_from_every_state_does_what_the_table_says(
    trigger: str, source: RunState
) -> None:
    """Of the 35 pairs the 7 of the table move and are recorded; the others change nothing."""
    notes = Notes()
    lifecycle = RunLifecycle(notes, initial=source)
    dest = TABLE.get((trigger, source))
    if dest is None:
        with pytest.raises(InvalidTransitionError, match=f"cannot {trigger} .* {source}"):
            fire(lifecycle, trigger)
        assert lifecycle.state is source
        assert notes.kept == []
        return
    fire(lifecycle, trigger)
    assert lifecycle.state is dest
    assert [(n["trigger"], n["source"], n["dest"]) for n in notes.kept] == [(trigger, source, dest)]
    assert notes.announced == [trigger]


@pytest.mark.parametrize("row", TRANSITIONS, ids=lambda row: row.trigger)
def test_a_failing_append_leaves_the_state_unchanged(row: Any) -> None:
    """The error reaches the caller, nothing is announced, and the trigger may be tried again."""
    notes = Notes(refuse=True)
    lifecycle = RunLifecycle(notes, initial=row.source)
    with pytest.raises(LogWriteError, match="disk is full"):
        fire(lifecycle, row.trigger)
    assert lifecycle.state is row.source
    assert notes.announced == []
    notes.refuse = False
    fire(lifecycle, row.trigger)
    assert lifecycle.state is row.dest


def test_the_event_is_recorded_before_the_state_is_visible() -> None:
    """While the record is being made the old state still stands; when announced, the new."""
    seen: list[RunState] = []

    def record(**_: Any) -> Callable[[], None]:
        seen.append(lifecycle.state)
        return lambda: seen.append(lifecycle.state)

    lifecycle = RunLifecycle(record)
    lifecycle.start()
    assert seen == [RunState.IDLE, RunState.RUNNING]


def test_two_threads_that_start_at_once_give_one_start() -> None:
    """In each of 200 races one thread wins and the other is refused."""
    for _ in range(200):
        notes = Notes()
        lifecycle = RunLifecycle(notes)
        barrier = threading.Barrier(2)
        refused: list[InvalidTransitionError] = []

        def start(
            lifecycle: RunLifecycle = lifecycle,
            barrier: threading.Barrier = barrier,
            refused: list[InvalidTransitionError] = refused,
        ) -> None:
            barrier.wait()
            try:
                lifecycle.start()
            except InvalidTransitionError as error:
                refused.append(error)

        threads = [threading.Thread(target=start) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(notes.kept) == 1
        assert len(refused) == 1
        assert lifecycle.state is RunState.RUNNING


def test_an_error_that_is_no_exception_of_ours_passes_through() -> None:
    """KeyboardInterrupt from the record is not swallowed, and the state stays."""

    def record(**_: Any) -> Callable[[], None]:
        raise KeyboardInterrupt

    lifecycle = RunLifecycle(record)
    with pytest.raises(KeyboardInterrupt):
        lifecycle.start()
    assert lifecycle.state is RunState.IDLE


def test_only_the_machine_of_a_run_is_kept_from_logging_each_callback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A program's own `transitions` machines log as that program has set it up."""
    caplog.set_level(logging.INFO)
    RunLifecycle(Notes()).start()
    assert caplog.messages == []
    machine = transitions.Machine(states=["idle", "busy"], initial="idle", name="lamp")
    machine.add_transition("work", "idle", "busy")
    machine.trigger("work")
    assert any(message.startswith("lamp: ") for message in caplog.messages)
