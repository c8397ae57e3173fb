"""Subscribing to events: which, from where on, and on whose thread they are handed over."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Literal

from . import signals
from .cursor import LogCursor
from .delivery import CallSoon, InLoop, Listener, Told, Wanted
from .errors import RunNotFoundError, StagewrightError, SubscriberMutedError
from .mailbox import CAPACITY, ConfigError, Item, LeftInLog, Mailbox
from .model import StageEvent
from .progress import StepProgress
from .reading import iterate, log_path
from .step_feed import StepShare, join_steps
from .written_logs import path_of_run

Where = Literal["worker", "publisher"] | CallSoon
_AT_ONCE = 256
"""So many things are taken from the mailbox, or handed to a loop, in one go."""
_LOOP_S = 0.02
"""How long a loop is kept from its other work in one go."""


class Subscription(ABC):
    """Hands events to one receiver until ``close``; also a context manager.

    ``dropped`` counts the sampling steps that it was not told of, ``waiting`` what waits for
    it. It ends by itself after ten faults in a row, and where the log cannot be read or the
    loop is gone: ``error`` says why then. Once ``close`` has returned the receiver is not
    called any more, but for a call that is under way.
    """

    returns_at_once = False

    def __init__(self, listener: Listener, wanted: Wanted, cursor: LogCursor | None) -> None:
        self._listener = listener
        self._wanted = wanted
        self._cursor = cursor
        self._is_closed = False
        self.error: Exception | None = None

    @property
    def subscriber_name(self) -> str:
        """What the receiver is called in diagnostics."""
        return self._listener.name

    @property
    def faults(self) -> int:
        """How often the receiver has raised."""
        return self._listener.faults

    @property
    @abstractmethod
    def dropped(self) -> int:
        """How many sampling steps it was not told of."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """How many things wait to be handed over."""

    @abstractmethod
    def close(self, timeout_s: float = 2.0) -> None:
        """End the subscription; wait this long for what is under way to be delivered.

        In a GUI's loop nothing is waited for: what has not been delivered is dropped.
        """

    def __repr__(self) -> str:
        ended = "" if self.error is None else f", ended: {self.error}"
        counts = f"{self.waiting} waiting, {self.faults} faults, {self.dropped} steps dropped"
        return f"<subscription of {self.subscriber_name}: {counts}{ended}>"

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _listen(self, run_id: str | None) -> None:
        signals.event_appended.connect(self._hear_event, weak=False, **_of(run_id))
        if self._listener.wants_steps:
            self._listen_to_steps(run_id)
        if self._listener.wants_config_errors:
            signals.config_error.connect(self._hear_config_error, weak=False)

    def _listen_no_more(self) -> None:
        signals.event_appended.disconnect(self._hear_event)
        signals.config_error.disconnect(self._hear_config_error)
        if self._listener.wants_steps:
            self._listen_to_no_steps()

    @abstractmethod
    def _listen_to_steps(self, run_id: str | None) -> None: ...

    @abstractmethod
    def _listen_to_no_steps(self) -> None: ...

    @abstractmethod
    def _hear_event(self, _sender: str | None, event: StageEvent) -> None: ...

    @abstractmethod
    def _hear_config_error(self, _sender: str | None, message: str, error: Exception) -> None: ...

    def _tell(self, things: Iterable[Told]) -> None:
        """Call the receiver with what it wants of these, as long as it is to be called."""
        for told in things:
            if self._is_over:
                return
            if not isinstance(told, StageEvent) or self._wanted.fits(told):
                self._listener.hear(told)
            if self._listener.is_muted:
                self._listen_no_more()
                self.error = self.error or SubscriberMutedError(self.subscriber_name)

    @property
    def _is_over(self) -> bool:
        return self._is_closed or self._listener.is_muted

    def _end(self, error: Exception) -> None:
        """End because of something that is not the receiver's fault."""
        self._listen_no_more()
        self.error = error
        signals.note_fault(self.subscriber_name, "its subscription", f"lost: {error}", 0, None)


