"""The earlier events of runs and groups that a status bar was not given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ....events.errors import StagewrightError
from ....events.groups.log import read_group_log
from ....events.groups.model import GroupEvent
from ....events.log.reader import iterate
from ....events.model import StageEvent
from ....statemachine.files.run_folder import is_run_id
from ....statemachine.groups.folder import group_folder

History = Callable[[str], Iterable[StageEvent]]
"""The events of a run by its id, from the first one on; none where they are not known."""
GroupHistory = Callable[[str], Iterable[GroupEvent]]
"""The events of a group by its id, from the first one on; none where they are not known."""


def history_in(runs: Path) -> History:
    """A function that reads the events of a run from its log below ``runs``."""

    def history(run_id: str) -> Iterator[StageEvent]:
        if not is_run_id(run_id):  # a foreign log may name a folder elsewhere
            return
        try:
            yield from iterate(runs / run_id)
        except (StagewrightError, OSError):
            # A status shows what is known; a resume and `verify` report the error.
            return

    return history


def group_history_in(runs: Path) -> GroupHistory:
    """A function that reads the events of a group from its log below ``runs``."""

    def history(group_id: str) -> list[GroupEvent]:
        events: list[GroupEvent] = []
        # As above: what was read before the error is shown.
        with suppress(StagewrightError, OSError):
            if (folder := group_folder(runs, group_id)) is not None:
                read_group_log(folder, events.extend)
        return events

    return history
