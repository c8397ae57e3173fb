"""Signals: how facts reach those who listen. Sender is always the run id.

``event_appended`` (``event``: any StageEvent) follows every record that reached the log;
``lifecycle_changed`` (``event``: LifecycleChanged) follows a state that has become visible;
``step_progress`` (``progress``: a StepProgress of the state machine's ports) is live only and
no fact; ``config_error`` (``message``, ``error``; sender None, for there is no run) tells of a
configuration that never started. Nothing is sent while a log is replayed.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any
from weakref import WeakKeyDictionary

from blinker import NamedSignal, Namespace

from .model import StageEvent

_namespace = Namespace()
event_appended: NamedSignal = _namespace.signal("event_appended")
lifecycle_changed: NamedSignal = _namespace.signal("lifecycle_changed")
step_progress: NamedSignal = _namespace.signal("step_progress")
config_error: NamedSignal = _namespace.signal("config_error")

MUTED_AFTER = 10
"""A receiver that raises so many times in a row is not called again."""

Receiver = Callable[..., Any]

_logger = logging.getLogger("stagewright.signals")
_faults: Counter[str] = Counter()
_streaks: WeakKeyDictionary[Any, Counter[str]] = WeakKeyDictionary()
_lock = threading.Lock()


def faults() -> dict[str, int]:
    """How often each receiver has raised or blocked, by its qualified name."""
    with _lock:
        return dict(_faults)


def publish(signal: NamedSignal, sender: str | None, **payload: Any) -> None:
    """Call every receiver of ``signal``; what one of them raises touches nobody else.

    Receivers run on this thread, in no particular order. Costs nothing to speak of while
    nobody listens.
    """
    if not signal.receivers:
        return
    for receiver in receivers_of(signal, sender):
        deliver(signal, receiver, sender, payload)


def receivers_of(signal: NamedSignal, sender: str | None) -> list[Receiver]:
    """A snapshot of who is to be called."""
    return list(signal.receivers_for(sender)) if signal.receivers else []


def deliver(
    signal: NamedSignal, receiver: Receiver, sender: str | None, payload: dict[str, Any]
) -> None:
    """Call one receiver, unless it is muted; what it raises is counted and logged."""
    streak = _streak(receiver)
    name = _name(receiver)
    if streak[name] >= MUTED_AFTER:
        return
    try:
        receiver(sender, **payload)
    except Exception as error:  # noqa: BLE001 - a subscriber's fault, counted and logged
        streak[name] += 1
        _note_fault(name, signal, f"raised {type(error).__name__}", streak[name], error)
    else:
        streak.pop(name, None)


def note_blocked(receiver: Receiver, signal: NamedSignal) -> None:
    """Count and log a receiver that did not return in time."""
    _note_fault(_name(receiver), signal, "blocked and was left behind", 0, None)


def _streak(receiver: object) -> Counter[str]:
    """Faults in a row, kept with the receiver's owner and forgotten with it."""
    owner = getattr(receiver, "__self__", receiver)
    try:
        return _streaks.setdefault(owner, Counter())
    except TypeError:  # it cannot be referenced weakly, so it is never muted
        return Counter()


def _name(receiver: object) -> str:
    owner = getattr(receiver, "__self__", None)
    if isinstance(owner, Subscription):
        receiver = owner.receiver
    return getattr(receiver, "__qualname__", None) or type(receiver).__qualname__


def _note_fault(
    name: str, signal: NamedSignal, what: str, streak: int, error: Exception | None
) -> None:
    with _lock:
        _faults[name] += 1
    muted = f"; it is muted after {streak} times in a row" if streak >= MUTED_AFTER else ""
    _logger.warning("subscriber %s of %s %s%s", name, signal.name, what, muted, exc_info=error)


class Subscription:
    """Delivers signals to one receiver until ``close``; also a context manager."""

    def __init__(
        self,
        receiver: Callable[[StageEvent], object],
        *,
        run_id: str | None,
        types: tuple[type[StageEvent], ...],
        on_own_thread: bool,
    ) -> None:
        self.receiver = receiver
        self._types = types
        self._queue: SimpleQueue[StageEvent | None] | None = None
        self._thread: threading.Thread | None = None
        if on_own_thread:
            self._queue = SimpleQueue()
            self._thread = threading.Thread(
                target=self._deliver, name="stagewright-subscription", daemon=True
            )
            self._thread.start()
        if run_id is None:
            event_appended.connect(self._receive, weak=False)
        else:
            event_appended.connect(self._receive, sender=run_id, weak=False)

    def close(self, timeout_s: float = 2.0) -> None:
        """End the subscription; wait this long for what is under way to be delivered."""
        event_appended.disconnect(self._receive)
        if self._queue is not None and self._thread is not None:
            self._queue.put(None)
            if self._thread is not threading.current_thread():
                self._thread.join(timeout_s)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self, _sender: str | None, event: StageEvent) -> None:
        if self._types and not isinstance(event, self._types):
            return
        if self._queue is None:
            self.receiver(event)
        else:
            self._queue.put(event)

    def _deliver(self) -> None:
        assert self._queue is not None
        streak = 0
        while (event := self._queue.get()) is not None:
            try:
                self.receiver(event)
            except Exception as error:  # noqa: BLE001 - a subscriber's fault, counted and logged
                streak += 1
                what = f"raised {type(error).__name__}"
                _note_fault(_name(self.receiver), event_appended, what, streak, error)
                if streak >= MUTED_AFTER:
                    event_appended.disconnect(self._receive)
                    return
            else:
                streak = 0


def subscribe(
    receiver: Callable[[StageEvent], object],
    *types: type[StageEvent],
    run_id: str | None = None,
    on_own_thread: bool = True,
) -> Subscription:
    """Give ``receiver`` every event (or those of ``types``) as it is appended, in order.

    On its own thread by default, so that a receiver that blocks holds up nobody; with
    ``on_own_thread=False`` on the publishing thread, for receivers that only take a note.
    Keep the returned handle to end it; the receiver is held strongly until then.
    """
    return Subscription(receiver, run_id=run_id, types=types, on_own_thread=on_own_thread)
