"""Signals: how facts reach those who listen. Sender is always the run id.

``event_appended`` (``event``: any StageEvent) follows every record that reached the log;
``lifecycle_changed`` (``event``: LifecycleChanged) follows a state that has become visible;
``step_progress`` (``progress``: a StepProgress) is live only and no fact; ``config_error``
(``message``, ``error``; sender None, for there is no run) tells of a configuration that never
started. Nothing is sent while a log is replayed.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from blinker import NamedSignal, Namespace

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
_dropped: Counter[str] = Counter()
_drop_counts: set[Callable[[], tuple[str, int]]] = set()
_streaks: WeakKeyDictionary[Any, Counter[str]] = WeakKeyDictionary()
_lock = threading.RLock()
"""Whoever holds it may be interrupted by a finalizer that closes a subscription."""


def faults() -> dict[str, int]:
    """How often each receiver has raised or blocked, by its qualified name."""
    with _lock:
        return dict(_faults)


def dropped() -> dict[str, int]:
    """How many sampling steps were not told to each subscriber that was behind, by its name."""
    with _lock:
        counts = _dropped.copy()
        for tell in tuple(_drop_counts):
            name, count = tell()
            counts[name] += count
    return {name: count for name, count in counts.items() if count}


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
    name = name_of_receiver(receiver)
    if streak[name] >= MUTED_AFTER:
        return
    try:
        receiver(sender, **payload)
    except BaseException as error:
        if is_for_the_program(error):
            raise
        streak[name] += 1
        note_fault(name, signal.name, f"raised {type(error).__name__}", streak[name], error)
    else:
        streak.pop(name, None)


def is_for_the_program(error: BaseException) -> bool:
    """Whether what a receiver raised is to end the program: it is no fault then.

    On other threads than the main one nothing can end it, and nothing may end a run's own.
    """
    ends = isinstance(error, KeyboardInterrupt | SystemExit)
    return ends and threading.current_thread() is threading.main_thread()


def note_blocked(receiver: Receiver, signal: NamedSignal) -> None:
    """Count and log a receiver that did not return in time."""
    note_fault(name_of_receiver(receiver), signal.name, "blocked and was left behind", 0, None)


def deliver_at_once(
    signal: NamedSignal, receiver: Receiver, sender: str | None, payload: dict[str, Any]
) -> None:
    """Call one receiver that only takes a note: it raises nothing of its subscriber's."""
    try:
        receiver(sender, **payload)
    except Exception as error:  # noqa: BLE001 - counted and logged, as of any receiver
        note_fault(
            name_of_receiver(receiver), signal.name, f"raised {type(error).__name__}", 0, error
        )


def returns_at_once(receiver: Receiver) -> bool:
    """Whether a receiver only takes a note, and leaves the work to a thread of its own."""
    return getattr(getattr(receiver, "__self__", None), "returns_at_once", False) is True


def note_dropped(name: str) -> None:
    """Count a sampling step that a subscriber was not told of."""
    with _lock:
        _dropped[name] += 1


def count_drops(tell: Callable[[], tuple[str, int]]) -> None:
    """Have a subscriber's own count of steps that it was not told of, with its name, shown."""
    with _lock:
        _drop_counts.add(tell)


def settle_drops(tell: Callable[[], tuple[str, int]]) -> None:
    """Keep the last count of a subscriber that has left."""
    with _lock:
        if tell in _drop_counts:
            _drop_counts.remove(tell)
            name, count = tell()
            _dropped[name] += count


def name_of(receiver: object) -> str:
    """What a receiver is called in diagnostics: its qualified name."""
    return getattr(receiver, "__qualname__", None) or type(receiver).__qualname__


def _streak(receiver: object) -> Counter[str]:
    """Faults in a row, kept with the receiver's owner and forgotten with it."""
    owner = getattr(receiver, "__self__", receiver)
    try:
        return _streaks.setdefault(owner, Counter())
    except TypeError:  # it cannot be referenced weakly, so it is never muted
        return Counter()


def name_of_receiver(receiver: object) -> str:
    """What the subscriber behind a receiver is called in diagnostics."""
    owner = getattr(receiver, "__self__", None)
    named = getattr(owner, "subscriber_name", None)
    return named if isinstance(named, str) else name_of(receiver)


def note_fault(name: str, source: str, what: str, streak: int, error: BaseException | None) -> None:
    """Count and log what a receiver of ``source`` did wrong, ``streak`` times in a row now."""
    with _lock:
        _faults[name] += 1
    muted = f"; it is muted after {streak} times in a row" if streak >= MUTED_AFTER else ""
    _logger.warning("subscriber %s of %s %s%s", name, source, what, muted, exc_info=error)
