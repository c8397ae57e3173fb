"""Folds the events of a run up to its last end.

An *end* is a transition into COMPLETED, ERROR or CANCELLED that was written by the process that
executed the run; a failure recorded later for a process that died is not an end. A record is
made of the events up to the last end. Later events (a seal, an unfinished resume) do not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ....events.folds import Fold
from ....events.model import LifecycleChanged, RunOpened, RunSealed, RunState, StageEvent
from .work_tally import WorkTally

PROCESS_DIED_KIND = "ProcessDied"
"""The kind of the failure that a resume records for a process that died."""
_ENDS = frozenset([RunState.COMPLETED, RunState.ERROR, RunState.CANCELLED])


def is_end(event: StageEvent) -> bool:
    """Whether ``event`` is an end, written by the process that executed the run."""
    return (
        isinstance(event, LifecycleChanged)
        and event.dest in _ENDS
        and (event.error is None or event.error.kind != PROCESS_DIED_KIND)
    )


class RunSummary:
    """The fold of all events except seals.

    ``end`` is the last end; ``is_past_end`` says that other events follow it.
    """

    def __init__(self) -> None:
        self.fold = Fold()
        self.work = WorkTally()
        self.end: StageEvent | None = None
        self.is_past_end = False

    def take(self, events: Iterable[StageEvent]) -> None:
        """Add more events, in order."""
        for event in events:
            if isinstance(event, RunSealed):
                continue  # it repeats the end of its epoch
            self.fold.apply(event)
            self.work.take(event)
            self.is_past_end = True
            if is_end(event):
                self.end, self.is_past_end = event, False

    @property
    def opened(self) -> RunOpened:
        """The first event."""
        assert self.fold.opened is not None
        return self.fold.opened

    @property
    def is_opted_out(self) -> bool:
        """Whether the configuration has ``[run] learning = false``."""
        table = self.opened.config.get("run")
        return isinstance(table, Mapping) and table.get("learning") is False
