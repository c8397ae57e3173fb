"""Subscriptions in trouble: finalizers, blocked receivers, no threads, damaged logs, many runs."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from stagewright.events import (
    FileEventLog,
    LogCorruptError,
    LogTail,
    StageEvent,
    Subscription,
    signals,
    subscribe,
)
from stagewright.events.subscriptions.dispatcher import Dispatcher

from .command_line import until
from .listening import EVENTS, is_connected, tell
from .log_format import flip
from .support import fill_log, run_opened

RUN = "20261120T225226.123456Z-troubled-7f3a9c"
LOG = "events.jsonl"
SOURCE = f"{os.sep}events{os.sep}"
TESTS = f"{Path(__file__).parent}{os.sep}"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[FileEventLog]:
    """A log of this process with some events."""
    (tmp_path / "run").mkdir()
    made = FileEventLog.create(tmp_path / "run", run_opened(RUN))
    fill_log(made, 3)
    yield made
    made.close()


class Interruption:
    """Makes a call at the ``number``-th line of this package that a thread runs, once."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.call: Callable[[], object] = int

    def trace(self, frame: Any, event: str, _argument: object) -> Any:
        """What ``sys.settrace`` is given."""
        if SOURCE not in frame.f_code.co_filename or frame.f_code.co_filename.startswith(TESTS):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                self.call()
        return self.trace


def close_at_line(number: int, events: list[StageEvent], on: Any, *, in_worker: bool) -> bool:
    """Close a subscription as a finalizer would, in the middle; whether that was at a line."""
    interruption = Interruption(number)
    if in_worker:
        threading.settrace(interruption.trace)
    try:
        subscription = subscribe(lambda _event: None, capacity=1, run_id=RUN, on=on)
    finally:
        threading.settrace(None)
    interruption.call = lambda: subscription.close(timeout_s=0)

    def publish() -> None:
        if not in_worker:
            sys.settrace(interruption.trace)
        for event in events:
            signals.publish(signals.event_appended, RUN, event=event)

    publisher = threading.Thread(target=publish, daemon=True)
    publisher.start()
    publisher.join(10)
    assert not publisher.is_alive(), f"the publisher hangs at line {number}"
    if in_worker:  # which may not have begun yet, on a busy machine
        until(lambda: interruption.left < number, "the worker's first line")
    subscription.close(timeout_s=10)
    assert not is_connected(subscription)
    assert not is_served(subscription), f"the worker hangs at line {number}"
    return interruption.left <= 0


def is_served(subscription: Subscription) -> bool:
    thread = subscription._reader.thread
    return thread is not None and thread.is_alive()


@pytest.mark.parametrize(
    ("on", "in_worker"),
    [("worker", False), ("worker", True), ("publisher", False), (lambda call: call(), True)],
    ids=["publishing", "worker", "publisher", "loop"],
)
def test_a_finalizer_may_close_a_subscription_at_any_line(
    log: FileEventLog, on: Any, in_worker: bool, request: pytest.FixtureRequest
) -> None:
    """The collector runs it wherever it likes, also where locks are held: nobody hangs."""
    events, number = list(log.timeline()), 1
    while close_at_line(number, events, on, in_worker=in_worker):
        number += 1 if request.config.getoption("--all-cases") else 3
    assert number > 30


def test_closing_a_blocked_publisher_subscription_is_bounded() -> None:
    """``close`` waits as long as it is told, also where the receiver never returns."""
    is_called, stuck, dispatcher = threading.Event(), threading.Event(), Dispatcher()

    def block(_event: StageEvent) -> None:
        is_called.set()
        stuck.wait(20)

    subscription = subscribe(block, on="publisher")
    dispatcher.publish(signals.event_appended, RUN, event=EVENTS[0])
    assert is_called.wait(10)
    began = time.monotonic()
    subscription.close(timeout_s=0.2)
    assert 0.15 < time.monotonic() - began < 1.5
    dispatcher.flush()
    subscription.close(timeout_s=0.2)
    stuck.set()
    dispatcher.close()


def test_a_blocked_subscription_holds_up_no_other_run_for_long() -> None:
    """Once one run has left it behind, the others only queue what they tell it."""
    stuck, seen, dispatchers = threading.Event(), list[StageEvent](), [Dispatcher(), Dispatcher()]

    def block(event: StageEvent) -> None:
        stuck.wait(20)
        seen.append(event)

    with subscribe(block, on="publisher"):
        dispatchers[0].publish(signals.event_appended, "a", event=EVENTS[0])
        dispatchers[0].flush()
        began = time.monotonic()
        dispatchers[1].publish(signals.event_appended, "b", event=EVENTS[1])
        dispatchers[1].flush()
        assert time.monotonic() - began < 0.5
        for dispatcher in dispatchers:
            dispatcher.close()
        stuck.set()
        until(lambda: len(seen) == 2, "both events")
    assert seen == EVENTS[:2]


@contextmanager
def no_threads() -> Iterator[None]:
    """No thread begins: each would need more memory than there can be."""
    threading.stack_size(2**46)
    try:
        yield
    finally:
        threading.stack_size(0)


def test_a_subscription_that_cannot_have_a_thread_leaves_nothing_behind(log: FileEventLog) -> None:
    """It is refused, takes no events, and keeps no file open."""
    receivers, files = len(signals.event_appended.receivers), open_files()
    errors: list[RuntimeError] = []
    with no_threads():
        for _ in range(3):
            try:
                subscribe(print, folder=log.path.parent, from_seq=0)
            except RuntimeError as error:
                errors.append(error)
    assert len(errors) == 3
    assert len(signals.event_appended.receivers) == receivers
    assert open_files() == files


