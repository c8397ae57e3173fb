"""What tests of programs built on stagewright record events with."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from .. import signals
from ..model import StageEvent, StepProgress
from ..subscriptions.subscription import Subscription, subscribe
from .assertions import E, RecordedEvents


class EventRecorder(RecordedEvents):
    """Keeps what is announced while it is open, of one run or of all.

    ::

        with EventRecorder() as recorder:
            controller.start(config).wait()
        recorder.assert_stages("txt2img", "upscale")
        recorder.assert_lifecycle("IDLE", "RUNNING", "COMPLETED")

    It records on the publishing thread, so a run that has been waited for is there completely.
    Safe from any thread.
    """

    def __init__(self, run_id: str | None = None) -> None:
        super().__init__()
        self._run_id = run_id
        self._events: list[StageEvent] = []
        self._steps: list[StepProgress] = []
        self._config_errors: list[str] = []
        self._faults_before: Counter[str] = Counter()
        self._arrived = threading.Condition()
        self._subscription: Subscription | None = None

    def __enter__(self) -> EventRecorder:
        self._faults_before = Counter(signals.faults())
        self._subscription = subscribe(
            self._keep,
            run_id=self._run_id,
            on="publisher",
            on_step=self._steps.append,
            on_config_error=self._config_errors.append,
        )
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._subscription is not None:
            self._subscription.close()

    @property
    def events(self) -> tuple[StageEvent, ...]:
        """What has been recorded so far, in the order of arrival."""
        with self._arrived:
            return tuple(self._events)

    @property
    def steps(self) -> tuple[StepProgress, ...]:
        """The sampling steps that were told live, in order; they are no facts of the log."""
        return tuple(self._steps)

    @property
    def config_errors(self) -> tuple[str, ...]:
        """``Config Error: ...``, for each configuration that did not start."""
        return tuple(self._config_errors)

    def faults(self) -> dict[str, int]:
        """By its name, how often each subscriber has raised or blocked since the opening."""
        return dict(Counter(signals.faults()) - self._faults_before)

    def assert_no_faults(self) -> None:
        """No subscriber of this process has raised or blocked since the recorder was opened."""
        __tracebackhide__ = True
        if faults := self.faults():
            told = "\n".join(f"  {name}: {count}" for name, count in faults.items())
            raise AssertionError(f"subscribers raised or blocked:\n{told}")

    def wait_for(
        self,
        kind: type[E],
        *,
        count: int = 1,
        where: Callable[[E], bool] = lambda _event: True,
        timeout_s: float = 10.0,
    ) -> E:
        """The ``count``-th event of a type, of those that are as ``where`` says, once it is there.

        Raises TimeoutError, which says what has been recorded instead.
        """

        def found() -> list[E]:
            return [one for one in self._events if isinstance(one, kind) and where(one)]

        with self._arrived:
            if self._arrived.wait_for(lambda: len(found()) >= count, timeout_s):
                return found()[count - 1]
        raise TimeoutError(
            f"no {kind.__name__} number {count} within {timeout_s} s; recorded: {self._tally()}"
        )

    def _tally(self) -> str:
        counted = Counter(self.types())
        return ", ".join(f"{count} {name}" for name, count in counted.items()) or "nothing"

    def _keep(self, event: StageEvent) -> None:
        with self._arrived:
            self._events.append(event)
            self._arrived.notify_all()
