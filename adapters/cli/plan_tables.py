"""What ``plan`` and ``rerun`` show of a sweep, of what would be reused, and of the time."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ...statemachine.groups.planning import GroupPlan
from ...statemachine.run.reuse_plan import StageReuse
from ..projections.durations import Estimate, RecordedDurations
from ..projections.varied_values import varied_keys
from ..text import rough_duration
from .group_result import variant_cells
from .output import count, print_line
from .styles import warning_mark

MOST_LINES = 50
"""Variants that a terminal shows at most."""
_TOTALS = ("steps", "images", "estimate")


class SweepEstimates(NamedTuple):
    """The seconds of each variant, None where not known; ``whole`` is None unless all are."""

    seconds: tuple[float | None, ...]
    whole: Estimate | None


def estimate_sweep(plan: GroupPlan, durations: RecordedDurations) -> SweepEstimates:
    """How long the variants will take, and all of them one after the other."""
    found = [durations.estimate(variant.plan) for variant in plan.variants]
    known = [estimate for estimate in found if estimate is not None]
    whole = None
    if known and len(known) == len(found):
        runs = frozenset[str]().union(*{estimate.runs for estimate in known})
        whole = Estimate(sum(estimate.seconds for estimate in known), runs)
    return SweepEstimates(tuple(None if one is None else one.seconds for one in found), whole)


def sweep_document(plan: GroupPlan, estimates: SweepEstimates) -> dict[str, Any]:
    """What ``plan --json`` prints of a sweep; ``estimate_s`` are seconds, null if not known."""
    return {
        "axes": plan.axes,
        "variants": [
            {
                "variant_index": variant.variant_index,
                "values": dict(variant.values),
                "total_images": variant.total_images,
                "total_steps": variant.total_steps,
                "estimate_s": seconds,
            }
            for variant, seconds in zip(plan.variants, estimates.seconds, strict=True)
        ],
        "checkpoint_changes": plan.checkpoint_changes,
        "total_images": plan.total_images,
        "total_steps": plan.total_steps,
        "estimate_s": None if estimates.whole is None else estimates.whole.seconds,
        "warnings": plan.warnings,
    }


def show_sweep(plan: GroupPlan, estimates: SweepEstimates, urls: Sequence[str | None]) -> None:
    """Print the table, the totals and the warnings; a terminal shows the first variants.

    ``urls`` are the addresses of the servers; one None stands for the embedded backend.
    """
    most = MOST_LINES if sys.stdout.isatty() else None
    for line in sweep_lines(plan, estimates, urls, shutil.get_terminal_size().columns, most):
        print_line(line)
    for warning in plan.warnings:
        print_line(warning_mark(), f" {warning}")


def sweep_lines(
    plan: GroupPlan,
    estimates: SweepEstimates,
    urls: Sequence[str | None],
    width: int,
    most: int | None,
) -> Iterator[str]:
    """The table of at most ``most`` variants, ``width`` characters wide if possible; the totals."""
    yield from _table(plan, estimates, width, most)
    left = len(plan.variants) - most if most is not None else 0
    if left > 0:
        yield f"... and {left:,} more"
    yield ""
    yield _totals(plan, estimates, urls)


def _totals(plan: GroupPlan, estimates: SweepEstimates, urls: Sequence[str | None]) -> str:
    parts = [
        _count(len(plan.variants), "variant"),
        f"{_count(plan.total_images, 'image')} in each stage",
        _count(plan.total_steps, "sampling step"),
        _count(plan.checkpoint_changes, "checkpoint change"),
    ]
    if estimates.whole is not None:
        parts.append(estimate_text(estimates.whole, *urls))
    return ", ".join(parts)


def _table(
    plan: GroupPlan, estimates: SweepEstimates, width: int, most: int | None
) -> Iterator[str]:
    """A header and a line for each variant; the columns of the varied keys are cut to fit."""
    keys = varied_keys(plan.axes)
    # A top-level key of such a name keeps it.
    headers = [f"total {name}" if name in keys else name for name in _TOTALS]
    rows: list[tuple[int, Mapping[str, Any], list[str]]] = []
    for variant, seconds in zip(plan.variants[:most], estimates.seconds[:most], strict=True):
        time = "" if seconds is None else rough_duration(seconds)
        further = [f"{variant.total_steps:,}", f"{variant.total_images:,}", time]
        rows.append((variant.variant_index, variant.values, further))
    if all(seconds is None for seconds in estimates.seconds):
        headers, rows = headers[:-1], [(*row[:2], row[2][:-1]) for row in rows]
    yield from map("  ".join, variant_cells(keys, _TOTALS, headers, rows, width))


def _count(number: int, noun: str) -> str:
    """``1 image``, ``3,240 images``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def estimate_text(estimate: Estimate, *urls: str | None) -> str:
    """``about 12 min on http://host:7860 (from 5 recorded runs)``; ``urls`` are all servers."""
    server = " and ".join(url or "the embedded backend" for url in urls)
    runs = count(len(estimate.runs), "recorded run")
    about = "" if estimate.seconds < 1 else "about "
    return f"{about}{rough_duration(estimate.seconds)} on {server} (from {runs})"


def reuse_document(run_id: str, stages: Sequence[StageReuse]) -> dict[str, Any]:
    """The same as JSON; ``run_id`` is that of the earlier run."""
    return {"run_id": run_id, "stages": stages, "requests": _requests(stages)}


def reuse_lines(stages: Sequence[StageReuse]) -> Iterator[str]:
    """A line for each stage, with the reasons below it; the requests that would be sent."""
    width = max(len(stage.stage_id) for stage in stages)
    for stage in stages:
        yield f"{stage.stage_id:<{width}}  {stage.reused:>6} reused  {stage.to_make:>6} to make"
        for reason, images in stage.reasons.items():
            yield f"{'':<{width}}  {count(images, 'image')}: {reason}"
        if stage.not_checked:
            yield f"{'':<{width}}  not checked: {', '.join(stage.not_checked)}"
    yield f"{count(_requests(stages), 'request')} to send"


def _requests(stages: Sequence[StageReuse]) -> int:
    return sum(stage.requests for stage in stages)
