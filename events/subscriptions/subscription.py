"""Subscribing to events: which, from where on, and on whose thread they are handed over."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal

from blinker import NamedSignal

from .. import signals
from ..errors import RunNotFoundError, SubscriberMutedError
from ..groups.model import GroupEvent
from ..log.open_log_registry import path_of_run
from ..log.reader import iterate, log_path
from ..log.shared_events import SharedEvent
from ..model import TRIGGERS, LifecycleChanged, RunState, StageEvent, StepProgress
from .log_tail import LogTail
from .reader import CAPACITY, Item, Reader

CallSoon = Callable[[Callable[[], None]], object]
"""What a GUI's or asyncio's loop offers to be handed a call from another thread."""
Where = Literal["worker", "publisher"] | CallSoon
_AT_ONCE = 256
"""How many events are fetched for a loop in one go."""
_LOOP_S = 0.02
"""How long a loop is kept from its other work in one go."""
_STILL_THERE_S = 1.0
"""How long a call may wait in a loop before the loop is asked whether it still takes calls."""


class Receivers:
    """What a subscriber is called with, and which events it wants."""

    def __init__(
        self,
        on_event: Callable[[StageEvent], object],
        types: tuple[type[StageEvent], ...],
        transitions: Iterable[str],
        on_step: Callable[[StepProgress], object] | None,
        on_config_error: Callable[[str], object] | None,
        on_group: Callable[[GroupEvent], object] | None = None,
        on_queue: Callable[[SharedEvent], object] | None = None,
    ) -> None:
        for kind in types:
            if not (isinstance(kind, type) and issubclass(kind, StageEvent)):
                raise TypeError(f"{kind!r} is not an event type (sampling steps come to on_step)")
        # One name alone is a collection of letters to Python.
        named = [transitions] if isinstance(transitions, str) else list(transitions)
        known = (*TRIGGERS, *map(str, RunState))
        for name in named:
            if name not in known:
                raise ValueError(f"no transition {name!r}; there are {', '.join(known)}")
        self.on_event = on_event
        self.on_step = on_step
        self._types = types
        self._transitions = frozenset(named)
        self._by_kind: list[tuple[type[Any], Callable[[Any], object] | None, NamedSignal]] = [
            (StageEvent, on_event, signals.event_appended),
            (StepProgress, on_step, signals.step_progress),
            (GroupEvent, on_group, signals.group_changed),
            (SharedEvent, on_queue, signals.queue_changed),
            (str, on_config_error, signals.config_error),
        ]

    def of(self, item: Item) -> tuple[Callable[[Any], object] | None, str]:
        """What is called with this item, if it is wanted, and the signal that it came from."""
        kinds = (one for one in self._by_kind if isinstance(item, one[0]))
        _, receiver, signal = next(kinds)
        is_wanted = not isinstance(item, StageEvent) or self.wants(item)
        return receiver if is_wanted else None, signal.name

    def wants(self, event: StageEvent) -> bool:
        """Whether the event is of a wanted type, or a wanted move of the lifecycle.

        A move is named by its trigger (``finish``) or by the state that it leads to
        (``RunState.COMPLETED``). Without types and moves, every event is wanted.
        """
        if isinstance(event, self._types) or not (self._types or self._transitions):
            return True
        return isinstance(event, LifecycleChanged) and not self._transitions.isdisjoint(
            (event.trigger, event.dest)
        )

    def wanted_signals(self) -> list[NamedSignal]:
        """The signals that bring what is wanted."""
        return [signal for _, receiver, signal in self._by_kind if receiver is not None]


class Subscription:
    """Hands events to one receiver until ``close``; also a context manager.

    ``dropped`` counts the sampling steps that it has missed, ``waiting`` what waits for it in
    memory, ``faults`` how often the receiver has raised. It ends by itself after ten faults in a
    row, and where the log cannot be read or the loop is gone: ``error`` says why then. Once
    ``close`` has returned the receiver is not called any more, but for a call that is under way.
    """

    def __init__(
        self,
        receivers: Receivers,
        on: Where,
        run_id: str | None,
        tail: LogTail | None,
        capacity: int,
    ) -> None:
        self.subscriber_name = signals.name_of(receivers.on_event)
        self.faults = 0
        self.error: Exception | None = None
        self._receivers = receivers
        self._run_id = run_id
        self._streak = 0
        self._is_closed = False
        self._loop = LoopBridge(on) if callable(on) else None
        self._has_position = tail is not None
        self._reader = Reader(
            self.subscriber_name,
            self._deliver if self._loop is None else self._deliver_in_loop,
            is_inline=on == "publisher",
            capacity=capacity,
            tail=tail,
            polls_steps=receivers.on_step is not None,
            on_end=self._end,
        )
        # To all runs, even for one: blinker keeps an entry for each sender for ever.
        for signal in receivers.wanted_signals():
            signal.connect(self._receive, weak=False)
        try:
            if on == "publisher":
                self._reader.read_history()
            else:
                self._reader.start()
        except BaseException:
            self.close(timeout_s=0.0)
            raise

    @property
    def dropped(self) -> int:
        """How many sampling steps it has missed because it was behind."""
        return self._reader.dropped

    @property
    def waiting(self) -> int:
        """How many things wait in memory to be handed over."""
        return self._reader.waiting

    def close(self, timeout_s: float = 2.0) -> None:
        """End the subscription; wait at most this long for what is under way to be delivered.

        In a GUI's loop nothing is waited for: what has not been delivered is dropped.
        """
        self._disconnect()
        # From the loop, or from within the receiver, nothing more can be delivered in time.
        if self._loop is not None or self._reader.thread is threading.current_thread():
            self._is_closed = True
        if self._loop is not None:
            self._loop.abandon()
        self._reader.close(max(0.0, timeout_s))
        self._is_closed = True

    def take(self, run_id: str | None, payload: dict[str, Any]) -> Reader | None:
        """Queue what a signal brings; the reader that is to serve it on this thread, if any."""
        is_of_group = "group_event" in payload
        if self._run_id is not None and not is_of_group and run_id not in (None, self._run_id):
            return None
        reader = self._reader
        if "event" in payload:
            # With a position every event counts, or the others would be taken for a gap.
            if not self._has_position and not self._receivers.wants(payload["event"]):
                return None
            reader.queue_event(payload["event"])
        elif "progress" in payload:
            reader.queue_step(payload["progress"])
        elif is_of_group:
            reader.queue(payload["group_event"])
        elif "queue_event" in payload:
            reader.queue(payload["queue_event"])
        else:
            reader.queue(str(payload["message"]))
        return reader if reader.is_inline else None

    def __repr__(self) -> str:
        ended = "" if self.error is None else f", ended: {self.error}"
        counts = f"{self.waiting} waiting, {self.faults} faults, {self.dropped} steps dropped"
        return f"<subscription of {self.subscriber_name}: {counts}{ended}>"

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _receive(self, run_id: str | None, **payload: Any) -> None:
        """Receive a signal that is not sent by a Dispatcher."""
        reader = self.take(run_id, payload)
        if reader is not None:
            reader.serve()

    def _disconnect(self) -> None:
        for signal in self._receivers.wanted_signals():
            signal.disconnect(self._receive)

    def _end(self) -> None:
        """Note that nothing more is delivered: after ``close``, or an error of log or loop."""
        self.error = self.error or self._reader.error
        self._disconnect()

    def _deliver(self, items: Iterable[Item]) -> None:
        """Call the receivers with what they want of these, until the subscription ends."""
        for item in items:
            if self._is_closed or self.error is not None:
                return
            receiver, source = self._receivers.of(item)
            if receiver is None:
                continue
            try:
                receiver(item)
            except BaseException as error:
                if signals.is_for_the_program(error):
                    raise
                self._note_fault(source, error)
            else:
                self._streak = 0

    def _note_fault(self, source: str, error: BaseException) -> None:
        self.faults += 1
        self._streak += 1
        what = f"raised {type(error).__name__}"
        signals.note_fault(self.subscriber_name, source, what, streak=self._streak, error=error)
        if self._streak >= signals.MUTED_AFTER:
            self.error = SubscriberMutedError(self.subscriber_name)
            self.close(timeout_s=0.0)

    def _deliver_in_loop(self, items: Iterable[Item]) -> None:
        assert self._loop is not None
        rest = iter(items)
        while some := deque(islice(rest, _AT_ONCE)):
            while some and not self._is_closed and self.error is None:
                self._loop.run(partial(self._deliver_for_a_moment, some))

    def _deliver_for_a_moment(self, items: deque[Item]) -> None:
        """Deliver the first of these, and more while the loop is hardly delayed."""
        until = time.monotonic() + _LOOP_S
        while items and time.monotonic() <= until:
            self._deliver((items.popleft(),))


class LoopBridge:
    """Makes calls in another thread's loop, one after the other: at most one waits there."""

    def __init__(self, call_soon: CallSoon) -> None:
        self._call_soon = call_soon
        # A SimpleQueue, because a finalizer may call `abandon` at any moment.
        self._done: SimpleQueue[None] = SimpleQueue()
        self._is_abandoned = False

    def run(self, call: Callable[[], None]) -> None:
        """Hand a call over and wait until it has been made, or is not to be made any more.

        Raises whatever a loop raises that has ended, also when it ends meanwhile.
        """
        done = self._done = SimpleQueue()

        def in_loop() -> None:
            try:
                if not self._is_abandoned:
                    call()
            finally:
                done.put(None)

        if self._is_abandoned:
            return
        self._call_soon(in_loop)
        is_done = False
        while not is_done:
            try:
                is_done = done.get(timeout=_STILL_THERE_S) is None
            except Empty:
                # A loop that has ended refuses this call, and the first one is never made.
                self._call_soon(lambda: None)

    def abandon(self) -> None:
        """Make no call any more, not even one that waits in the loop already."""
        self._is_abandoned = True
        self._done.put(None)


