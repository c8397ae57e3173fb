"""The announcer: signals in order on a thread of its own, and no receiver able to stop a run."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stagewright.events import FileEventLog, StageEvent, StepProgress, signals, subscribe
from stagewright.events.announcer import MAX_WAITING, Announcer

from .command_line import until
from .support import fill_log, run_opened

RUN = "20261120T225226.123456Z-announced-7f3a9c"
Connect = Callable[[Callable[..., object]], None]


@pytest.fixture
def connected() -> Iterator[Connect]:
    """Connects receivers to ``event_appended`` for one test."""
    receivers: list[Callable[..., object]] = []

    def connect(receiver: Callable[..., object]) -> None:
        receivers.append(receiver)
        signals.event_appended.connect(receiver, weak=False)

    yield connect
    for receiver in receivers:
        signals.event_appended.disconnect(receiver)


@pytest.fixture
def announcer() -> Iterator[Announcer]:
    made = Announcer()
    yield made
    made.close()


def test_announcements_are_delivered_in_order_and_flush_waits_for_them(
    announcer: Announcer, connected: Connect
) -> None:
    """After ``flush`` every announcement has been made, in order, on one thread of its own."""
    said: list[tuple[int, int]] = []
    connected(lambda _sender, number: said.append((number, threading.get_ident())))
    for number in range(500):
        announcer.put(signals.event_appended, RUN, number=number)
    announcer.flush()
    assert [number for number, _ in said] == list(range(500))
    assert len({thread for _, thread in said}) == 1
    assert threading.get_ident() not in {thread for _, thread in said}
    assert announcer.waiting == 0


def test_a_blocked_receiver_costs_one_bounded_wait(
    announcer: Announcer,
    connected: Connect,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is left behind once, counted and logged; the others get all, without further waits."""
    release, others = threading.Event(), list[int]()

    def block(_sender: str, **_payload: object) -> None:
        release.wait(20)

    connected(block)
    connected(lambda _sender, number: others.append(number))
    began = time.monotonic()
    for number in range(100):
        announcer.put(signals.event_appended, RUN, number=number)
        announcer.flush()
    took = time.monotonic() - began
    release.set()
    assert others == list(range(100))
    assert 0.9 < took < 15
    name = block.__qualname__
    assert signals.faults()[name] == 1
    assert caplog.text.count(name) == 1


def test_a_receiver_that_comes_back_is_served_again(
    announcer: Announcer, connected: Connect
) -> None:
    """What was announced while it blocked waits for it, in order, and so does what follows."""
    release, numbers = threading.Event(), list[int]()
    returned = threading.Event()

    def block_once(_sender: str, number: int) -> None:
        numbers.append(number)
        if number == 0:
            release.wait(20)
            returned.set()

    connected(block_once)
    for number in range(3):
        announcer.put(signals.event_appended, RUN, number=number)
        announcer.flush()
    assert numbers == [0]
    release.set()
    assert returned.wait(10)
    announcer.put(signals.event_appended, RUN, number=3)
    announcer.close()
    assert numbers == [0, 1, 2, 3]


def test_flushing_from_within_a_receiver_does_not_wait_for_itself(
    announcer: Announcer, connected: Connect
) -> None:
    """A receiver that makes the run flush gets on; it would wait for its own end otherwise."""
    took: list[float] = []

    def flush_within(_sender: str) -> None:
        began = time.monotonic()
        announcer.flush()
        took.append(time.monotonic() - began)

    connected(flush_within)
    announcer.put(signals.event_appended, RUN)
    announcer.flush()
    assert len(took) == 1
    assert took[0] < 0.9


def test_a_closed_announcer_drops_what_comes_late(announcer: Announcer, connected: Connect) -> None:
    """A backend's last progress after the end of a run is dropped and holds nobody up."""
    said: list[int] = []
    connected(lambda _sender, number: said.append(number))
    announcer.put(signals.event_appended, RUN, number=0)
    announcer.close()
    announcer.put(signals.event_appended, RUN, number=1)
    announcer.flush()
    assert said == [0]
    assert announcer.waiting == 0


def test_a_slow_receiver_costs_a_run_no_more_than_a_blocked_one(
    announcer: Announcer, connected: Connect
) -> None:
    """What a run waits for it is bounded over all its calls; then it is served beside the run."""
    numbers: list[int] = []

    def dawdle(_sender: str, number: int) -> None:
        threading.Event().wait(0.2)
        numbers.append(number)

    connected(dawdle)
    began = time.monotonic()
    for number in range(20):
        announcer.put(signals.event_appended, RUN, number=number)
        announcer.flush()
    assert time.monotonic() - began < 2.5
    deadline = time.monotonic() + 20
    while len(numbers) < 20 and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert numbers == list(range(20))


def test_what_a_late_receiver_is_due_is_kept_in_bounded_memory(
    announcer: Announcer, tmp_path: Path
) -> None:
    """Events stay in their log and come in order; of steps the first are kept, the rest counted."""
    (tmp_path / "run").mkdir()
    log = FileEventLog.create(tmp_path / "run", run_opened(RUN))
    fill_log(log, 1000)
    events = list(log.timeline())
    release, seen, steps = threading.Event(), list[StageEvent](), list[StepProgress]()

    def block(event: StageEvent) -> None:
        release.wait(20)
        seen.append(event)

    before = signals.dropped().get(block.__qualname__, 0)
    step = StepProgress(stage_id="x", image_index=0, step=1, steps=2, fraction=0.5)
    with subscribe(block, on="publisher", on_step=steps.append):
        for event in events:
            announcer.put(signals.event_appended, RUN, event=event)
            announcer.put(signals.step_progress, RUN, progress=step)
            announcer.flush()
        kept = sum(len(line.waiting) for line in announcer._lines.values())
        assert kept <= MAX_WAITING + 1
        release.set()
        until(lambda: len(seen) == len(events), "all events")
    log.close()
    assert seen == events
    assert signals.dropped()[block.__qualname__] - before == len(events) - len(steps)
    assert len(steps) < len(events)


def test_nobody_is_held_on_to_because_it_was_told_something(announcer: Announcer) -> None:
    """A receiver that blinker holds weakly is gone with its last owner, in the middle of a run."""

    class Window:
        def __init__(self) -> None:
            self.calls = 0

        def take(self, _sender: str, **_payload: object) -> None:
            self.calls += 1

    window = Window()
    signals.event_appended.connect(window.take)
    announcer.put(signals.event_appended, RUN, number=1)
    announcer.flush()
    assert window.calls == 1
    gone = weakref.ref(window)
    del window
    gc.collect()
    assert gone() is None


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
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()) == (0, printed), done.stderr