class _OnPublisher(Subscription):
    """Calls the receiver on the thread that publishes; that waits for it, within bounds."""

    def __init__(
        self, listener: Listener, wanted: Wanted, cursor: LogCursor | None, run_id: str | None
    ) -> None:
        super().__init__(listener, wanted, cursor)
        self._lock = threading.RLock()
        with self._lock:
            self._listen(run_id)
            try:
                self._tell(() if cursor is None else cursor.catch_up())
            except BaseException:
                self.close()
                raise

    @property
    def dropped(self) -> int:
        return 0

    @property
    def waiting(self) -> int:
        return 0

    def close(self, timeout_s: float = 2.0) -> None:  # noqa: ARG002 - nothing is waited for
        self._is_closed = True
        self._listen_no_more()
        # Whoever reads the log this moment ends first.
        with self._lock:
            if self._cursor is not None:
                self._cursor.close()

    def _hear_event(self, _sender: str | None, event: StageEvent) -> None:
        with self._lock:
            if self._is_over:
                return
            try:
                self._tell((event,) if self._cursor is None else self._cursor.complete(event))
            except (StagewrightError, OSError) as error:
                self._end(error)

    def _listen_to_steps(self, run_id: str | None) -> None:
        signals.step_progress.connect(self._hear_step, weak=False, **_of(run_id))

    def _listen_to_no_steps(self) -> None:
        signals.step_progress.disconnect(self._hear_step)

    def _hear_step(self, _sender: str | None, progress: StepProgress) -> None:
        with self._lock:
            self._tell((progress,))

    def _hear_config_error(self, _sender: str | None, message: str, error: Exception) -> None:  # noqa: ARG002 - the signal's payload
        with self._lock:
            self._tell((ConfigError(message),))


