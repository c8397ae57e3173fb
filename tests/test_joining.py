"""Joining a run in the middle: every fact once and in order, from any number on, in any way."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stagewright.adapters import open_controller
from stagewright.events import (
    Durability,
    FileEventLog,
    LogCorruptError,
    RunNotFoundError,
    StageEnd,
    StageEvent,
    SubscriberMutedError,
    Subscription,
    iterate,
    subscribe,
)

from .command_line import until
from .listening import is_connected
from .log_format import flip
from .resuming import made
from .support import ScriptedBackend, controller, document, fill_log, run_opened

READERS = 8
FOUR = document(images=4)


class Reader(NamedTuple):
    """When a reader joins, from where on, and how it is served."""

    joins_at: int
    from_seq: int
    on: str
    capacity: int
    is_slow: bool


readers = st.builds(
    Reader,
    joins_at=st.integers(0, 60),
    from_seq=st.integers(0, 70),
    on=st.sampled_from(["worker", "publisher", "loop"]),
    capacity=st.sampled_from([1, 3, 1024]),
    is_slow=st.booleans(),
)


class Loop:
    """A loop of the kind that GUIs have: calls from any thread, made on its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    @property
    def ident(self) -> int | None:
        """Its thread."""
        return self._thread.ident

    def close(self) -> None:
        """End it once what it was handed is done."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(20)
        self.loop.close()


class Joined:
    """A reader that joins a run of this process from a thread of its own."""

    def __init__(self, reader: Reader, loop: Loop) -> None:
        self.seen: list[int] = []
        self._reader = reader
        self._on: Any = loop.loop.call_soon_threadsafe if reader.on == "loop" else reader.on
        self._subscription: Subscription | None = None
        self._thread: threading.Thread | None = None

    def look(self, event: StageEvent, folder: Path) -> None:
        """Join, once the run has come so far."""
        if self._thread is None and event.seq >= self._reader.joins_at:
            self._thread = threading.Thread(target=self._join, args=(folder,))
            self._thread.start()

    def _join(self, folder: Path) -> None:
        self._subscription = subscribe(
            self._take,
            folder=folder,
            from_seq=self._reader.from_seq,
            on=self._on,
            capacity=self._reader.capacity,
        )

    def _take(self, event: StageEvent) -> None:
        if self._reader.is_slow:
            threading.Event().wait(0.002)
        self.seen.append(event.seq)

    def leave(self, total: int) -> None:
        """Wait until it has all that there is, and no longer."""
        assert self._thread is not None
        self._thread.join(20)
        assert self._subscription is not None
        until(lambda: self.seen[-1:] == [total - 1] or self._reader.from_seq >= total, "the rest")
        self._subscription.close()


@settings(max_examples=15, deadline=None)
@given(joining=st.lists(readers, min_size=READERS, max_size=READERS), images=st.integers(1, 15))
def test_eight_readers_of_one_writer_see_every_event_once_and_in_order(
    joining: list[Reader], images: int
) -> None:
    """Whenever they join, whatever they begin with, fast or slow, with much or little room."""
    loop = Loop()
    joined = [Joined(one, loop) for one in joining]
    try:
        with tempfile.TemporaryDirectory() as runs:

            def note(event: StageEvent) -> None:
                for one in joined:
                    one.look(event, Path(runs) / event.run_id)

            with subscribe(note, on="publisher"):
                handle = open_controller(runs).start(document("txt2img", images=images))
                total = len(handle.wait(60).events)
            for one in joined:
                one.look(list(iterate(handle.folder))[-1], handle.folder)
                if one._reader.joins_at < total:
                    one.leave(total)
                    assert one.seen == list(range(one._reader.from_seq, total))
    finally:
        loop.close()


def test_a_subscription_goes_on_over_a_resume(tmp_path: Path) -> None:
    """The log is one, however many epochs write it."""
    controller = open_controller(tmp_path)
    seen: list[StageEvent] = []

    def stop(event: StageEvent) -> None:
        if event.epoch == 0 and event.seq == 12:
            controller.cancel(event.run_id)

    with subscribe(stop, on="publisher"):
        handle = controller.start(document(images=8))
        with subscribe(seen.append, folder=handle.folder, from_seq=0, capacity=2):
            handle.wait(30)
            controller.resume(handle.run_id).wait(30)
    assert {event.epoch for event in seen} == {0, 1}
    assert seen == list(iterate(handle.folder))


def test_a_run_of_this_process_needs_no_folder(tmp_path: Path) -> None:
    """Its id suffices, while it goes on and afterwards; of others the folder has to be named."""
    hold = threading.Event()
    backend = ScriptedBackend(lambda _request, _cancel: (hold.wait(20), None)[1])
    handle = controller(tmp_path, backend).start(document())
    seen: list[StageEvent] = []
    with subscribe(seen.append, run_id=handle.run_id, from_seq=0):
        hold.set()
        handle.wait(30)
    assert seen == list(iterate(handle.folder))
    with subscribe(seen.append, run_id=handle.run_id, from_seq=5):
        pass
    assert seen[-4:] == seen[5:9]
    with pytest.raises(RunNotFoundError, match="name its folder"):
        subscribe(seen.append, run_id="another", from_seq=0)


def test_joining_chooses_types_and_moves_of_the_lifecycle_too(tmp_path: Path) -> None:
    """History and what comes live are chosen from alike."""
    handle = open_controller(tmp_path).start(document("txt2img", "upscale"))
    handle.wait(30)
    seen: list[StageEvent] = []
    with subscribe(seen.append, StageEnd, transitions=["finish"], folder=handle.folder, from_seq=0):
        pass
    assert [type(event).__name__ for event in seen] == ["StageEnd", "StageEnd", "LifecycleChanged"]


def test_a_corrupt_log_is_told_to_who_joins(tmp_path: Path) -> None:
    """On the publisher's thread it is raised; elsewhere the subscription ends and says why."""
    folder = made(tmp_path, FOUR)
    flip(folder / "events.jsonl", -300)
    seen: list[StageEvent] = []
    with pytest.raises(LogCorruptError):
        subscribe(seen.append, folder=folder, from_seq=0, on="publisher")
    told = list(seen)
    subscription = subscribe(seen.append, folder=folder, from_seq=0)
    until(lambda: subscription.error is not None, "the end of the subscription")
    assert isinstance(subscription.error, LogCorruptError)
    assert seen == told * 2
    assert told
    assert not is_connected(subscription)


