"""Workers rest: they are woken soon, but seldom, and wherever there can be threads."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from itertools import pairwise

from stagewright.events import StageEvent, subscribe
from stagewright.events.subscriptions.reader import REST_S

from .listening import EVENTS, tell

NO_MORE_THREADS = """
import threading
from stagewright.events import subscribe
from tests.listening import EVENTS, tell
seen, all_there = [], threading.Event()

def take(event):
    seen.append(event)
    if len(seen) == len(EVENTS):
        all_there.set()

subscription = subscribe(take)
threading.stack_size(2**46)  # more than there can be: no thread begins
tell()
assert all_there.wait(10), seen
threading.stack_size(0)
tell()
subscription.close(timeout_s=10)
assert seen == EVENTS * 2
"""


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


def test_events_arrive_where_no_thread_can_be_started_to_wake_others() -> None:
    """A subscription needs no more threads than the one that it has."""
    done = subprocess.run(
        [sys.executable, "-c", NO_MORE_THREADS], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
