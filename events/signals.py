"""Signals: how facts reach their receivers. Sender is always the run id.

``event_appended`` (``event``: any StageEvent) follows every record that reached the log;
``lifecycle_changed`` (``event``: LifecycleChanged) follows a state that has become visible;
``step_progress`` (``progress``: a StepProgress) is live only and no fact; ``group_changed``
(``group_event``: a GroupEvent; sender: the group's id) follows every record of a group's log;
``queue_changed`` (``queue_event``: an event of ``stagewright.events.queue.model``; sender None)
follows every record of the queue that this process appends, or finds when it reads on;
``config_error``
(``message``, ``error``, and ``errors``, a FieldError each; sender None, for there is no run)
reports a configuration that was not started. Nothing is sent while a log is replayed.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

from blinker import NamedSignal, Namespace

_namespace = Namespace()
event_appended: NamedSignal = _namespace.signal("event_appended")
lifecycle_changed: NamedSignal = _namespace.signal("lifecycle_changed")
step_progress: NamedSignal = _namespace.signal("step_progress")
group_changed: NamedSignal = _namespace.signal("group_changed")
queue_changed: NamedSignal = _namespace.signal("queue_changed")
config_error: NamedSignal = _namespace.signal("config_error")

MUTED_AFTER = 10
"""A receiver that raises so many times in a row is not called again."""

Receiver = Callable[..., Any]

_T = TypeVar("_T")


class ByReceiver(Generic[_T]):
    """A value for each receiver, by identity: equal objects may be different receivers.

    The receivers' owners are held weakly where that is possible. An id may be used again.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple[int, int], tuple[Callable[[], object], _T]] = {}

    def get(self, receiver: Receiver) -> _T | None:
        """Its value, if it has one."""
        entry = self._entries.get(_key(receiver))
        return entry[1] if entry and entry[0]() is owner_of(receiver) else None

    def set(self, receiver: Receiver, value: _T) -> None:
        """Give it a value."""
        self._entries[_key(receiver)] = (weakly(owner_of(receiver)), value)


_logger = logging.getLogger("stagewright.signals")
_faults: Counter[str] = Counter()
_dropped: Counter[str] = Counter()
_streaks: ByReceiver[int] = ByReceiver()
"""Faults in a row of each receiver whose last call failed."""
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
    if signal.receivers:
        for receiver in receivers_of(signal, sender):
            call(signal, receiver, sender, payload)


def receivers_of(signal: NamedSignal, sender: str | None) -> list[Receiver]:
    """A snapshot of the receivers to call."""
    return list(signal.receivers_for(sender))


def call(
    signal: NamedSignal, receiver: Receiver, sender: str | None, payload: dict[str, Any]
) -> None:
    """Call one receiver, unless it is muted; count and log what it raises."""
    streak = _streaks.get(receiver) or 0
    if streak >= MUTED_AFTER:
        return
    try:
        receiver(sender, **payload)
    except BaseException as error:
        if is_for_the_program(error):
            raise
        _streaks.set(receiver, streak + 1)
        what = f"raised {type(error).__name__}"
        note_fault(name_of(receiver), signal.name, what, streak=streak + 1, error=error)
    else:
        if streak:
            _streaks.set(receiver, 0)


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


def note_fault(
    name: str, source: str, what: str, *, streak: int = 0, error: BaseException | None = None
) -> None:
    """Count and log what a receiver of ``source`` did wrong, now ``streak`` times in a row."""
    with _lock:
        _faults[name] += 1
    muted = f"; it is muted after {streak} times in a row" if streak >= MUTED_AFTER else ""
    _logger.warning("subscriber %s of %s %s%s", name, source, what, muted, exc_info=error)


def name_of(receiver: object) -> str:
    """The subscriber's name in diagnostics: its own, or the qualified name of the receiver."""
    named = getattr(owner_of(receiver), "subscriber_name", None)
    if isinstance(named, str):
        return named
    return getattr(receiver, "__qualname__", None) or type(receiver).__qualname__


def owner_of(receiver: object) -> object:
    """The object of a bound method; any other receiver itself."""
    return getattr(receiver, "__self__", receiver)


def _key(receiver: object) -> tuple[int, int]:
    return id(owner_of(receiver)), id(getattr(receiver, "__func__", None))


def weakly(thing: object) -> Callable[[], object]:
    """A weak reference, or what always gives the thing where it cannot be referenced weakly."""
    is_method = hasattr(thing, "__func__")
    try:
        return weakref.WeakMethod(cast(Receiver, thing)) if is_method else weakref.ref(thing)
    except TypeError:
        return lambda: thing
