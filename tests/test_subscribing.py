"""Subscribing: which events, from where on, on whose thread; each once, in order, harmlessly."""

from __future__ import annotations

import gc
import threading
import time
from typing import Literal

import pytest
from stagewright.events import RunOpened, RunSealed, StageEvent, signals, subscribe

from .listening import EVENTS, OTHER, RUN, Faulty, tell


def test_a_subscriber_gets_every_event_in_order_on_its_own_thread() -> None:
    """Nothing is lost or reordered, one thread serves, and it is not the publisher's."""
    seen: list[tuple[StageEvent, int]] = []
    many = EVENTS * 200
    subscription = subscribe(lambda event: seen.append((event, threading.get_ident())))
    tell(many)
    subscription.close(timeout_s=10)
    assert [event for event, _ in seen] == many
    threads = {thread for _, thread in seen}
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_a_subscriber_on_the_publishing_thread_is_called_at_once() -> None:
    """With ``on="publisher"`` the event is there when ``publish`` returns."""
    seen: list[int] = []
    with subscribe(lambda _event: seen.append(threading.get_ident()), on="publisher"):
        tell(EVENTS[:2])
        assert seen == [threading.get_ident()] * 2


def test_a_subscriber_may_choose_types_and_run() -> None:
    """Only events of the named types, and of the named run, are handed over."""
    seen: list[StageEvent] = []
    with subscribe(seen.append, RunOpened, RunSealed, run_id=RUN, on="publisher"):
        tell()
        tell(run_id=OTHER)
    assert seen == [EVENTS[0], EVENTS[-1]]


def test_a_blocking_subscriber_holds_nobody_up() -> None:
    """While one subscriber stands still the publisher and the others go on; then it gets all."""
    release, seen, slow = threading.Event(), list[StageEvent](), list[StageEvent]()

    def block(event: StageEvent) -> None:
        release.wait(10)
        slow.append(event)

    blocking, other = subscribe(block), subscribe(seen.append)
    tell()
    other.close()
    assert seen == EVENTS
    assert slow == []
    release.set()
    blocking.close()
    assert slow == EVENTS


@pytest.mark.parametrize("on", ["worker", "publisher"])
def test_close_ends_a_subscription(on: Literal["worker", "publisher"]) -> None:
    """What was published before is delivered, what comes after is not."""
    seen: list[StageEvent] = []
    subscription = subscribe(seen.append, on=on)
    tell(EVENTS[:3])
    subscription.close()
    tell(EVENTS[3:])
    assert seen == EVENTS[:3]
    assert not signals.event_appended.receivers


def test_a_subscriber_may_close_itself() -> None:
    """Closing from within the receiver neither blocks nor delivers anything more."""
    seen: list[StageEvent] = []
    ready = threading.Event()

    def once(event: StageEvent) -> None:
        seen.append(event)
        ready.wait(10)
        subscription.close()

    subscription = subscribe(once)
    tell(EVENTS[:1])
    ready.set()
    subscription.close()
    tell(EVENTS[1:])
    assert seen == EVENTS[:1]


def test_a_subscriber_is_held_strongly() -> None:
    """A lambda that nobody else keeps is still called after a collection."""
    seen: list[StageEvent] = []
    subscription = subscribe(lambda event: seen.extend([event]), on="publisher")
    gc.collect()
    tell(EVENTS[:1])
    subscription.close()
    assert seen == EVENTS[:1]


@pytest.mark.parametrize("on", ["worker", "publisher"])
def test_a_raising_subscriber_is_named_and_muted(on: Literal["worker", "publisher"]) -> None:
    """Its faults stand under its own name; ten in a row are enough, and nothing is queued then."""
    faulty = Faulty()
    before = signals.faults().get("Faulty.take", 0)
    subscription = subscribe(faulty.take, on=on)
    tell(EVENTS[:1] * 25)
    subscription.close()
    assert faulty.calls == 10
    assert signals.faults()["Faulty.take"] == before + 10


def test_nothing_is_kept_for_a_muted_subscriber() -> None:
    """Its thread takes it off the signal, so that events do not pile up for nobody."""
    subscription = subscribe(Faulty().take)
    tell(EVENTS[:1] * 10)
    deadline = time.monotonic() + 10
    while signals.event_appended.receivers and time.monotonic() < deadline:
        time.sleep(0.001)
    assert not signals.event_appended.receivers
    subscription.close()


def test_faults_with_successes_between_do_not_end_a_subscription() -> None:
    """A subscriber that fails at every other event gets every event."""
    calls: list[StageEvent] = []

    def every_other(event: StageEvent) -> None:
        calls.append(event)
        if len(calls) % 2:
            raise ValueError("odd")

    with subscribe(every_other):
        tell(EVENTS * 3)
    assert calls == EVENTS * 3
