"""Calls the receivers of a run's signals without letting any of them hold up the run."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

from blinker import NamedSignal

from .. import signals
from ..model import StageEvent, StepProgress
from ..signals import Receiver, event_appended, step_progress
from .reader import Item, Reader
from .subscription import Subscription

_logger = logging.getLogger("stagewright.signals")

PATIENCE_S = 1.0
"""How long a run waits for one receiver before it continues without it, over all its calls."""
SHARE_OF_TIME = 0.01
"""How much longer it does so for each second that the run has lasted."""
_SHORTEST_WAIT_S = 0.01


class Dispatcher:
    """Has the receivers of one run's signals called in order, on a thread of its own.

    ``flush`` waits until they have been called, so a receiver that returns promptly is called as
    if the run had called it itself. The run waits for one receiver for a second and a hundredth
    of the time that the run has lasted, over all its calls. A receiver that takes longer keeps
    the thread that it blocks, as a reader of the log from that event on, and another thread
    calls the others. Subscriptions with threads of their own only queue what is published, at
    once. Where no thread can be started, ``flush`` calls the receivers itself.

    Lock order: the run's journal, then ``_changed``, then the locks of a Reader. No receiver is
    called while ``_changed`` is held.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._began = time.monotonic()
        self._ready: deque[Reader] = deque()
        """Readers with something to deliver, once for each thing."""
        self._current: Reader | None = None
        self._since = 0.0
        self._made = 0
        """How many calls have been made, or are not waited for any more."""
        self._costs_s: WeakKeyDictionary[Reader, float] = WeakKeyDictionary()
        self._reader_of: signals.ByReceiver[Reader] = signals.ByReceiver()
        self._readers: list[Reader] = []
        """All of them, also those whose receivers are gone: their threads must be ended."""
        self._thread: threading.Thread | None = None
        """What calls the receivers now; None while no thread could be started for it."""
        self._calling_here = threading.Lock()
        self._has_warned = False
        self._is_closed = False

    def publish(self, signal: NamedSignal, sender: str, **payload: Any) -> None:
        """Queue the calls of all receivers; never blocks. Once closed, nothing is called."""
        if self._is_closed:
            return
        ready = []
        for receiver in signals.receivers_of(signal, sender):
            owner = signals.owner_of(receiver)
            if isinstance(owner, Subscription):
                reader = owner.take(sender, payload)
            else:
                reader = self._queue_call(signal, receiver, sender, payload)
            if reader is not None:
                ready.append(reader)
        if ready:
            with self._changed:
                self._ready.extend(ready)
                if self._thread is None:
                    self._start_thread()
                self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all receivers have been called, leaving behind those that take too long.

        Returns at once while another caller makes the calls, because no thread could be started.
        """
        if self._thread is threading.current_thread():
            return
        with self._changed:
            while self._thread is not None and (first := self._current or self._next):
                is_past = partial(self._is_past, self._made)
                in_time = self._changed.wait_for(is_past, self._patience_s(first))
                if not in_time and first is self._current:
                    self._leave_behind(first)
        self._call_here()

    def close(self) -> None:
        """Call what is queued and end the threads; late receivers get one second more."""
        self.flush()
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        until = time.monotonic() + PATIENCE_S
        for reader in self._readers:
            reader.close(max(0.0, until - time.monotonic()))

    def _queue_call(
        self, signal: NamedSignal, receiver: Receiver, sender: str, payload: dict[str, Any]
    ) -> Reader | None:
        """Queue a call of a receiver that is connected to a signal itself."""
        with self._changed:
            reader = self._reader_of.get(receiver)
            if reader is None:
                calls = _Calls(receiver, sender)
                reader = Reader(signals.name_of(receiver), calls.make, is_inline=True)
                self._reader_of.set(receiver, reader)
                self._readers.append(reader)
        if signal is event_appended:
            reader.queue_event(payload["event"])
        elif signal is step_progress:
            reader.queue_step(payload["progress"])
        else:  # the moves of a run's lifecycle, of which there are few
            reader.queue((signal, payload))
        return reader if reader.is_inline else None

    @property
    def _next(self) -> Reader | None:
        return self._ready[0] if self._ready else None

    def _is_past(self, made: int) -> bool:
        return self._made > made

    def _patience_s(self, reader: Reader) -> float:
        """How much longer the run waits for the receiver that is called, or is next."""
        now = time.monotonic()
        limit = PATIENCE_S + SHARE_OF_TIME * (now - self._began)
        left = limit - self._costs_s.get(reader, 0.0)
        if reader is self._current:
            return max(left - (now - self._since), 0.0)
        # Until its call has begun it cannot be at fault.
        return max(left, _SHORTEST_WAIT_S)

    def _leave_behind(self, reader: Reader) -> None:
        """Leave the thread to the receiver that blocks it, and have another call the others."""
        signals.note_fault(reader.name, "a run", "blocked and was left behind")
        assert self._thread is not None
        reader.leave_to(self._thread)
        self._ready = deque(one for one in self._ready if one is not reader)
        self._current = None
        self._made += 1
        self._start_thread()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name="stagewright-dispatcher", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._thread = None
            if not self._has_warned:
                _logger.warning("receivers are called on the run's own thread: %s", error)
                self._has_warned = True
        else:
            self._thread = thread

    def _work(self) -> None:
        while (reader := self._begin_call()) is not None:
            reader.serve()
            if not self._end_call(reader):
                break
            del reader  # While it waits for the next one, this thread holds no receiver.
        if reader is not None and reader.thread is threading.current_thread():
            reader.run()

    def _call_here(self) -> None:
        """Make the calls on this thread, where no other could be started."""
        while self._ready and self._thread is None and self._calling_here.acquire(blocking=False):
            try:
                while self._ready and (reader := self._begin_call()) is not None:
                    reader.serve()
                    self._end_call(reader)
            finally:
                self._current = None
                self._calling_here.release()

    def _begin_call(self) -> Reader | None:
        """The reader that is to deliver, once there is one; None after the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._is_closed)
            self._current = self._ready.popleft() if self._ready else None
            self._since = time.monotonic()
            return self._current

    def _end_call(self, reader: Reader) -> bool:
        """Note what a call has cost; whether the run has waited for its end."""
        with self._changed:
            if reader is not self._current:
                return False
            cost_s = time.monotonic() - self._since
            self._costs_s[reader] = self._costs_s.get(reader, 0.0) + cost_s
            self._current = None
            self._made += 1
            self._changed.notify_all()
            return True


class _Calls:
    """Calls one receiver, which is held weakly: a window may close in the middle of a run."""

    def __init__(self, receiver: Receiver, sender: str) -> None:
        self._receiver = signals.weakly(receiver)
        self._sender = sender

    def make(self, items: Iterable[Item]) -> None:
        """Call it with each of these."""
        for item in items:
            receiver = cast(Receiver | None, self._receiver())
            if receiver is None:
                return
            if isinstance(item, StageEvent):
                signals.call(event_appended, receiver, self._sender, {"event": item})
            elif isinstance(item, StepProgress):
                signals.call(step_progress, receiver, self._sender, {"progress": item})
            elif isinstance(item, tuple):
                signals.call(item[0], receiver, self._sender, item[1])
