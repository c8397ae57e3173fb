"""Prints the result of a group: a line for each variant, the counts, and what to do next."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...events.groups.log import GROUP_LOCK_NAME
from ...events.groups.model import SweepAxis
from ...events.log.lock import is_locked
from ...events.model import RunState
from ...statemachine.files.run_folder import is_run_id
from ...statemachine.groups.folder import group_folder
from ...statemachine.groups.result import CORRUPT, REMOVED, UNREADABLE, GroupResult, VariantResult
from ..projections.varied_values import short_names, value_text, varied_keys
from .output import count, first_lines, one_line, print_line, runs_argument
from .styles import WRONG, Mark, state_mark
from .table import cells

MOST_LINES = 50
"""Variants that a terminal shows at most."""
_MOST_ERRORS = 10
_HEADERS = ("run", "state", "images")


def show_group(result: GroupResult, runs: Path) -> None:
    """Print the state of a group, its variants and their errors, and what to do next.

    On a terminal, only the first variants are printed.
    """
    state = str(result.state)
    alive = is_alive(runs, result.group_id)
    died = result.state == RunState.RUNNING and not alive
    if result.state == RunState.RUNNING:
        state = f"{state} in the log, but its process died" if died else f"{state} now"
    mark = Mark(state, WRONG) if died else state_mark(result.state, state)
    print_line(f"{one_line(result.group_id)}: ", mark)
    show_variants(result.axes, result.variants)
    print_line(counts_text(result))
    _show_errors(result)
    if alive:
        print_line("a process is working on it; to follow it: ", _command("follow", result, runs))
    elif result.state != RunState.COMPLETED:
        print_line("to continue: ", _command("resume", result, runs))


def show_variants(axes: Sequence[SweepAxis], variants: Sequence[VariantResult]) -> None:
    """Print a line for each variant: its number, its varied values, its run and its images."""
    most = MOST_LINES if sys.stdout.isatty() else None
    for line in variant_lines(axes, variants[:most], shutil.get_terminal_size().columns):
        print_line(*line)
    if most is not None and len(variants) > most:
        print_line(f"  ... and {len(variants) - most} more")


def variant_lines(
    axes: Sequence[SweepAxis], variants: Sequence[VariantResult], width: int
) -> Iterator[list[str | Mark]]:
    """A header and a line for each variant; the columns of the varied keys are cut to fit."""
    keys = varied_keys(axes)
    rows = [
        (one.variant_index, one.values, (one_line(one.run_id or "")[-6:], one.state, _images(one)))
        for one in variants
    ]
    # Run and state are aligned to the left, like text.
    run_place, state_place = len(keys) + 1, len(keys) + 2
    lines = variant_cells(keys, _HEADERS, _HEADERS, rows, width, left=(run_place, state_place))
    for number, line in enumerate(lines):
        parts: list[str | Mark] = []
        for place, text in enumerate(line):
            is_state = number and place == state_place
            parts += [state_mark(text.strip(), text) if is_state else text, "  "]
        yield parts[:-1]


def variant_cells(
    keys: Sequence[str],
    taken: Sequence[str],
    headers: Sequence[str],
    rows: Iterable[tuple[int, Mapping[str, Any], Sequence[str]]],
    width: int,
    left: Sequence[int] = (),
) -> Iterator[list[str]]:
    """The cells of a table of variants: the number, the values of ``keys``, and further columns.

    ``headers`` are those of the further columns; the keys get short names but for those that are
    ``taken``. A row is a variant's index, its values, and the further columns.
    """
    lines = [["", *(name.upper() for name in (*short_names(keys, taken), *headers))]]
    for index, values, further in rows:
        of_keys = (value_text(values[key]) if key in values else "" for key in keys)
        lines.append([str(index + 1), *of_keys, *further])
    is_cut = [0 < place <= len(keys) for place in range(len(lines[0]))]
    return cells(lines, is_cut, width, left)


def counts_text(result: GroupResult) -> str:
    """``18 variants: 17 COMPLETED, 1 ERROR; 34 of 36 images``."""
    states = ", ".join(f"{number} {state}" for state, number in result.counts.items())
    done = sum(one.images for one in result.variants)
    of_all = sum(one.total_images for one in result.variants if one.state != REMOVED)
    images = f"{done} of {of_all} image{'' if of_all == 1 else 's'}"
    return f"{count(len(result.variants), 'variant')}: {states}; {images}"


def is_alive(runs: Path, group_id: str) -> bool:
    """Whether a process works on the group now."""
    folder = group_folder(runs, group_id)
    return folder is not None and is_locked(folder, GROUP_LOCK_NAME)


def group_argument(group_id: str, runs: Path) -> str:
    """The argument that names a group: its six digits, and the folder of its runs if need be."""
    name = group_id[-6:] if is_run_id(group_id) else one_line(group_id)
    return f"{name}{runs_argument(runs)}"


def _images(variant: VariantResult) -> str:
    return f"{variant.images}/{variant.total_images}"


def _show_errors(result: GroupResult) -> None:
    """The errors of variants, and the reason why no further one could begin."""
    errors = [
        f"  variant {one.variant_index + 1}: {one.error.kind}: {one.error.message}"
        for one in result.variants
        if one.error and one.state != RunState.COMPLETED
    ]
    for line in first_lines(errors, _MOST_ERRORS, "  ... and {} more failed"):
        print_line(line)
    for one in [one for one in result.variants if one.state in (CORRUPT, UNREADABLE)][:1]:
        print_line(f"  variant {one.variant_index + 1}: `verify {one.run_id}` shows what is wrong")
    if result.error is not None:
        words = f" {result.error.kind}: {result.error.message}"
        print_line("  ", Mark("error:", WRONG), words)


def _command(name: str, result: GroupResult, runs: Path) -> str:
    return f"stagewright {name} {group_argument(result.group_id, runs)}"