def subscribe(
    receiver: Callable[[StageEvent], object],
    *types: type[StageEvent],
    run_id: str | None = None,
    folder: Path | str | None = None,
    transitions: Iterable[str] = (),
    from_seq: int | None = None,
    on: Where = "worker",
    on_step: Callable[[StepProgress], object] | None = None,
    on_config_error: Callable[[str], object] | None = None,
    on_group: Callable[[GroupEvent], object] | None = None,
    on_queue: Callable[[SharedEvent], object] | None = None,
    capacity: int = CAPACITY,
) -> Subscription:
    """Give ``receiver`` events as they are appended, each once and in the order of the log.

    Which: all, or those of ``types`` and those of ``transitions`` of the lifecycle, named by
    trigger (``finish``) or by the state entered (``RunState.COMPLETED``); of every run of this
    process, or of the one with ``run_id``, or of the one in the run folder ``folder``, whichever
    process runs it. From when on: from now on, or first everything from number ``from_seq`` on
    out of the run's log (``folder`` says where that is, unless the run is one of this process),
    and then live, without a gap or a double. With a log that other processes write that continues
    for as long as it grows.

    Where, ``on``: on a ``worker`` thread of the subscription's own (the default); on the
    ``publisher``'s thread, for receivers that are quick, which the run waits for within bounds
    (of a run of another process nothing is published here: only history is told then); or in a
    loop, by a function that is given a call and makes it there, from any thread (asyncio's
    ``call_soon_threadsafe``). On a worker and in a loop at most ``capacity`` things wait in
    memory: events beyond are left in the log and read back from it.

    ``on_step`` is told sampling steps, with ``folder`` also those of a run of another process:
    all of them on the publisher's thread, else the newest, ten a second at most; those that it
    misses are counted. ``on_config_error`` is told the words of a configuration with which
    nothing was started. ``on_group`` is given the events of groups that this process runs, also
    where ``run_id`` names one run of them, and ``on_queue`` those of queues, as the signal
    ``queue_changed``. All are called one at a time.

    Keep the returned handle to end it; the receivers are held strongly until then. What they
    raise is counted and logged, and after ten times in a row the subscription ends.

    Raises ValueError and TypeError for arguments that make no sense, RunNotFoundError for a run
    whose log is not known or not there, and LogCorruptError.
    """
    _check(receiver, on, capacity)
    receivers = Receivers(
        receiver, types, transitions, on_step, on_config_error, on_group, on_queue
    )
    path = None if folder is None else log_path(folder)
    if path is not None:
        run_id = next(iterate(path)).run_id
    tail = None
    if from_seq is not None and from_seq < 0:
        raise ValueError(f"from_seq = {from_seq} is not a sequence number")
    if path is not None or from_seq is not None:
        tail = LogTail(path or _known_log(run_id), from_seq=from_seq or 0)
        if from_seq is None:
            tail.skip_to_end()
    return Subscription(receivers, on, run_id, tail, capacity)


def _check(receiver: object, on: object, capacity: int) -> None:
    if not callable(receiver):
        raise TypeError(f"receiver = {receiver!r} cannot be called")
    if not callable(on) and on not in ("worker", "publisher"):
        raise ValueError(f"on = {on!r} is neither 'worker' nor 'publisher', nor a function")
    if capacity < 1:
        raise ValueError(f"capacity = {capacity} leaves no room")


def _known_log(run_id: str | None) -> Path:
    """The log of a run of this process, also of one that has ended. Raises RunNotFoundError."""
    if run_id is None:
        raise ValueError("from_seq belongs to one run: name its folder, or its run_id")
    path = path_of_run(run_id)
    if path is None:
        raise RunNotFoundError(
            f"run {run_id} is not of this process, so its log is not known: name its folder"
        )
    return path
