"""Subscribing: which events, from where on, on whose thread; each once, in order, harmlessly."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from pathlib import Path
from typing import Any, Literal

import pytest
from stagewright.adapters import open_controller
from stagewright.events import (
    FileEventLog,
    LifecycleChanged,
    RunOpened,
    RunSealed,
    RunState,
    StageEvent,
    StepProgress,
    signals,
    subscribe,
)
from stagewright.events.subscriptions.dispatcher import Dispatcher
from stagewright.statemachine import ConfigurationError

from .command_line import until
from .listening import EVENTS, OTHER, RUN, Faulty, is_connected, tell
from .support import fill_log, run_opened


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


def test_a_subscription_with_steps_may_be_closed_by_a_finalizer() -> None:
    """The collector may call one while another subscription is being made or closed."""

    class Window:
        def __init__(self) -> None:
            self.itself = self
            self.subscription = subscribe(print, on_step=print)

        def __del__(self) -> None:
            self.subscription.close(timeout_s=0)

    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(40):
            Window()
            subscription = subscribe(print, on_step=print)
            signals.dropped()
            subscription.close()
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert not is_connected(subscription)


@pytest.mark.parametrize("on", ["worker", "publisher"])
def test_close_ends_a_subscription(on: Literal["worker", "publisher"]) -> None:
    """What was published before is delivered, what comes after is not."""
    seen: list[StageEvent] = []
    subscription = subscribe(seen.append, on=on)
    tell(EVENTS[:3])
    subscription.close()
    tell(EVENTS[3:])
    assert seen == EVENTS[:3]
    assert not is_connected(subscription)


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
    """Its faults stand under its own name; ten in a row end its subscription and its thread."""
    faulty = Faulty()
    before = signals.faults().get("Faulty.take", 0)
    subscription = subscribe(faulty.take, on=on)
    tell(EVENTS[:1] * 25)
    thread = subscription._reader.thread
    until(lambda: subscription.error is not None, "the end of the subscription")
    assert "failed too often" in str(subscription.error)
    assert not is_connected(subscription)
    if thread is not None:
        thread.join(10)
        assert not thread.is_alive()
    assert faulty.calls == 10
    assert signals.faults()["Faulty.take"] == before + 10


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


@pytest.mark.parametrize(
    ("transitions", "triggers"),
    [
        (["start"], ["start"]),
        ("finish", ["finish"]),
        ([RunState.COMPLETED], ["finish"]),
        ([RunState.RUNNING, "finish"], ["start", "finish"]),
        ([RunState.ERROR, "cancel"], []),
    ],
)
def test_a_subscriber_may_choose_moves_of_the_lifecycle(
    transitions: list[str] | str, triggers: list[str]
) -> None:
    """By their trigger, or by the state that they lead to."""
    seen: list[StageEvent] = []
    with subscribe(seen.append, transitions=transitions, on="publisher"):
        tell()
    assert [one.trigger for one in seen if isinstance(one, LifecycleChanged)] == triggers
    assert len(seen) == len(triggers)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((print, [RunOpened, RunSealed]), {}, "is not an event type"),
        ((print, StepProgress), {}, "sampling steps come to on_step"),
        ((print, "StageEnd"), {}, "'StageEnd' is not an event type"),
        ((None,), {}, "receiver = None cannot be called"),
        ((print,), {"on": None}, "on = None is neither"),
        ((print,), {"on": "gui"}, "on = 'gui'"),
        (
            (print,),
            {"transitions": ["finnish"]},
            "no transition 'finnish'; there are start, finish",
        ),
        ((print,), {"capacity": 0}, "capacity = 0 leaves no room"),
        ((print,), {"from_seq": -1}, "from_seq = -1"),
        ((print,), {"from_seq": 0}, "belongs to one run"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: Any, options: dict[str, Any], words: str
) -> None:
    """A subscription that never hears anything would be found out much later."""
    with pytest.raises((TypeError, ValueError), match=words):
        subscribe(*arguments, **options)


@pytest.mark.parametrize("on", ["worker", "publisher"])
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_nothing_that_a_receiver_raises_ends_its_thread(
    on: Literal["worker", "publisher"], kind: type[BaseException]
) -> None:
    """On a thread that is not the program's main one these are faults like any other."""
    dispatcher, seen = Dispatcher(), list[StageEvent]()

    def leave(event: StageEvent) -> None:
        seen.append(event)
        if len(seen) == 3:
            raise kind

    with subscribe(leave, on=on) as subscription:
        for event in EVENTS:
            dispatcher.publish(signals.event_appended, RUN, event=event)
        dispatcher.close()
    assert seen == EVENTS
    assert subscription.faults == 1


