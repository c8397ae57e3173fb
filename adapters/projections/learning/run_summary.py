"""What the events of a run come to, and where the run has ended.

A record is made of the events up to the run's last *end*: the last transition into COMPLETED,
ERROR or CANCELLED that the process which worked on the run wrote itself. A failure that a later
process recorded for one that had died is none, and what follows an end (its seal, a resume that
goes on or has died) changes nothing.
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
    """Whether the process that worked on a run says with ``event`` that the run has ended."""
    return (
        isinstance(event, LifecycleChanged)
        and event.dest in _ENDS
        and (event.error is None or event.error.kind != PROCESS_DIED_KIND)
    )


class RunSummary:
    """What events come to, up to the last of them but for seals.

    ``end`` is the last end among them; ``is_past_end`` says that more has happened since.
    """

    def __init__(self) -> None:
        self.fold = Fold()
        self.work = WorkTally()
        self.end: StageEvent | None = None
        self.is_past_end = False

    def take(self, events: Iterable[StageEvent]) -> None:
        """Take more events into account, in order."""
        for event in events:
            if isinstance(event, RunSealed):
                continue  # it says nothing that its epoch's end has not said
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
        """Whether the configuration says that the run is to leave no record."""
        table = self.opened.config.get("run")
        return isinstance(table, Mapping) and table.get("learning") is False