def test_a_loop_that_has_ended_ends_the_subscription(tmp_path: Path) -> None:
    """Nobody will ever take what it is handed: the subscription says so and keeps nothing."""
    loop = Loop()
    loop.close()
    subscription = subscribe(
        print,
        folder=made(tmp_path, FOUR),
        from_seq=0,
        on=loop.loop.call_soon_threadsafe,
    )
    until(lambda: subscription.error is not None, "the end of the subscription")
    assert isinstance(subscription.error, RuntimeError)
    subscription.close()


def test_a_loop_that_ends_with_a_call_in_it_ends_the_subscription(tmp_path: Path) -> None:
    """A window is closed while it is told something: nothing is left hanging."""
    loop = Loop()
    loop.loop.call_soon_threadsafe(loop.loop.stop)
    loop.close()
    waiting: list[Callable[[], None]] = []

    def call_soon(call: Callable[[], None]) -> None:
        if waiting:
            raise RuntimeError("the loop has ended")
        waiting.append(call)

    subscription = subscribe(print, folder=made(tmp_path, FOUR), from_seq=0, on=call_soon)
    until(lambda: subscription.error is not None, "the end of the subscription")
    assert "the loop has ended" in str(subscription.error)
    assert not is_connected(subscription)


def test_ten_faults_in_a_loop_end_a_subscription_for_good(tmp_path: Path) -> None:
    """No later event is told once some have been left out."""
    loop = Loop()
    with closing(
        FileEventLog.create(tmp_path, run_opened("faulty"), durability=Durability.PROCESS)
    ) as log:
        fill_log(log, 90)
    calls: list[int] = []

    def recovers(event: StageEvent) -> None:
        calls.append(event.seq)
        if len(calls) <= 10:
            raise ValueError("not yet")

    subscription = subscribe(
        recovers, folder=tmp_path, from_seq=0, on=loop.loop.call_soon_threadsafe
    )
    until(lambda: subscription.error is not None, "the end of the subscription")
    loop.close()
    assert isinstance(subscription.error, SubscriberMutedError)
    assert calls == list(range(10))