def test_leaving_a_reading_early_loses_nothing(log: FileEventLog) -> None:
    """The rest of what was fetched is given by the next readings, each event once."""
    total = log.next_seq
    with LogTail(log.path) as tail:
        seen = [next(iter(tail.read())).seq for _ in range(3)]
        assert tail.next_seq == 3
        assert not tail.has_ended()
        fill_log_further(log)
        for event in tail.read():
            seen.append(event.seq)
            if event.seq == total:
                break
        assert seen[-1] == total
        seen += [event.seq for event in tail.read()]
    assert seen == list(range(log.next_seq))
    assert log.next_seq > total + 1


def test_damage_behind_the_place_where_a_reading_was_left_is_still_told(tmp_path: Path) -> None:
    """It is not taken for read because somebody did not read that far."""
    (tmp_path / "run").mkdir()
    log = FileEventLog.create(tmp_path / "run", run_opened(RUN))
    fill_log(log, 3)
    log.close()
    lines = (tmp_path / "run" / LOG).read_bytes().splitlines(keepends=True)
    damaged = b"".join(lines[:-2]) + lines[-2].replace(b"0", b"1", 1) + lines[-1]
    (tmp_path / "run" / LOG).write_bytes(damaged)
    with LogTail(tmp_path / "run") as tail:
        assert next(iter(tail.read())).seq == 0
        with pytest.raises(LogCorruptError):
            list(tail.read())


@dataclass(frozen=True)
class Watcher:
    """Equal to every other one of its name."""

    name: str = "w"

    def fail(self, _sender: str, **_payload: object) -> None:
        raise ValueError(self.name)

    def hear(self, _sender: str, **_payload: object) -> None:
        heard.append(id(self))


heard: list[int] = []


def test_receivers_that_are_equal_are_muted_each_for_its_own_faults() -> None:
    """What tells them apart is which object they are."""

    heard.clear()
    good, bad = Watcher(), Watcher()
    with signals.event_appended.connected_to(bad.fail):
        tell(EVENTS[:1] * 12)
    with signals.event_appended.connected_to(good.hear):
        tell(EVENTS[:1] * 5)
    assert bad == good
    assert heard == [id(good)] * 5


def test_a_receiver_that_cannot_be_referenced_weakly_is_muted_as_well() -> None:
    """Objects with slots alone are receivers like others."""

    class Slotted:
        __slots__ = ("calls",)

        def __init__(self) -> None:
            self.calls = 0

        def hear(self, _sender: str, **_payload: object) -> None:
            self.calls += 1
            raise ValueError("again")

    receiver, dispatcher = Slotted(), Dispatcher()
    signals.event_appended.connect(receiver.hear, weak=False)
    tell(EVENTS[:1] * 6)
    for _ in range(6):
        dispatcher.publish(signals.event_appended, RUN, event=EVENTS[0])
    dispatcher.close()
    signals.event_appended.disconnect(receiver.hear)
    assert receiver.calls == 10


@pytest.mark.posix
def test_a_subscription_that_is_refused_keeps_no_file_open(log: FileEventLog) -> None:
    """Not even while its error is kept."""
    log.close()
    flip(log.path, 1000)
    files, errors = open_files(), list[Exception]()
    for _ in range(3):
        try:
            subscribe(print, folder=log.path.parent)
        except LogCorruptError as error:
            errors.append(error)
    assert len(errors) == 3
    assert open_files() == files


def test_nothing_is_kept_of_a_run_once_it_has_ended(tmp_path: Path) -> None:
    """Neither by blinker, for subscriptions of one run, nor by a subscription to all runs."""
    seen: list[StageEvent] = []
    kept = len(signals.event_appended._by_sender)
    with subscribe(seen.append) as subscription:
        for number in range(20):
            folder = tmp_path / str(number)
            folder.mkdir()
            log = FileEventLog.create(folder, run_opened(f"{RUN}{number}"))
            with subscribe(seen.append, run_id=log.run_id, on="publisher"):
                fill_log(log)
                for event in log.timeline():
                    signals.publish(signals.event_appended, log.run_id, event=event)
            log.close()
        until(lambda: not subscription.waiting and not subscription._reader._backlogs, "the rest")
    assert len(signals.event_appended._by_sender) <= kept + 1


def test_a_receiver_may_cause_what_it_is_told_itself() -> None:
    """On the publisher's thread it is then called from within its own call."""
    words: list[str] = []

    def cause(_event: StageEvent) -> None:
        signals.publish(signals.config_error, None, message="from within", error=ValueError())

    def publish() -> None:
        with subscribe(cause, on="publisher", on_config_error=words.append):
            tell(EVENTS[:2])

    publisher = threading.Thread(target=publish, daemon=True)
    publisher.start()
    publisher.join(10)
    assert words == ["from within"] * 2


def open_files() -> int:
    """How many descriptors this process has, where the system tells."""
    place = Path("/proc/self/fd")
    return len(list(place.iterdir())) if place.is_dir() else 0


def fill_log_further(log: FileEventLog) -> None:
    """Some events more, as a backend that goes on gives them."""
    last = log.event_at(log.next_seq - 3)
    for _ in range(3):
        log.append(msgspec.structs.replace(last, seq=log.next_seq))
