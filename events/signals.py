"""Signals: how facts reach their receivers. Sender is always the run id.

``event_appended`` (``event``: any StageEvent) follows every record that reached the log;
``lifecycle_changed`` (``event``: LifecycleChanged) follows a state that has become visible;
``step_progress`` (``progress``: a StepProgress) is live only and no fact; ``config_error``
(``message``, ``error``; sender None, for there is no run) tells of a configuration that never
started. Nothing is sent while a log is replayed.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

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
_streaks: dict[tuple[int, int], tuple[Callable[[], object], int]] = {}
"""Faults in a row of each receiver that failed last, with a reference to its owner."""
# Reentrant: a finalizer that closes a subscription may interrupt the thread that holds it.
_lock = threading.RLock()


def faults() -> dict[str, int]:
    """How often each receiver has raised or blocked, by its qualified name."""
    with _lock:
        return dict(_faults)


def dropped() -> dict[str, int]:
    """How many sampling steps each subscriber has missed because it was behind, by its name."""
    with _lock:
        return dict(_dropped)


def publish(signal: NamedSignal, sender: str | None, **payload: Any) -> None:
    """Call every receiver of ``signal`` on this thread, in no particular order.

    What one of them raises reaches neither the caller nor the other receivers.
    """
    for receiver in receivers_of(signal, sender):
        call(signal, receiver, sender, payload)


def receivers_of(signal: NamedSignal, sender: str | None) -> list[Receiver]:
    """A snapshot of the receivers to call."""
    return list(signal.receivers_for(sender)) if signal.receivers else []


def call(
    signal: NamedSignal, receiver: Receiver, sender: str | None, payload: dict[str, Any]
) -> None:
    """Call one receiver, unless it is muted; count and log what it raises."""
    key = receiver_key(receiver)
    if key in _streaks and _streak(key, receiver) >= MUTED_AFTER:
        return
    try:
        receiver(sender, **payload)
    except BaseException as error:
        if is_for_the_program(error):
            raise
        with _lock:
            streak = _streak(key, receiver) + 1
            _streaks[key] = (weakly(owner_of(receiver)), streak)
        note_fault(name_of(receiver), signal.name, f"raised {type(error).__name__}", streak, error)
    else:
        if key in _streaks:
            with _lock:
                _streaks.pop(key, None)


def is_for_the_program(error: BaseException) -> bool:
    """Whether what a receiver raised should end the program, so that it is no fault.

    Only the main thread can end it; on other threads every exception is a fault.
    """
    ends = isinstance(error, KeyboardInterrupt | SystemExit)
    return ends and threading.current_thread() is threading.main_thread()


def note_dropped(name: str, count: int) -> None:
    """Count sampling steps that a subscriber has missed."""
    if count:
        with _lock:
            _dropped[name] += count


def note_fault(name: str, source: str, what: str, streak: int, error: BaseException | None) -> None:
    """Count and log what a receiver of ``source`` did wrong, now ``streak`` times in a row."""
    with _lock:
        _faults[name] += 1
    muted = f"; it is muted after {streak} times in a row" if streak >= MUTED_AFTER else ""
    _logger.warning("subscriber %s of %s %s%s", name, source, what, muted, exc_info=error)


def note_lost(name: str, error: Exception) -> None:
    """Count and log that a subscription has ended, which is not its receiver's fault."""
    note_fault(name, "its subscription", f"lost: {error}", 0, None)


def name_of(receiver: object) -> str:
    """The subscriber's name in diagnostics: its own, or the qualified name of the receiver."""
    named = getattr(owner_of(receiver), "subscriber_name", None)
    if isinstance(named, str):
        return named
    return getattr(receiver, "__qualname__", None) or type(receiver).__qualname__


def owner_of(receiver: object) -> object:
    """The object of a bound method; any other receiver itself."""
    return getattr(receiver, "__self__", receiver)


def receiver_key(receiver: object) -> tuple[int, int]:
    """What tells receivers apart while they exist: identity, for equal objects may differ."""
    return id(owner_of(receiver)), id(getattr(receiver, "__func__", None))


def weakly(thing: object) -> Callable[[], object]:
    """A weak reference, or what always gives the thing where it cannot be referenced weakly."""
    try:
        return weakref.ref(thing)
    except TypeError:
        return lambda: thing


def _streak(key: tuple[int, int], receiver: Receiver) -> int:
    """Faults in a row; an entry of an earlier object at the same address does not count."""
    owner, streak = _streaks.get(key, (None, 0))
    return streak if owner is not None and owner() is owner_of(receiver) else 0