def step(number: int) -> StepProgress:
    return StepProgress(
        stage_id="00-txt2img", image_index=0, step=number, steps=100, fraction=number / 100
    )


def tell_step(number: int) -> None:
    signals.publish(signals.step_progress, RUN, progress=step(number))


def test_steps_and_events_come_in_the_order_in_which_they_were_told() -> None:
    """One receiver for each, one thread for both; on the publisher's it is told every step."""
    seen: list[object] = []
    with subscribe(seen.append, run_id=RUN, on="publisher", on_step=seen.append):
        tell(EVENTS[:1])
        tell_step(1)
        tell(EVENTS[1:2])
        tell_step(2)
    assert seen == [EVENTS[0], step(1), EVENTS[1], step(2)]


def test_a_worker_is_told_ten_steps_a_second_at_most() -> None:
    """The first at once, then one of each tenth of a second; the others are counted."""
    steps: list[int] = []
    began = time.monotonic()
    with subscribe(print, run_id=RUN, on_step=lambda one: steps.append(one.step)) as subscription:
        number = 0
        while time.monotonic() - began < 0.55:
            tell_step(number)
            number += 1
    took = time.monotonic() - began
    assert steps[0] == 0
    assert steps == sorted(steps)
    assert 3 <= len(steps) <= took / 0.1 + 1
    assert subscription.dropped == number - len(steps)


def test_a_subscriber_that_is_behind_misses_steps_and_no_event(tmp_path: Path) -> None:
    """Steps are dropped and counted; events are read back from the log, in bounded memory."""
    (tmp_path / "run").mkdir()
    log = FileEventLog.create(tmp_path / "run", run_opened(RUN))
    fill_log(log, 100)
    events = list(log.timeline())
    release, seen, steps = threading.Event(), list[StageEvent](), list[int]()
    began = threading.Event()

    def take(event: StageEvent) -> None:
        began.set()
        release.wait(20)
        seen.append(event)

    before = signals.dropped().get(take.__qualname__, 0)
    subscription = subscribe(take, on_step=lambda one: steps.append(one.step), capacity=5)
    tell(events[:1])
    assert began.wait(10)
    for number, event in enumerate(events[1:]):
        tell([event])
        tell_step(number)
    # As many as it has room for, and then a note of what is left in the log.
    assert subscription.waiting <= 6
    release.set()
    subscription.close(timeout_s=20)
    log.close()
    assert seen == events
    assert subscription.dropped == len(events) - 1 - len(steps)
    assert subscription.dropped > 250
    assert signals.dropped()[take.__qualname__] == before + subscription.dropped


def test_a_full_queue_has_room_for_config_errors() -> None:
    """They stand in no log, so that nobody could read them again."""
    release, words = threading.Event(), list[str]()
    subscription = subscribe(
        lambda _event: release.wait(20), on_config_error=words.append, capacity=1
    )
    tell(EVENTS[:3])
    for number in range(3):
        signals.publish(signals.config_error, None, message=str(number), error=ValueError())
    release.set()
    subscription.close(timeout_s=20)
    assert words == ["0", "1", "2"]


def test_config_errors_are_told_to_who_asks_for_them(tmp_path: Path) -> None:
    """In the words that a status bar shows; no run is needed for it."""
    words: list[str] = []
    with subscribe(print, on_config_error=words.append), pytest.raises(ConfigurationError):
        open_controller(tmp_path).start({"prompt": "x"})
    assert words == ["Config Error: No pipeline stages enabled"]


def test_a_worker_subscription_costs_the_run_no_wait() -> None:
    """It only queues: the dispatcher calls it on the run's own thread and goes on."""
    dispatcher, release = Dispatcher(), threading.Event()
    seen: list[StageEvent] = []

    def block(event: StageEvent) -> None:
        release.wait(20)
        seen.append(event)

    with subscribe(block):
        began = time.monotonic()
        for event in EVENTS:
            dispatcher.publish(signals.event_appended, RUN, event=event)
            dispatcher.flush()
        assert time.monotonic() - began < 0.9
        release.set()
    dispatcher.close()
    assert seen == EVENTS
