"""What tests of programs built on stagewright record events with."""

from __future__ import annotations

import threading
from types import TracebackType

from .model import StageEvent
from .signals import Subscription, subscribe


class EventRecorder:
    """Keeps every event appended while it is open, of one run or of all.

    ::

        with EventRecorder() as recorder:
            controller.start(config).wait()
        assert recorder.types()[0] == "RunOpened"
    """

    def __init__(self, run_id: str | None = None) -> None:
        self._run_id = run_id
        self._events: list[StageEvent] = []
        self._arrived = threading.Condition()
        self._subscription: Subscription | None = None

    def __enter__(self) -> EventRecorder:
        self._subscription = subscribe(self._keep, run_id=self._run_id, on_own_thread=False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._subscription is not None:
            self._subscription.close()

    @property
    def events(self) -> tuple[StageEvent, ...]:
        """What has been recorded so far, in the order of arrival."""
        with self._arrived:
            return tuple(self._events)

    def types(self) -> list[str]:
        """The names of the recorded events' types, in order."""
        return [type(event).__name__ for event in self.events]

    def of_type(self, kind: type[StageEvent]) -> list[StageEvent]:
        """The recorded events of one type, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    def wait_for(
        self, kind: type[StageEvent], *, count: int = 1, timeout_s: float = 10.0
    ) -> StageEvent:
        """The ``count``-th event of a type, once it is there. Raises TimeoutError."""

        def found() -> list[StageEvent]:
            return [event for event in self._events if isinstance(event, kind)]

        with self._arrived:
            if not self._arrived.wait_for(lambda: len(found()) >= count, timeout_s):
                raise TimeoutError(f"no {kind.__name__} number {count} within {timeout_s} s")
            return found()[count - 1]

    def _keep(self, event: StageEvent) -> None:
        with self._arrived:
            self._events.append(event)
            self._arrived.notify_all()
