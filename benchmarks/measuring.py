"""How a ratio is measured: both sides in turn, several times, the best of each."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import NamedTuple


class Ratio(NamedTuple):
    """``ours`` and ``rival`` in seconds; ``limit`` is the most (or least) that is allowed."""

    what: str
    rival: str
    ours_s: float
    rival_s: float
    limit: str

    def line(self) -> str:
        """A row of the table."""
        ratio = self.ours_s / self.rival_s
        return (
            f"| {self.what} | {self.rival} | {self.ours_s * 1e3:.3f} ms | "
            f"{self.rival_s * 1e3:.3f} ms | {ratio:.2f} | {self.limit} |"
        )


def alternately(
    ours: Callable[[], object], rival: Callable[[], object], *, rounds: int = 7
) -> tuple[float, float]:
    """The best time of each in seconds, measured in turn so that both meet the same noise."""
    best = [float("inf"), float("inf")]
    for _ in range(rounds):
        for side, call in enumerate((ours, rival)):
            gc.collect()
            began = time.perf_counter()
            call()
            best[side] = min(best[side], time.perf_counter() - began)
    return best[0], best[1]
