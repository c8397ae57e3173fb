"""Calls the receivers of a run's signals without letting any of them hold up the run."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, cast

from blinker import NamedSignal

from .. import signals
from ..model import StageEvent
from ..progress import StepProgress
from ..signals import Receiver, event_appended, owner_of, receiver_key, step_progress
from .background import BackgroundReader, Item
from .subscription import PublisherSubscription

_logger = logging.getLogger("stagewright.signals")

PATIENCE_S = 1.0
"""How long a run waits for one receiver before it goes on without it, over all its calls."""
SHARE_OF_TIME = 0.01
"""How much longer it does so for each second that the run has lasted."""
_SHORTEST_WAIT_S = 0.01


class _Delivery(NamedTuple):
    signal: NamedSignal
    receiver: Receiver
    sender: str
    payload: dict[str, Any]


class _Account:
    """One receiver: what it has cost the run, and its reader once it has taken too long."""

    def __init__(self, owner: object) -> None:
        self.owner = signals.weakly(owner)
        self.cost_s = 0.0
        self.late: BackgroundReader | None = None


class Dispatcher:
    """Calls the receivers of one run's signals in order, on a thread of its own.

    ``flush`` waits until they have been called, so a receiver that returns promptly is called as
    if the run had called it itself. The run waits for one receiver for a second and a hundredth
    of the time that the run has lasted, over all its calls. A receiver that takes longer keeps
    the thread that it blocks, as a reader of the log from that event on, and another thread
    calls the others. Subscriptions with threads of their own only queue what they are told, at
    once. Where no thread can be started, ``flush`` calls the receivers itself.

    Lock order: the run's journal, then ``_changed``, then the lock of a BackgroundReader. No
    receiver is called while ``_changed`` is held.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._began = time.monotonic()
        self._queue: deque[_Delivery] = deque()
        self._current: _Delivery | None = None
        self._since = 0.0
        self._accounts: dict[tuple[int, int], _Account] = {}
        self._late: list[BackgroundReader] = []
        self._thread: threading.Thread | None = None
        """What calls the receivers now; None while no thread could be started for it."""
        self._is_borrowed = False
        """Whether that is a thread that waits in ``flush``."""
        self._has_warned = False
        self._is_closed = False

    def publish(self, signal: NamedSignal, sender: str, **payload: Any) -> None:
        """Queue the calls of all receivers; never blocks. Once closed, nothing is called."""
        if self._is_closed:
            return
        deliveries: list[_Delivery] = []
        for receiver in signals.receivers_of(signal, sender):
            owner = owner_of(receiver)
            if isinstance(owner, BackgroundReader):
                receiver(sender, **payload)
            elif not isinstance(owner, PublisherSubscription) or owner.heeds(sender, payload):
                deliveries.append(_Delivery(signal, receiver, sender, payload))
        if deliveries:
            with self._changed:
                for delivery in deliveries:
                    self._put(delivery)

    def flush(self) -> None:
        """Wait until all receivers have been called, leaving behind those that take too long.

        Returns at once while another caller makes the calls, because no thread could be started.
        """
        if self._thread is threading.current_thread():
            return
        with self._changed:
            while (first := self._first) is not None and not self._is_borrowed:
                if self._thread is None:
                    self._work_here()
                elif self._changed.wait_for(partial(self._is_past, first), self._patience(first)):
                    continue
                elif first is self._current:
                    self._leave_behind(first)

    def close(self) -> None:
        """Call what is queued and end the threads; late receivers get one second more."""
        self.flush()
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        until = time.monotonic() + PATIENCE_S
        for late in self._late:
            late.close(max(0.0, until - time.monotonic()))

    @property
    def _first(self) -> _Delivery | None:
        """The call that is being made, or will be next."""
        return self._current or (self._queue[0] if self._queue else None)

    def _is_past(self, delivery: _Delivery) -> bool:
        return self._first is not delivery

    def _patience(self, delivery: _Delivery) -> float:
        """How many seconds more the run waits for the receiver that is called, or is next."""
        now = time.monotonic()
        limit = PATIENCE_S + SHARE_OF_TIME * (now - self._began)
        spent = self._account_of(delivery.receiver).cost_s
        if delivery is self._current:
            return max(limit - spent - (now - self._since), 0.0)
        # Until its call has begun there is nothing that it could be blamed for.
        return max(limit - spent, _SHORTEST_WAIT_S)

    def _put(self, delivery: _Delivery) -> None:
        """Queue a call for this thread, or give what it tells to the receiver's own reader."""
        signal, receiver, sender, payload = delivery
        late = self._account_of(receiver).late
        if late is None:
            self._queue.append(delivery)
            if self._thread is None:
                self._start_thread()
            self._changed.notify_all()
        elif signal is event_appended:
            late.take_event(sender, **payload)
        elif signal is step_progress:
            late.take_step(sender, **payload)
        else:  # the moves of a run's lifecycle, of which there are few
            late.take(partial(signals.call, *delivery))

    def _leave_behind(self, delivery: _Delivery) -> None:
        """Leave the thread to the receiver that blocks it, and have another call the others."""
        receiver = delivery.receiver
        name = signals.name_of(receiver)
        signals.note_fault(name, delivery.signal.name, "blocked and was left behind", 0, None)
        late = BackgroundReader(_late_calls(receiver, delivery.sender), name, thread=self._thread)
        self._account_of(receiver).late = late
        self._late.append(late)
        waiting, self._queue = self._queue, deque()
        self._current = None
        self._start_thread()
        for one in waiting:
            self._put(one)

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name="stagewright-announcer", daemon=True)
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
        while (delivery := self._next()) is not None:
            signals.call(*delivery)
            if (late := self._end_call(delivery)) is not None:
                del delivery
                late.run()
                return
            del delivery  # While it waits for the next one, this thread holds no receiver.

    def _work_here(self) -> None:
        """Make the waiting calls on this thread; ``_changed`` is held before and after."""
        self._thread, self._is_borrowed = threading.current_thread(), True
        self._changed.release()
        try:
            while self._queue and (delivery := self._next()) is not None:
                signals.call(*delivery)
                self._end_call(delivery)
        finally:
            self._changed.acquire()
            self._thread, self._is_borrowed, self._current = None, False, None

    def _next(self) -> _Delivery | None:
        """The next call to make, once there is one; None after the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._is_closed)
            if not self._queue:
                return None
            self._current = self._queue.popleft()
            self._since = time.monotonic()
            return self._current

    def _end_call(self, delivery: _Delivery) -> BackgroundReader | None:
        """Note what a call has cost; the receiver's reader if it came too late."""
        with self._changed:
            account = self._account_of(delivery.receiver)
            if account.late is None:
                account.cost_s += time.monotonic() - self._since
                self._current = None
                self._changed.notify_all()
            return account.late

    def _account_of(self, receiver: Receiver) -> _Account:
        key, owner = receiver_key(receiver), owner_of(receiver)
        account = self._accounts.get(key)
        # Owners are held weakly, so that a window may go during a run; ids are used again.
        if account is None or account.owner() is not owner:
            account = self._accounts[key] = _Account(owner)
        return account


def _late_calls(receiver: Receiver, sender: str) -> Callable[[Iterable[Item]], None]:
    """How a late receiver is called, without holding it."""
    is_method = hasattr(receiver, "__func__")
    reference = weakref.WeakMethod(receiver) if is_method else signals.weakly(receiver)

    def hand_over(things: Iterable[Item]) -> None:
        for thing in things:
            late = cast(Receiver | None, reference())
            if late is None:
                return
            if isinstance(thing, StageEvent):
                signals.call(event_appended, late, sender, {"event": thing})
            elif isinstance(thing, StepProgress):
                signals.call(step_progress, late, sender, {"progress": thing})
            elif callable(thing):
                thing()

    return hand_over
