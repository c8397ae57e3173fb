"""The dispatcher: signals in order on a thread of its own, and no receiver able to stop a run."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from stagewright.events import FileEventLog, StageEvent, StepProgress, signals, subscribe
from stagewright.events.subscriptions.dispatcher import Dispatcher

from .command_line import ROOT, run_python, until
from .listening import EVENTS, Connect
from .support import fill_log, memory_log, run_opened

RUN = "20261120T225226.123456Z-announced-7f3a9c"
MANY = list(memory_log(30).timeline())
STEP = StepProgress(stage_id="x", image_index=0, step=1, steps=2, fraction=0.5)


@pytest.fixture
def dispatcher() -> Iterator[Dispatcher]:
    made = Dispatcher()
    yield made
    made.close()


def tell(dispatcher: Dispatcher, events: list[StageEvent]) -> None:
    """Announce events as a run does: each before the next."""
    for event in events:
        dispatcher.publish(signals.event_appended, RUN, event=event)
        dispatcher.flush()


def test_announcements_are_delivered_in_order_and_flush_waits_for_them(
    dispatcher: Dispatcher, connected: Connect
) -> None:
    """After ``flush`` every announcement has been made, in order, on one thread of its own."""
    said: list[tuple[StageEvent, int]] = []
    connected(lambda _sender, event: said.append((event, threading.get_ident())))
    for event in MANY:
        dispatcher.publish(signals.event_appended, RUN, event=event)
    dispatcher.flush()
    assert [event for event, _ in said] == MANY
    assert len({thread for _, thread in said}) == 1
    assert threading.get_ident() not in {thread for _, thread in said}


def test_flush_never_returns_before_delivery(dispatcher: Dispatcher, connected: Connect) -> None:
    """Not even in the moment between the queue and the call, on whatever threads it is."""
    usual, heard = sys.getswitchinterval(), list[StageEvent]()
    connected(lambda _sender, event: heard.append(event))
    sys.setswitchinterval(1e-6)
    try:
        for number in range(1, 1000):
            dispatcher.publish(signals.event_appended, RUN, event=EVENTS[0])
            dispatcher.flush()
            assert len(heard) == number
    finally:
        sys.setswitchinterval(usual)


def test_a_blocked_receiver_costs_one_bounded_wait(
    dispatcher: Dispatcher,
    connected: Connect,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is left behind once, counted and logged; the others get all, without further waits."""
    release, others = threading.Event(), list[StageEvent]()

    def block(_sender: str, **_payload: object) -> None:
        release.wait(20)

    connected(block)
    connected(lambda _sender, event: others.append(event))
    began = time.monotonic()
    tell(dispatcher, MANY)
    took = time.monotonic() - began
    release.set()
    assert others == MANY
    assert 0.9 < took < 15
    name = block.__qualname__
    assert signals.faults()[name] == 1
    assert caplog.text.count(name) == 1


def test_flushing_from_within_a_receiver_does_not_wait_for_itself(
    dispatcher: Dispatcher, connected: Connect
) -> None:
    """A receiver that makes the run flush gets on; it would wait for its own end otherwise."""
    took: list[float] = []

    def flush_within(_sender: str, **_payload: object) -> None:
        began = time.monotonic()
        dispatcher.flush()
        took.append(time.monotonic() - began)

    connected(flush_within)
    tell(dispatcher, EVENTS[:1])
    assert len(took) == 1
    assert took[0] < 0.9


def test_a_closed_dispatcher_drops_what_comes_late(
    dispatcher: Dispatcher, connected: Connect
) -> None:
    """A backend's last progress after the end of a run is dropped and holds nobody up."""
    said: list[StageEvent] = []
    connected(lambda _sender, event: said.append(event))
    dispatcher.publish(signals.event_appended, RUN, event=EVENTS[0])
    dispatcher.close()
    began = time.monotonic()
    tell(dispatcher, EVENTS[1:2])
    assert said == EVENTS[:1]
    assert time.monotonic() - began < 0.5


def test_a_slow_receiver_costs_a_run_no_more_than_a_blocked_one(
    dispatcher: Dispatcher, connected: Connect
) -> None:
    """What a run waits for it is bounded over all its calls; then it is served beside the run."""
    heard: list[StageEvent] = []

    def dawdle(_sender: str, event: StageEvent) -> None:
        threading.Event().wait(0.2)
        heard.append(event)

    connected(dawdle)
    tell(dispatcher, MANY[:10])
    assert len(heard) < 10
    until(lambda: len(heard) == 10, "all events")
    assert heard == MANY[:10]


