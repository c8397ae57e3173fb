"""Signals: every fact to everyone who listens, and no listener able to harm the others."""

from __future__ import annotations

import logging
import threading
import time
from itertools import pairwise

import pytest
from stagewright.events import (
    EventRecorder,
    LifecycleChanged,
    MemoryEventLog,
    StageEvent,
    signals,
    subscribe,
)
from stagewright.events.subscriptions.reader import REST_S

from .listening import EVENTS, LOG, OTHER, RUN, Connect, Faulty, tell


def test_a_raising_receiver_harms_nobody(
    connected: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """The publisher sees nothing, the others get all, and the fault is counted and logged."""
    seen: list[StageEvent] = []
    faulty = Faulty()
    connected(lambda _sender, event: seen.append(event))
    connected(faulty.receive)
    connected(lambda _sender, event: seen.append(event))
    before = signals.faults().get("Faulty.receive", 0)
    tell(EVENTS[:3])
    assert seen == [event for event in EVENTS[:3] for _ in range(2)]
    assert faulty.calls == 3
    assert signals.faults()["Faulty.receive"] == before + 3
    assert "Faulty.receive" in caplog.text
    assert "a subscriber's fault" in caplog.text


def test_a_receiver_that_recovers_is_not_muted(connected: Connect) -> None:
    """One good call ends the row: nine faults, a success and nine faults mute nobody."""
    faulty = Faulty()
    connected(faulty.receive)
    for broken, times in [(True, 9), (False, 1), (True, 9), (False, 1)]:
        faulty.broken = broken
        tell(EVENTS[:1] * times)
    assert faulty.calls == 20


def test_a_muted_method_does_not_mute_its_neighbour(connected: Connect) -> None:
    """Two methods of one object are two receivers, for faults as for successes."""
    both = Faulty()
    connected(both.receive)
    connected(both.receive_well)
    tell(EVENTS[:1] * 25)
    assert both.calls == 10 + 25 * 1000


def test_a_new_receiver_does_not_inherit_the_faults_of_one_that_is_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A muted receiver's address may be used again; whoever lives there then is called."""
    # A captured log record would keep the receiver, and thereby its address.
    caplog.set_level(logging.CRITICAL, "stagewright.signals")
    addresses: set[int] = set()
    reused = 0
    for _ in range(200):
        faulty = Faulty()
        reused += id(faulty) in addresses
        addresses.add(id(faulty))
        signals.event_appended.connect(faulty.receive, weak=False)
        tell(EVENTS[:1] * 12)
        signals.event_appended.disconnect(faulty.receive)
        assert faulty.calls == 10
        del faulty
        if reused:
            break
    assert reused


def test_publishing_reaches_receivers_of_the_sender_only() -> None:
    """The sender is the run id: a receiver for one run does not hear of another."""
    heard: list[tuple[str, object]] = []

    def receive(sender: str, *, word: str) -> None:
        heard.append((sender, word))

    signal = signals.lifecycle_changed
    signal.connect(receive, sender=RUN)
    signals.publish(signal, OTHER, word="no")
    signals.publish(signal, RUN, word="yes")
    signal.disconnect(receive)
    signals.publish(signal, RUN, word="too late")
    assert heard == [(RUN, "yes")]


def test_replaying_sends_no_signals() -> None:
    """Events read from bytes are history: nobody is told of them."""
    with EventRecorder() as recorder:
        MemoryEventLog.from_bytes(LOG.to_bytes())
    assert recorder.events == ()


def test_a_recorder_keeps_what_happened_while_it_was_open() -> None:
    """EventRecorder gives events, their types and those of one type; nothing after its end."""
    with EventRecorder(RUN) as recorder:
        tell()
        tell(run_id=OTHER)
    tell()
    assert list(recorder.events) == EVENTS
    assert recorder.types() == [type(event).__name__ for event in EVENTS]
    assert recorder.of_type(LifecycleChanged) == [EVENTS[1], EVENTS[-2]]


def test_a_thread_is_left_to_sleep_for_a_while_before_it_is_woken_again() -> None:
    """However often something comes: what listeners cost is a small share of the time."""
    woken: list[float] = []
    is_woken = threading.Event()

    def take(_event: StageEvent) -> None:
        woken.append(time.monotonic())
        is_woken.set()

    with subscribe(take):
        for _ in range(4):
            is_woken.clear()
            tell(EVENTS[:1])
            assert is_woken.wait(10)
    pauses = [later - earlier for earlier, later in pairwise(woken)]
    assert min(pauses) > 0.9 * REST_S


def test_the_first_event_is_told_at_once_and_close_does_not_wait_for_the_rest() -> None:
    """A worker rests after a batch, not before, and no longer than until it is closed."""
    is_told = threading.Event()
    with subscribe(lambda _event: is_told.set()):
        time.sleep(2 * REST_S)
        began = time.monotonic()
        tell(EVENTS[:1])
        assert is_told.wait(10)
    assert time.monotonic() - began < 0.8 * REST_S
