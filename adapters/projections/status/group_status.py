"""The status of a group of runs, and the texts that every status bar shows of it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from ....events.model import RunState
from ...text import count, duration


class GroupStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The status of a group of runs at one moment; empty for a run without a group.

    ``variant_number`` of ``variant_count`` counts from 1, in the order in which the variants run;
    it is that of the shown run, 0 before the first one. ``varied`` are its values as one short
    line that is safe to show. ``group_error`` says why variants could not begin or continue.

    ``group_percentage`` runs from 0 to 100 over all variants, weighted by their sampling steps.
    It never decreases, is 100 only in COMPLETED, and None if the variants are not known.

    ``group_remaining_s`` is an estimate, None unless RUNNING and something is known to estimate
    from. ``variants_finished`` counts the variants that are COMPLETED, ``variants_failed`` those
    that ended in ERROR since the group was started or resumed.
    """

    group_id: str = ""
    group_state: RunState = RunState.IDLE
    group_error: str = ""
    variant_number: int = 0
    variant_count: int = 0
    varied: str = ""
    group_percentage: float | None = None
    group_remaining_s: float | None = None
    variants_finished: int = 0
    variants_failed: int = 0

    @property
    def variant(self) -> str:
        """``variant 3 of 18: cfg_scale 7.0, model b``; empty without a variant."""
        if not self.variant_number:
            return ""
        varied = f": {self.varied}" if self.varied else ""
        return f"{self.variant_place}{varied}"

    @property
    def variant_place(self) -> str:
        """``variant 3 of 18``; empty without a variant."""
        if not self.variant_number:
            return ""
        whole = f" of {self.variant_count}" if self.variant_count else ""
        return f"variant {self.variant_number}{whole}"

    @property
    def group_headline(self) -> str:
        """The variant of a running group, or how the group ended; empty without a group.

        ``variant 3 of 18: cfg_scale 7.0, model b`` or ``Group error: 16 of 18 variants``.
        """
        if self.group_state in (RunState.IDLE, RunState.RUNNING):
            return self.variant or (count(self.variant_count, "variant") if self.group_id else "")
        finished, whole = self.variants_finished, count(self.variant_count, "variant")
        share = whole if finished == self.variant_count else f"{finished} of {whole}"
        return f"Group {self.group_state.lower()}: {share}"

    @property
    def group_percent(self) -> str:
        """``47%``, rounded down, so that only a completed group shows ``100%``."""
        return "" if self.group_percentage is None else f"{math.floor(self.group_percentage)}%"

    @property
    def group_detail(self) -> str:
        """``group 47%, about 0:12:00 left, 1 failed``; empty without a group."""
        return ", ".join(self._details())

    def _details(self) -> Iterator[str]:
        if self.group_percentage is not None:
            yield f"group {self.group_percent}"
        if self.group_remaining_s is not None:
            yield f"about {duration(self.group_remaining_s * 1000)} left"
        if self.variants_failed:
            yield f"{self.variants_failed} failed"
