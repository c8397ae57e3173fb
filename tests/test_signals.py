"""Signals: every fact to everyone who listens, and no listener able to harm the others."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from blinker import NamedSignal
from stagewright.events import (
    EventRecorder,
    LifecycleChanged,
    MemoryEventLog,
    RunOpened,
    RunSealed,
    StageEvent,
    signals,
    subscribe,
)

from .support import memory_log

LOG = memory_log(2)
RUN = LOG.run_id
EVENTS = list(LOG.timeline())
OTHER = "20261120T225226.123456Z-other-000000"


def tell(events: list[StageEvent] | None = None, run_id: str = RUN) -> None:
    """Publish events as a run does."""
    for event in EVENTS if events is None else events:
        signals.publish(signals.event_appended, run_id, event=event)


@pytest.fixture
def connected() -> Iterator[Callable[[Callable[..., object]], None]]:
    """Connects receivers to ``event_appended`` for one test."""
    receivers: list[Callable[..., object]] = []

    def connect(receiver: Callable[..., object]) -> None:
        receivers.append(receiver)
        signals.event_appended.connect(receiver, weak=False)

    yield connect
    for receiver in receivers:
        signals.event_appended.disconnect(receiver)


class Faulty:
    """Raises while ``broken``; counts its calls."""

    def __init__(self) -> None:
        self.broken = True
        self.calls = 0

    def receive(self, _sender: str, **_payload: object) -> None:
        self.calls += 1
        if self.broken:
            raise ValueError("a subscriber's fault")

    def receive_well(self, _sender: str, **_payload: object) -> None:
        self.calls += 1000

    def take(self, _event: StageEvent) -> None:
        self.receive("")


def test_a_raising_receiver_harms_nobody(
    connected: Callable[[Callable[..., object]], None], caplog: pytest.LogCaptureFixture
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


def test_ten_faults_in_a_row_mute_a_receiver(
    connected: Callable[[Callable[..., object]], None], caplog: pytest.LogCaptureFixture
) -> None:
    """After the tenth it is not called again, and the log says so."""
    faulty = Faulty()
    connected(faulty.receive)
    tell(EVENTS[:1] * 25)
    assert faulty.calls == 10
    assert caplog.text.count("muted") == 1


def test_a_receiver_that_recovers_is_not_muted(
    connected: Callable[[Callable[..., object]], None],
) -> None:
    """One good call ends the row: nine faults, a success and nine faults mute nobody."""
    faulty = Faulty()
    connected(faulty.receive)
    for broken, times in [(True, 9), (False, 1), (True, 9), (False, 1)]:
        faulty.broken = broken
        tell(EVENTS[:1] * times)
    assert faulty.calls == 20


def test_a_muted_method_does_not_mute_its_neighbour(
    connected: Callable[[Callable[..., object]], None],
) -> None:
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


@pytest.mark.parametrize(
    "signal",
    [
        signals.event_appended,
        signals.lifecycle_changed,
        signals.step_progress,
        signals.config_error,
    ],
    ids=lambda signal: signal.name,
)
def test_publishing_reaches_receivers_of_the_sender_only(signal: NamedSignal) -> None:
    """The sender is the run id: a receiver for one run does not hear of another."""
    heard: list[tuple[str, object]] = []

    def receive(sender: str, *, word: str) -> None:
        heard.append((sender, word))

    signal.connect(receive, sender=RUN)
    signals.publish(signal, OTHER, word="no")
    signals.publish(signal, RUN, word="yes")
    signal.disconnect(receive)
    signals.publish(signal, RUN, word="too late")
    assert heard == [(RUN, "yes")]


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
    """With ``on_own_thread=False`` the event is there when ``publish`` returns."""
    seen: list[int] = []
    with subscribe(lambda _event: seen.append(threading.get_ident()), on_own_thread=False):
        tell(EVENTS[:2])
        assert seen == [threading.get_ident()] * 2


def test_a_subscriber_may_choose_types_and_run() -> None:
    """Only events of the named types, and of the named run, are handed over."""
    seen: list[StageEvent] = []
    with subscribe(seen.append, RunOpened, RunSealed, run_id=RUN, on_own_thread=False):
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


@pytest.mark.parametrize("on_own_thread", [True, False])
def test_close_ends_a_subscription(on_own_thread: bool) -> None:
    """What was published before is delivered, what comes after is not."""
    seen: list[StageEvent] = []
    subscription = subscribe(seen.append, on_own_thread=on_own_thread)
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
    subscription = subscribe(lambda event: seen.extend([event]), on_own_thread=False)
    gc.collect()
    tell(EVENTS[:1])
    subscription.close()
    assert seen == EVENTS[:1]


@pytest.mark.parametrize("on_own_thread", [True, False])
def test_a_raising_subscriber_is_named_and_muted(on_own_thread: bool) -> None:
    """Its faults stand under its own name; ten in a row are enough, and nothing is queued then."""
    faulty = Faulty()
    before = signals.faults().get("Faulty.take", 0)
    subscription = subscribe(faulty.take, on_own_thread=on_own_thread)
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


def test_publishing_to_nobody_is_fine() -> None:
    """Without receivers ``publish`` does nothing, for a sender and for none."""
    assert not signals.config_error.receivers
    signals.publish(signals.config_error, None, message="x", error=ValueError())


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


def test_a_recorder_waits_for_an_event() -> None:
    """``wait_for`` returns the n-th event of a type once another thread has told of it."""
    with EventRecorder() as recorder:
        teller = threading.Timer(0.05, tell)
        teller.start()
        began = time.monotonic()
        assert recorder.wait_for(LifecycleChanged, count=2, timeout_s=20) == EVENTS[-2]
        assert time.monotonic() - began < 10
        teller.join()
        with pytest.raises(TimeoutError, match="RunSealed number 2"):
            recorder.wait_for(RunSealed, count=2, timeout_s=0.01)
