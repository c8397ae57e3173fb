"""Folds the events of a group, and the progress of its runs, into the status of the group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import UNSET

from ....events.groups.model import (
    GroupCancelled,
    GroupEvent,
    GroupOpened,
    GroupResumed,
    GroupSealed,
    Variant,
    VariantBegun,
    VariantFailure,
    VariantRemoved,
)
from ....events.model import Outcome, RunOpened, RunState
from ..varied_values import varied_text
from .estimate import RunProgress, Tally
from .group_status import GroupStatus
from .status import UNFINISHED, RunStatus, shown

_ENDS = {Outcome.COMPLETED: RunState.COMPLETED, Outcome.CANCELLED: RunState.CANCELLED}


class GroupStatusFold:
    """The status of one group: ``take_event`` gets its events, ``note`` the progress of its runs.

    Variants are named by their place in the order in which they run. ``recorded`` gives the
    progress of a run by its id, where that is known; it is asked for runs that ended without a
    note, which are those of earlier processes.
    """

    def __init__(self, group_id: str, recorded: Callable[[str], RunProgress | None]) -> None:
        self.group_id = group_id
        self._recorded = recorded
        self._next_seq = 0
        self._variants: tuple[Variant, ...] = ()
        self._place_of_index: dict[int, int] = {}
        self._weights: list[int] = []
        self._whole = 0
        self._place_of_run: dict[str, int] = {}
        self._run_of_place: dict[int, str] = {}
        self._progress: dict[int, RunProgress] = {}
        self._over: set[int] = set()
        """Variants that this epoch makes no more: ended, removed, or completed before."""
        self._done = 0.0
        self._held = 0.0
        """The highest finished part that was shown."""
        self._values_of_run: dict[str, Mapping[str, Any]] = {}
        """What runs recorded themselves; used where the group's first event is missing."""
        self._state = RunState.IDLE
        self._is_stopping = False
        self._error = ""
        self._handlers: dict[type[GroupEvent], Callable[[Any], None]] = {
            GroupOpened: self._open,
            VariantBegun: self._begin,
            VariantRemoved: self._remove,
            GroupResumed: self._resume,
            GroupCancelled: self._stop,
            GroupSealed: self._seal,
        }

    def take_event(self, event: GroupEvent) -> None:
        """Add an event of the group; one that was added before is ignored."""
        if event.seq < self._next_seq:
            return
        self._next_seq = event.seq + 1
        if (handler := self._handlers.get(type(event))) is not None:
            handler(event)

    def take_opened(self, event: RunOpened) -> None:
        """Add a run of the group, which may precede the group's own event."""
        if event.variant_index is not None:
            self._name_run(event.run_id, event.variant_index)
            if not self._variants and event.varied is not UNSET:
                self._values_of_run[event.run_id] = event.varied

    def note(self, run_id: str, progress: RunProgress) -> None:
        """Note how far a run of the group is."""
        place = self._place_of_run.get(run_id)
        if place is None:
            return
        if progress.state is not None and progress.state.is_end:
            self._set_progress(place, progress)
            self._over.add(place)
        elif place not in self._over:  # where it is over, this is late
            self._set_progress(place, progress)

    def reopen(self, run_id: str) -> None:
        """A run is taken up again."""
        self._over.discard(self._place_of_run.get(run_id, -1))

    def has_run(self, run_id: str) -> bool:
        """Whether this is a run of the group."""
        return run_id in self._place_of_run

    def is_over(self, run_id: str) -> bool:
        """Whether the group has gone on from this run."""
        return self._place_of_run.get(run_id) in self._over

    def status(self, run: RunStatus) -> GroupStatus:
        """The status of the group while ``run`` is the status of the shown run."""
        place = self._place_of_run.get(run.run_id)
        values = self._values_of_run.get(run.run_id, {})
        if place is not None and self._variants:
            values = self._variants[place].values
        return GroupStatus(
            group_id=self.group_id,
            group_state=self._state,
            group_error=self._error,
            variant_number=0 if place is None else place + 1,
            variant_count=len(self._variants),
            varied=varied_text(values, without_suffixes=True),
            group_percentage=self._percentage(),
            group_remaining_s=self._remaining_s(run, place),
            variants_finished=self._count(RunState.COMPLETED),
            variants_failed=self._count(RunState.ERROR),
        )

    def _open(self, event: GroupOpened) -> None:
        self._variants = event.variants
        self._weights = [
            max(0, variant.total_steps or variant.total_images) for variant in event.variants
        ]
        self._place_of_index = {
            variant.variant_index: place for place, variant in enumerate(event.variants)
        }
        self._state = RunState.RUNNING
        self._whole = sum(self._weights)
        # Runs may have been seen before; their index was their place.
        runs, known = self._place_of_run, self._progress
        self._place_of_run, self._run_of_place, self._progress = {}, {}, {}
        self._done = 0.0
        for run_id, index in runs.items():
            self._name_run(run_id, index)
            if index in known and run_id in self._place_of_run:
                self._set_progress(self._place_of_run[run_id], known[index])

    def _name_run(self, run_id: str, variant_index: int) -> None:
        # Without the group's first event, the index is the place.
        place = self._place_of_index.get(variant_index, -1 if self._variants else variant_index)
        if place >= 0:
            self._place_of_run[run_id] = place
            self._run_of_place[place] = run_id

    def _begin(self, event: VariantBegun) -> None:
        self._settle()
        self._name_run(event.run_id, event.variant_index)

    def _remove(self, event: VariantRemoved) -> None:
        place = self._place_of_index.get(event.variant_index)
        if place is not None:
            self._set_progress(place, RunProgress(state=None, fraction=1.0))
            self._over.add(place)

    def _resume(self, _event: GroupResumed) -> None:
        self._settle()
        self._state, self._is_stopping, self._error = RunState.RUNNING, False, ""
        self._over = {
            place
            for place, progress in self._progress.items()
            if progress.state in (RunState.COMPLETED, None)
        }

    def _stop(self, _event: GroupCancelled) -> None:
        self._is_stopping = True

    def _seal(self, event: GroupSealed) -> None:
        self._settle()
        self._state = _ENDS.get(event.outcome, RunState.ERROR)
        for failure in event.failures:
            self._fail(failure)
        if event.error is not None:
            self._error = shown(event.error.message)

    def _fail(self, failure: VariantFailure) -> None:
        """A variant could not begin, or continue; the first one says why in the status."""
        place = self._place_of_index.get(failure.variant_index)
        if place is None:
            return
        known = self._progress.get(place) or RunProgress(state=None, fraction=0.0)
        self._set_progress(place, known._replace(state=RunState.ERROR))
        self._over.add(place)
        if not self._error:
            self._error = shown(f"variant {place + 1}: {failure.error.message}")

    def _settle(self) -> None:
        """End every variant that has begun: the group continues, or stops."""
        for place in self._run_of_place.keys() - self._over:
            progress = self._recorded(self._run_of_place[place])
            if progress is not None:
                self._set_progress(place, progress)
            self._over.add(place)

    def _set_progress(self, place: int, progress: RunProgress) -> None:
        before = self._progress.get(place)
        self._progress[place] = progress
        if place < len(self._weights):
            gained = progress.fraction - (before.fraction if before else 0.0)
            self._done += gained * self._weights[place]
            self._held = max(self._held, self._done)

    def _percentage(self) -> float | None:
        if self._state == RunState.COMPLETED:
            return 100.0
        return min(UNFINISHED, 100.0 * self._held / self._whole) if self._whole else None

    def _count(self, state: RunState) -> int:
        return sum(
            self._progress[place].state == state for place in self._over & self._progress.keys()
        )

    def _seconds_each(self) -> float | None:
        """The time of a unit of weight, over all variants that ran so far."""
        known = [one for one in self._progress.items() if one[0] < len(self._weights)]
        seconds = sum(progress.seconds for _, progress in known)
        return Tally(
            seconds, sum(progress.worked * self._weights[place] for place, progress in known)
        ).seconds_each

    def _share_to_make(self) -> float:
        """The part of a variant that is not reused, as in those that completed after the first."""
        first = min(self._run_of_place, default=0)
        whole = made = 0.0
        for place in self._over & self._progress.keys():
            progress = self._progress[place]
            is_known = place != first and place < len(self._weights)
            if is_known and progress.state == RunState.COMPLETED:
                whole += self._weights[place]
                made += progress.worked * self._weights[place]
        return min(1.0, made / whole) if whole else 1.0

    def _open_weight(self, place: int) -> float:
        progress = self._progress.get(place)
        return self._weights[place] * (1.0 - (progress.fraction if progress else 0.0))

    def _remaining_s(self, run: RunStatus, place: int | None) -> float | None:
        """The run's own estimate for its rest, and the group's pace for the other variants."""
        if self._state != RunState.RUNNING or self._is_stopping or not self._weights:
            return None
        pace = self._seconds_each()
        later = [one for one in range(len(self._weights)) if one not in self._over]
        rest: float | None = 0.0
        if place in later and run.state == RunState.RUNNING:
            later.remove(place)
            rest = run.remaining_s
            if rest is None and pace is not None:
                # It has made no progress yet, so its time so far belongs to its first work.
                rest = max(0.0, pace * self._open_weight(place) - run.elapsed_s)
        if rest is None or (later and pace is None):
            return None
        share = self._share_to_make()
        return rest + (pace or 0.0) * share * sum(map(self._open_weight, later))
