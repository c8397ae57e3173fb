"""The earlier events of runs that a status bar was not given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ....events.errors import StagewrightError
from ....events.log.reader import iterate
from ....events.model import StageEvent

History = Callable[[str], Iterable[StageEvent]]
"""The events of a run by its id, from the first one on; none where they are not known."""


def no_history(_run_id: str) -> Iterable[StageEvent]:
    """A ``History`` that knows no run."""
    return ()


def history_in(runs: Path) -> History:
    """A function that reads the events of a run from its log below ``runs``."""

    def history(run_id: str) -> Iterator[StageEvent]:
        try:
            yield from iterate(runs / run_id)
        except (StagewrightError, OSError):
            # A status shows what is known; a resume and `verify` report the error.
            return

    return history