def test_a_loop_is_not_kept_from_its_other_work(tmp_path: Path) -> None:
    """Slow receivers are called a few at a time."""
    loop, runs_at_once = Loop(), list[int]()
    calls = 0

    def slow(_event: StageEvent) -> None:
        nonlocal calls
        calls += 1
        threading.Event().wait(0.011)

    def call_soon(call: Callable[[], None]) -> None:
        def counted() -> None:
            before = calls
            call()
            runs_at_once.append(calls - before)

        loop.loop.call_soon_threadsafe(counted)

    folder = made(tmp_path, FOUR)
    total = len(list(iterate(folder)))
    with subscribe(slow, folder=folder, from_seq=0, on=call_soon):
        until(lambda: calls == total, "all events")
    loop.close()
    assert max(runs_at_once) <= 3


def test_a_loop_is_called_on_its_own_thread_and_not_after_the_end(tmp_path: Path) -> None:
    """Even what waits in the loop is not delivered any more once ``close`` has returned."""
    loop, threads = Loop(), set[int]()
    folder = made(tmp_path, FOUR)
    first = threading.Event()

    def take(_event: StageEvent) -> None:
        threads.add(threading.get_ident())
        first.set()

    with subscribe(take, folder=folder, from_seq=0, on=loop.loop.call_soon_threadsafe):
        assert first.wait(10)
    assert threads == {loop.ident}
    waiting: list[Callable[[], None]] = []
    late: list[StageEvent] = []
    subscription = subscribe(late.append, folder=folder, from_seq=0, on=waiting.append)
    until(lambda: bool(waiting), "the first call")
    subscription.close()
    for call in waiting:
        call()
    assert late == []
    loop.close()


def test_closing_in_the_loop_itself_does_not_block(tmp_path: Path) -> None:
    """A window that is closed ends its subscription at once, with events still on their way."""
    loop = Loop()
    folder = made(tmp_path, FOUR)
    closed = threading.Event()

    ready = threading.Event()

    def close(_event: StageEvent) -> None:
        assert ready.wait(10)
        subscription.close(timeout_s=20)
        closed.set()

    subscription = subscribe(close, folder=folder, from_seq=0, on=loop.loop.call_soon_threadsafe)
    ready.set()
    assert closed.wait(10)
    loop.close()


def test_who_closes_itself_is_told_nothing_more(tmp_path: Path) -> None:
    """Not even what has been read for it already."""
    calls: list[int] = []
    ready = threading.Event()

    def close(event: StageEvent) -> None:
        assert ready.wait(10)
        calls.append(event.seq)
        subscription.close()

    subscription = subscribe(close, folder=made(tmp_path, FOUR), from_seq=0)
    ready.set()
    until(lambda: bool(calls), "the first event")
    subscription.close(timeout_s=10)
    assert calls == [0]


def test_closing_waits_no_longer_than_it_was_told(tmp_path: Path) -> None:
    """What is not delivered by then is not delivered at all."""
    calls: list[int] = []

    def slow(event: StageEvent) -> None:
        threading.Event().wait(0.05)
        calls.append(event.seq)

    subscription = subscribe(slow, folder=made(tmp_path, FOUR), from_seq=0)
    until(lambda: len(calls) == 2, "the first events")
    subscription.close(timeout_s=0.1)
    closed_at = len(calls)
    until(lambda: not _is_served(), "the end of the thread")
    assert len(calls) <= closed_at + 1 < 17


def _is_served() -> bool:
    return any(thread.name == "stagewright-subscription" for thread in threading.enumerate())