def test_what_a_late_receiver_is_due_is_kept_in_bounded_memory(
    dispatcher: Dispatcher, tmp_path: Path
) -> None:
    """Events stay in their log and come in order; the steps that it missed are counted."""
    (tmp_path / "run").mkdir()
    log = FileEventLog.create(tmp_path / "run", run_opened(RUN))
    fill_log(log, 20)
    events = list(log.timeline())
    release, seen, steps = threading.Event(), list[StageEvent](), list[StepProgress]()

    def block(event: StageEvent) -> None:
        release.wait(20)
        seen.append(event)

    before = signals.dropped().get(block.__qualname__, 0)
    with subscribe(block, on="publisher", on_step=steps.append, capacity=5) as subscription:
        for event in events:
            tell(dispatcher, [event])
            dispatcher.publish(signals.step_progress, RUN, progress=STEP)
            dispatcher.flush()
        assert subscription.waiting <= 6
        release.set()
        until(lambda: len(seen) == len(events), "all events")
    log.close()
    assert seen == events
    assert subscription.dropped == len(events) - len(steps)
    assert signals.dropped()[block.__qualname__] - before == len(events) - len(steps)
    assert len(steps) < len(events)


def test_nobody_is_held_on_to_because_it_was_told_something(dispatcher: Dispatcher) -> None:
    """A receiver that blinker holds weakly is gone with its last owner, in the middle of a run."""

    class Window:
        def __init__(self) -> None:
            self.calls = 0

        def take(self, _sender: str, **_payload: object) -> None:
            self.calls += 1

    window = Window()
    signals.event_appended.connect(window.take)
    tell(dispatcher, EVENTS[:1])
    assert window.calls == 1
    gone = weakref.ref(window)
    del window
    gc.collect()
    assert gone() is None


def test_a_late_receiver_is_not_held_either(dispatcher: Dispatcher) -> None:
    """A window that was left behind and is closed is gone, and is called no more."""
    release, calls = threading.Event(), list[str]()

    class Window:
        def take(self, _sender: str, event: StageEvent) -> None:
            calls.append(type(event).__name__)
            release.wait(20)

    window = Window()
    signals.event_appended.connect(window.take)
    tell(dispatcher, EVENTS[:1])
    gone = weakref.ref(window)
    del window
    release.set()

    def is_gone() -> bool:
        gc.collect()
        return gone() is None

    until(is_gone, "the end of the window")
    tell(dispatcher, EVENTS[1:])
    dispatcher.close()
    assert calls == ["RunOpened"]


NO_THREAD_AT_THE_START = """
import threading
from pathlib import Path
from stagewright.adapters import PillowInputReader
from stagewright.events import iterate, replay, signals
from stagewright.statemachine import PipelineController
from tests.support import ScriptedBackend, document

def receive(sender, event):
    seen.append(event)

seen = []
signals.event_appended.connect(receive)
controller = PipelineController(
    backend=ScriptedBackend(), runs=Path("runs"), inputs=PillowInputReader()
)
threading.stack_size(2**46)  # more than there can be: no thread begins
try:
    controller.start(document())
    raise SystemExit("the run was started without a thread")
except RuntimeError as error:
    print(error)
threading.stack_size(0)
(folder,) = Path("runs").iterdir()
assert replay(folder).error.kind == "RuntimeError", replay(folder).error
assert seen == list(iterate(folder)), seen
print(controller.start(document()).wait(30).state)
"""

NO_THREAD_IN_THE_MIDDLE = """
import os, threading
from pathlib import Path
from stagewright.adapters import PillowInputReader
from stagewright.events import CallCompleted, signals
from stagewright.statemachine import PipelineController
from tests.support import ScriptedBackend, document

def block(sender, event):
    if isinstance(event, CallCompleted):
        threading.stack_size(2**46)  # from here on no thread begins
        threading.Event().wait()

signals.event_appended.connect(block)
controller = PipelineController(
    backend=ScriptedBackend(), runs=Path("runs"), inputs=PillowInputReader()
)
handle = controller.start(document(images=2))
print(handle.wait(30).state, flush=True)
os._exit(0)  # the receiver blocks for ever
"""


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        (NO_THREAD_AT_THE_START, ["can't start new thread", "COMPLETED"]),
        (NO_THREAD_IN_THE_MIDDLE, ["COMPLETED"]),
    ],
    ids=["start", "middle"],
)
def test_receivers_are_called_where_no_thread_can_be_started(
    program: str, printed: list[str], tmp_path: Path
) -> None:
    """The thread of the run calls them then, and neither start nor the run hangs."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = run_python("-c", program, folder=tmp_path, env=environment)
    assert (done.returncode, done.stdout.splitlines()) == (0, printed), done.stderr
