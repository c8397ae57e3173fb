"""The plan of a sweep as a table and as JSON: a line for each variant, and the totals."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rich.cells import cell_len

from ...statemachine.groups.planning import GroupPlan
from ...statemachine.variants.axes import axis_keys
from ..projections.durations import Estimate, RecordedDurations
from ..text import rough_duration, short_names
from .estimate_text import estimate_text
from .output import one_line, print_line, setting_text
from .styles import warning_mark
from .table import cell, shrink

MOST_LINES = 50
"""Variants that a terminal shows at most."""
_LONGEST_VALUE = 60
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


def show_sweep(plan: GroupPlan, estimates: SweepEstimates, url: str | None) -> None:
    """Print the table, the totals and the warnings; a terminal shows the first variants.

    ``url`` is the address of the server, None for the embedded backend.
    """
    most = MOST_LINES if sys.stdout.isatty() else None
    for line in sweep_lines(plan, estimates, url, shutil.get_terminal_size().columns, most):
        print_line(line)
    for warning in plan.warnings:
        print_line(warning_mark(), f" {warning}")


def sweep_lines(
    plan: GroupPlan, estimates: SweepEstimates, url: str | None, width: int, most: int | None
) -> Iterator[str]:
    """The table of at most ``most`` variants, ``width`` characters wide if possible; the totals."""
    yield from _table(plan, estimates, width, most)
    left = len(plan.variants) - most if most is not None else 0
    if left > 0:
        yield f"... and {left:,} more"
    yield ""
    yield _totals(plan, estimates, url)


def _totals(plan: GroupPlan, estimates: SweepEstimates, url: str | None) -> str:
    parts = [
        _count(len(plan.variants), "variant"),
        f"{_count(plan.total_images, 'image')} in each stage",
        _count(plan.total_steps, "sampling step"),
        _count(plan.checkpoint_changes, "checkpoint change"),
    ]
    if estimates.whole is not None:
        parts.append(estimate_text(estimates.whole, url))
    return ", ".join(parts)


def _table(
    plan: GroupPlan, estimates: SweepEstimates, width: int, most: int | None
) -> Iterator[str]:
    """A header and a line for each variant; the columns of the varied keys are cut to fit."""
    keys = [key for axis in plan.axes for key in axis_keys(axis)]
    headers = [*short_names(keys, _TOTALS), *_total_names(keys)]
    rows = [["", *(name.upper() for name in headers)]]
    for variant, seconds in zip(plan.variants[:most], estimates.seconds[:most], strict=True):
        values = (_shown(variant.values.get(key)) for key in keys)
        time = "" if seconds is None else rough_duration(seconds)
        totals = (f"{variant.total_steps:,}", f"{variant.total_images:,}", time)
        rows.append([str(variant.variant_index + 1), *values, *totals])
    if all(seconds is None for seconds in estimates.seconds):
        rows = [row[:-1] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    is_cut = [0 < place <= len(keys) for place in range(len(widths))]
    shrink(widths, [int(one) for one in is_cut], width - 2 * (len(widths) - 1))
    for row in rows:
        cells = [
            _cut_in_the_middle(text, room) if one else _to_the_right(text, room)
            for text, room, one in zip(row, widths, is_cut, strict=True)
        ]
        yield "  ".join(cells)


def _total_names(keys: Sequence[str]) -> list[str]:
    """The headers of the totals; a top-level key of such a name keeps it."""
    return [f"total {name}" if name in keys else name for name in _TOTALS]


def _shown(value: Any) -> str:
    """A value in one line; of a long one the middle is left out."""
    text = one_line(setting_text(value))
    return text if cell_len(text) <= _LONGEST_VALUE else _cut_in_the_middle(text, _LONGEST_VALUE)


def _cut_in_the_middle(text: str, width: int) -> str:
    """``text`` in so many columns of a terminal; prompts often differ at their end alone."""
    if cell_len(text) <= width:
        return cell(text, width)
    left, right = width // 2, (width - 1) // 2
    begin, end = text[:left], text[len(text) - right :]
    if not text.isascii():
        begin, end = _fitting(begin, left), _fitting(end[::-1], right)[::-1]
    return cell(f"{begin}…{end}", width)


def _fitting(text: str, width: int) -> str:
    """The beginning of ``text`` that has at most so many columns."""
    while cell_len(text) > width:
        text = text[:-1]
    return text


def _to_the_right(text: str, width: int) -> str:
    return " " * (width - cell_len(text)) + text


def _count(number: int, noun: str) -> str:
    """``1 image``, ``3,240 images``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