class _OnWorker(Subscription):
    """Queues what it hears; a thread of its own calls the receiver, or has a loop call it."""

    returns_at_once = True

    def __init__(
        self,
        listener: Listener,
        wanted: Wanted,
        cursor: LogCursor | None,
        run_id: str | None,
        *,
        capacity: int,
        loop: InLoop | None = None,
    ) -> None:
        super().__init__(listener, wanted, cursor)
        self._mailbox = Mailbox(capacity)
        self._steps: StepShare | None = None
        self._refused_steps = 0
        self._loop = loop
        self._thread = threading.Thread(
            target=self._work, name="stagewright-subscription", daemon=True
        )
        self._listen(run_id)
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._refused_steps + (0 if self._steps is None else self._steps.skipped)

    @property
    def waiting(self) -> int:
        return len(self._mailbox)

    def close(self, timeout_s: float = 2.0) -> None:
        self._listen_no_more()
        is_from_within = self._thread is threading.current_thread()
        # From here on there is nobody to whom more could be told in time.
        self._is_closed = self._loop is not None or is_from_within
        self._mailbox.close(discard=self._is_closed)
        if self._loop is not None:
            self._loop.abandon()
        if not is_from_within:
            self._thread.join(timeout_s)
            self._is_closed = True
            self._mailbox.close(discard=True)

    def _hear_event(self, _sender: str | None, event: StageEvent) -> None:
        # A cursor is told of every event, or it would take the others for a gap.
        if self._cursor is not None or self._wanted.fits(event):
            self._mailbox.put(event)

    def _listen_to_steps(self, run_id: str | None) -> None:
        self._steps = join_steps(run_id, self._take_step)
        signals.count_drops(self._drops)

    def _listen_to_no_steps(self) -> None:
        if self._steps is not None:
            self._steps.leave()
        signals.settle_drops(self._drops)

    def _drops(self) -> tuple[str, int]:
        return self.subscriber_name, self.dropped

    def _take_step(self, progress: StepProgress) -> None:
        if not self._mailbox.put_step(progress):
            self._refused_steps += 1

    def _hear_config_error(self, _sender: str | None, message: str, error: Exception) -> None:  # noqa: ARG002 - the signal's payload
        self._mailbox.put_error(ConfigError(message))

    def _work(self) -> None:
        try:
            if self._cursor is not None:
                self._hand_over(self._cursor.catch_up())
            while not (self._mailbox.is_done or self._is_over):
                pause = None if self._cursor is None else self._cursor.pause_s
                items = self._mailbox.take(_AT_ONCE, pause)
                self._hand_over(chain.from_iterable(map(self._told, items)))
                if not items and self._cursor is not None:
                    self._hand_over(chain(self._cursor.catch_up(), self._step_of_others()))
        except Exception as error:  # noqa: BLE001 - a log or a loop that is gone; it is told
            self._end(error)
        finally:
            self._mailbox.close(discard=True)
            if self._cursor is not None:
                self._cursor.close()

    def _step_of_others(self) -> Iterable[StepProgress]:
        assert self._cursor is not None
        step = self._cursor.new_step() if self._listener.wants_steps else None
        return () if step is None else (step,)

    def _told(self, item: Item) -> Iterable[Told]:
        if self._cursor is None:
            return item.events() if isinstance(item, LeftInLog) else (item,)
        if isinstance(item, LeftInLog):
            return self._cursor.catch_up()
        return self._cursor.complete(item) if isinstance(item, StageEvent) else (item,)

    def _hand_over(self, things: Iterable[Told]) -> None:
        if self._loop is None:
            self._tell(things)
            return
        rest = iter(things)
        while some := deque(islice(rest, _AT_ONCE)):
            while some and not self._is_over:
                self._loop.run(partial(self._tell_for_a_moment, some))

    def _tell_for_a_moment(self, things: deque[Told]) -> None:
        """Tell the first of these, and more while that takes the loop no time to speak of."""
        until = time.monotonic() + _LOOP_S
        while things and not self._is_over:
            self._tell((things.popleft(),))
            if time.monotonic() > until:
                return


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
    capacity: int = CAPACITY,
) -> Subscription:
    """Give ``receiver`` events as they are appended, each once and in the order of the log.

    Which: all, or those of ``types`` and those of ``transitions`` of the lifecycle, named by
    trigger (``finish``) or by the state entered (``RunState.COMPLETED``); of every run of this
    process, or of the one with ``run_id``, or of the one in the run folder ``folder``, whichever
    process runs it. From when on: from now on, or first everything from number ``from_seq`` on
    out of the run's log (``folder`` says where that is, unless the run is one of this process),
    and then live, without a gap or a double. With a log that other processes write that goes on
    for as long as it grows.

    Where, ``on``: on a ``worker`` thread of the subscription's own (the default); on the
    ``publisher``'s thread, for receivers that are quick, which the run waits for within bounds
    (of a run of another process nothing is published here: only history is told then); or in a
    loop, by a function that is given a call and makes it there, from any thread (asyncio's
    ``call_soon_threadsafe``). On a worker and in a loop at most ``capacity`` things wait in
    memory: beyond, events are left in the log and read back from it, and sampling steps are
    dropped and counted.

    ``on_step`` is told sampling steps: all of them on the publisher's thread, else ten a second
    at most, and with ``folder`` also those of a run of another process. ``on_config_error`` is
    told the words of a configuration with which nothing was started. All are called one at a
    time.

    Keep the returned handle to end it; the receivers are held strongly until then. What they
    raise is counted and logged, and after ten times in a row the subscription ends.

    Raises ValueError and TypeError for arguments that make no sense, RunNotFoundError for a run
    whose log is not known or not there, and LogCorruptError.
    """
    _check(receiver, on, capacity)
    wanted = Wanted(types, transitions)
    listener = Listener(receiver, on_step, on_config_error)
    path = None if folder is None else log_path(folder)
    if path is not None:
        run_id = _run_of(path)
    cursor = None
    if path is not None or from_seq is not None:
        cursor = LogCursor(path or _known_log(run_id), from_seq)
    if on == "publisher":
        return _OnPublisher(listener, wanted, cursor, run_id)
    loop = InLoop(on) if callable(on) else None
    return _OnWorker(listener, wanted, cursor, run_id, capacity=capacity, loop=loop)


def _check(receiver: object, on: object, capacity: int) -> None:
    if not callable(receiver):
        raise TypeError(f"receiver = {receiver!r} cannot be called")
    if not callable(on) and on not in ("worker", "publisher"):
        raise ValueError(f"on = {on!r} is neither 'worker' nor 'publisher', nor a function")
    if capacity < 1:
        raise ValueError(f"capacity = {capacity} leaves no room")


def _of(run_id: str | None) -> dict[str, str]:
    """How to connect to the signals of a run, or of all."""
    return {} if run_id is None else {"sender": run_id}


def _run_of(log: Path) -> str:
    return next(iterate(log)).run_id


def _known_log(run_id: str | None) -> Path:
    """The log of a run of this process, also of one that has ended. Raises RunNotFoundError."""
    if run_id is None:
        raise ValueError("from_seq belongs to one run: name its folder, or its run_id")
    path = path_of_run(run_id)
    if path is None:
        raise RunNotFoundError(
            f"run {run_id} is none of this process, so its log is not known: name its folder"
        )
    return path
