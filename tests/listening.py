"""What tests of those who listen share: a small run's events, told as a run tells them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stagewright.events import StageEvent, Subscription, signals

from .support import memory_log

LOG = memory_log(2)
RUN = LOG.run_id
EVENTS = list(LOG.timeline())
OTHER = "20261120T225226.123456Z-other-000000"

Connect = Callable[[Callable[..., object]], None]
"""Connects a receiver to ``event_appended`` for one test."""


def tell(events: Sequence[StageEvent] | None = None, run_id: str = RUN) -> None:
    """Publish events as a run does."""
    for event in EVENTS if events is None else events:
        signals.publish(signals.event_appended, run_id, event=event)


class Faulty:
    """Raises while ``broken``; counts its calls."""

    def __init__(self) -> None:
        self.broken = True
        self.calls = 0

    def receive(self, _sender: str, **_payload: object) -> None:
        self.calls += 1
        if self.broken:
            raise ValueError("a subscriber's fault")

    def receive_well(self, _sender: str, **_payload: object) -> None:
        self.calls += 1000

    def take(self, _event: StageEvent) -> None:
        self.receive("")


def is_connected(subscription: Subscription) -> bool:
    """Whether events still reach a subscription; others of this process may listen as well."""
    receivers = list(signals.event_appended.receivers.values())
    return subscription in [getattr(receiver, "__self__", None) for receiver in receivers]
