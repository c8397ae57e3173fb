"""Maps seconds of a run to positions on its timeline; long idle times are cut out."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise

import msgspec

from .calls import Epoch

_GAP_SHARE = 3.0
"""The width of a cut in percent; also the share of the working time above which one is made."""
_GAPS_SHARE = 30.0
_SHORTEST_S = 1e-6
"""The resolution of the times in a log."""
_TICKS = 8
_NICE_S = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30,
    60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400,
)  # fmt: skip
_MAX_EPOCH_TICKS = 40


class EpochSpan(msgspec.Struct, frozen=True):
    """An epoch on the scale; ``left`` and ``right`` are percent of the width.

    ``cut_s`` idle seconds before it are cut out.
    """

    epoch: Epoch
    left: float
    right: float
    cut_s: float


class Tick(msgspec.Struct, frozen=True):
    """A tick of the axis, ``since_s`` seconds after its epoch began."""

    at: float
    since_s: float


class TimeScale:
    """Positions in percent of the width, for the seconds of a run."""

    def __init__(self, epochs: Sequence[Epoch]) -> None:
        gaps = [max(0.0, late.began_s - early.ended_s) for early, late in pairwise(epochs)]
        worked = sum(one.ended_s - one.began_s for one in epochs)
        self._worked = worked
        cuts = [gap > worked * _GAP_SHARE / 100 and gap > 0 for gap in gaps]
        kept = sum(gap for gap, cut in zip(gaps, cuts, strict=True) if not cut)
        cut_width = min(_GAP_SHARE, _GAPS_SHARE / max(1, sum(cuts)))
        self._per_s = (100.0 - cut_width * sum(cuts)) / max(worked + kept, _SHORTEST_S)
        self.spans = list(self._laid_out(epochs, gaps, cuts, cut_width))
        self._begins = [one.epoch.began_s for one in self.spans]

    def place(self, at_s: float) -> float:
        """The position of a moment in percent; a moment in a cut is at the end of the cut."""
        if not self.spans:
            return 0.0
        number = max(0, bisect_right(self._begins, at_s) - 1)
        span, is_last = self.spans[number], number + 1 == len(self.spans)
        end = 100.0 if is_last else self.spans[number + 1].left
        return min(span.left + max(0.0, at_s - span.epoch.began_s) * self._per_s, end)

    def ticks(self) -> Iterator[Tick]:
        """Ticks at equal distances, counted from the beginning of each epoch."""
        step = next((one for one in _NICE_S if one * _TICKS >= self._worked), None)
        step = step or self._worked / _TICKS
        for span in self.spans:
            length = span.epoch.ended_s - span.epoch.began_s
            for number in range(min(int(length / step), _MAX_EPOCH_TICKS) + 1):
                since_s = number * step
                yield Tick(span.left + since_s * self._per_s, since_s)

    def _laid_out(
        self, epochs: Sequence[Epoch], gaps: Sequence[float], cuts: Sequence[bool], cut_width: float
    ) -> Iterator[EpochSpan]:
        at = 0.0
        for place, epoch in enumerate(epochs):
            cut_s = 0.0
            if place:
                cut = cuts[place - 1]
                cut_s = gaps[place - 1] if cut else 0.0
                at += cut_width if cut else gaps[place - 1] * self._per_s
            right = at + (epoch.ended_s - epoch.began_s) * self._per_s
            yield EpochSpan(epoch, at, min(right, 100.0), cut_s)
            at = right
