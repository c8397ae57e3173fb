"""The progress of one run, as the status of its group needs it."""

from __future__ import annotations

from typing import NamedTuple

from ....events.model import RunState


class RunProgress(NamedTuple):
    """The progress of one run; ``state`` is None for a run that was removed.

    ``fraction`` of its work is finished now, from 0 to 1. ``seconds`` are the time in which
    ``worked``, a fraction of its work too, was done, over all its epochs; work that was lost and
    made again counts each time.
    """

    state: RunState | None
    fraction: float
    seconds: float = 0.0
    worked: float = 0.0
