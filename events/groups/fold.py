"""The fold from a group's events to what is known of the group without its runs."""

from __future__ import annotations

from collections.abc import Iterable

from ..model import ErrorDetail, Outcome, RunState
from .model import (
    GroupCancelled,
    GroupEvent,
    GroupOpened,
    GroupResumed,
    GroupSealed,
    VariantBegun,
    VariantRemoved,
)

_STATES = {Outcome.COMPLETED: RunState.COMPLETED, Outcome.CANCELLED: RunState.CANCELLED}


class GroupFold:
    """A group as its own log describes it; records of variants that it does not have are ignored.

    ``run_ids`` has the run of each variant that has begun, by its index, and ``removed`` the
    variants whose runs were removed on purpose. ``cancelled``, ``sealed`` and ``failures`` are
    those of the present epoch; the latter say of variants why their runs could not begin or go on.
    """

    def __init__(self) -> None:
        self.opened: GroupOpened | None = None
        self.run_ids: dict[int, str] = {}
        self.removed: set[int] = set()
        self.cancelled: GroupCancelled | None = None
        self.sealed: GroupSealed | None = None
        self.failures: dict[int, ErrorDetail] = {}
        self.epoch = 0
        self.resumes = 0

    def apply_all(self, events: Iterable[GroupEvent]) -> None:
        """Take events in the order of the log."""
        for event in events:
            self.apply(event)

    def apply(self, event: GroupEvent) -> None:
        """Take the next event."""
        self.epoch = max(self.epoch, event.epoch)
        match event:
            case GroupOpened():
                self.opened = event
            case VariantBegun() if self._has(event.variant_index):
                self.run_ids[event.variant_index] = event.run_id
                self.removed.discard(event.variant_index)
            case VariantRemoved() if self._has(event.variant_index):
                self.removed.add(event.variant_index)
            case GroupResumed():
                self.cancelled = self.sealed = None
                self.failures = {}
                self.resumes += 1
            case GroupCancelled():
                self.cancelled = event
            case GroupSealed():
                self.sealed = event
                self.failures = {one.variant_index: one.error for one in event.failures}

    def _has(self, variant_index: int) -> bool:
        return self.opened is not None and variant_index < len(self.opened.variants)

    @property
    def group_id(self) -> str:
        """The group's id; "" before GroupOpened."""
        return self.opened.group_id if self.opened else ""

    @property
    def state(self) -> RunState:
        """The state that the group's own log ends in: RUNNING until it is sealed.

        A group that was cancelled and whose process died before the seal is CANCELLED.
        """
        if self.opened is None:
            return RunState.IDLE
        if self.sealed is None:
            return RunState.CANCELLED if self.cancelled else RunState.RUNNING
        return _STATES.get(self.sealed.outcome, RunState.ERROR)
