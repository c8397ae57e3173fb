"""The model of a status bar, safe to use from several threads."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import msgspec

from ....events.groups.model import GroupEvent
from ....events.model import LifecycleChanged, RunOpened, RunState, StageEvent, StepProgress
from .estimate import RunProgress
from .group_fold import GroupStatusFold
from .history import GroupHistory, History
from .status import RunStatus, shown
from .status_fold import StatusFold


class StatusBar:
    """Folds the events of a run, and of its group, into the status that ``snapshot`` returns.

    Give it all events in order, as ``subscribe(..., from_seq=0)`` does; events of another run
    start it again, except late events of a run that its group has gone on from. Give it the
    group's events from the first one on, as ``read_group`` and ``subscribe(on_group=...)`` do. All
    methods are safe from any thread. ``expects_steps`` says that live steps will be given, so
    that a request without steps is shown as waiting; it can be set at any time, and the first
    step sets it. ``monotonic`` is a clock in seconds. ``history`` gives the events of
    runs of which this bar was given none, or not the first ones, such as ``history_in(runs)``;
    ``group_history`` those of groups, such as ``group_history_in(runs)``.
    """

    def __init__(
        self,
        *,
        expects_steps: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
        history: History = lambda _run_id: (),
        group_history: GroupHistory = lambda _group_id: (),
    ) -> None:
        self.expects_steps = expects_steps
        self._monotonic = monotonic
        self._history = history
        self._group_history = group_history
        self._lock = threading.Lock()
        self._run: StatusFold | None = None
        self._group: GroupStatusFold | None = None
        self._config_error = ""

    def take_event(self, event: StageEvent) -> None:
        """Add an event of the run."""
        if isinstance(event, RunOpened) and event.group_id is not None:
            self._load_group(event.group_id)
        with self._lock:
            run = self._run
            if run is None or isinstance(event, RunOpened) or event.run_id != run.run_id:
                if self._is_late(event):
                    return
                self._run = run = self._begin(event)
            if isinstance(event, RunOpened) and event.group_id is not None:
                self._fold_of(event.group_id).take_opened(event)
            run.take_event(event)
            if _takes_up(event) and self._group is not None:
                self._group.reopen(event.run_id)
            self._note(run)
            self._config_error = ""

    def take_group_event(self, event: GroupEvent) -> None:
        """Add an event of the group; those of another group start it again."""
        if event.seq:
            self._load_group(event.group_id, event.seq)
        with self._lock:
            group = self._fold_of(event.group_id)
            group.take_event(event)
            if self._run is not None and not group.has_run(self._run.run_id):
                self._run = None
            self._config_error = ""

    def is_in_group(self, run_id: str) -> bool:
        """Whether this is a run of the group whose events were given last."""
        with self._lock:
            return self._group is not None and self._group.has_run(run_id)

    def take_step(self, progress: StepProgress) -> None:
        """Add the sampling step that a request has reached."""
        with self._lock:
            if self._run is not None:
                self._run.take_step(progress)
                self._note(self._run)

    def take_config_error(self, message: str) -> None:
        """Set the reason why no run was started; it is shown until the next event."""
        with self._lock:
            self._config_error = shown(message)

    def snapshot(self) -> RunStatus:
        """The status of the run now."""
        with self._lock:
            run, group = self._run, self._group
            now = run.status(expects_steps=self.expects_steps) if run else RunStatus()
            fields = {"config_error": self._config_error}
            if group is not None and (run is None or group.has_run(run.run_id)):
                fields |= msgspec.structs.asdict(group.status(now))
            return msgspec.structs.replace(now, **fields)

    def _load_group(self, group_id: str, end: float = math.inf) -> None:
        """Begin a group whose first events this bar was not given with those before ``end``."""
        with self._lock:
            if self._group is not None and self._group.group_id == group_id:
                return
        # Without the lock, for a snapshot must not wait: the logs of 1,000 runs take a second.
        group = GroupStatusFold(group_id, self._recorded_progress)
        for earlier in self._group_history(group_id):
            if earlier.seq >= end:
                break
            group.take_event(earlier)
        with self._lock:
            self._group = group

    def _begin(self, event: StageEvent) -> StatusFold:
        """The fold of a run whose next event is this one."""
        fold = StatusFold(event, self._monotonic)
        if event.seq:
            for earlier in self._history(event.run_id):
                if earlier.seq >= event.seq:
                    break
                fold.take_event(earlier)
        return fold

    def _recorded_progress(self, run_id: str) -> RunProgress | None:
        """The progress of a run from its history; None if there is none."""
        fold: StatusFold | None = None
        for event in self._history(run_id):
            fold = fold or StatusFold(event, self._monotonic)
            fold.take_event(event)
        return fold.progress() if fold else None

    def _is_late(self, event: StageEvent) -> bool:
        """Whether the group has gone on from the event's run, and this does not begin it again."""
        if isinstance(event, RunOpened) or _takes_up(event) or self._group is None:
            return False
        return self._group.is_over(event.run_id)

    def _fold_of(self, group_id: str) -> GroupStatusFold:
        if self._group is None or self._group.group_id != group_id:
            self._group = GroupStatusFold(group_id, self._recorded_progress)
        return self._group

    def _note(self, run: StatusFold) -> None:
        progress = run.progress()
        if progress is not None and self._group is not None:
            self._group.note(run.run_id, progress)


def _takes_up(event: StageEvent) -> bool:
    """Whether a resume begins with this event: the way back from the end of a run."""
    return isinstance(event, LifecycleChanged) and event.dest == RunState.IDLE
