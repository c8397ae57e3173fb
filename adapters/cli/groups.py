"""Runs and resumes groups in the foreground, and prints how they ended."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import click

from ...events.model import RunState
from ...statemachine.config.inputs import ConfigDocument
from ...statemachine.config.sweeps import sweep_of
from ...statemachine.groups.result import GroupResult
from ...statemachine.run.controller import PipelineController
from ...statemachine.run.handle import GroupHandle
from ...statemachine.variants.sweep import MAX_VARIANTS
from ..event_text import error_text
from .foreground import ForegroundResult, print_faults, run_in_foreground, try_to_print
from .group_result import show_group
from .output import print_json
from .statuses import (
    EXIT_CANCELLED,
    EXIT_COMPLETED,
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    print_error,
)

CONFIRMED_ABOVE = 1_000
"""More variants than this need a confirmation (contract, section 9)."""
_MOST_ERRORS = 10
_STATUSES = {RunState.COMPLETED: EXIT_COMPLETED, RunState.CANCELLED: EXIT_CANCELLED}


def is_sweep(document: ConfigDocument, vary: tuple[str, ...], *, zip_axes: bool) -> bool:
    """Whether a configuration makes a group of runs. Raises ConfigurationError."""
    return sweep_of(document, vary, zip=zip_axes) is not None


def confirm_count(
    document: ConfigDocument, vary: tuple[str, ...], *, zip_axes: bool, yes: bool
) -> None:
    """Ask before a sweep of many variants. Raises UsageError where nobody can answer."""
    sweep = sweep_of(document, vary, zip=zip_axes)
    variants = sweep.count() if sweep else 0
    if yes or not CONFIRMED_ABOVE < variants <= MAX_VARIANTS:  # the plan of more is refused
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"the sweep makes {variants} variants; add --yes to run them all")
    click.confirm(f"Run {variants} variants?", abort=True, err=True)


def run_group(
    controller: PipelineController,
    begin: Callable[[], GroupHandle],
    stream: IO[str],
    *,
    as_json: bool,
) -> int:
    """Begin or resume a group, show its progress until its end, and print the result."""
    ended = run_in_foreground(controller, begin, stream)
    return show_group_end(ended, controller.runs, as_json=as_json)


def show_group_end(ended: ForegroundResult[GroupResult], runs: Path, *, as_json: bool) -> int:
    """Print how a group ended, and return its exit status."""
    result = ended.result

    def show() -> None:
        if as_json:
            print_json(result)
        else:
            show_group(result, runs)

    try_to_print(show)
    print_faults()
    status = group_status(result)
    print_group_errors(result, status)
    return EXIT_INTERRUPTED if ended.interrupted else status


def group_status(result: GroupResult) -> int:
    """The exit status of a command that ran a group: 0, 1 or 3."""
    return _STATUSES.get(result.state, EXIT_ERROR)


def print_group_errors(result: GroupResult, status: int) -> None:
    """Print on standard error why variants are not complete."""
    failed = [one for one in result.variants if one.error is not None]
    for variant in failed[:_MOST_ERRORS]:
        assert variant.error is not None
        what = f"variant {variant.variant_index + 1}: {error_text(variant.error)}"
        print_error(f"group {result.group_id}: {what}", status)
    if len(failed) > _MOST_ERRORS:
        more = len(failed) - _MOST_ERRORS
        print_error(f"group {result.group_id}: {more} more variants failed", status)
    if result.error is not None:
        print_error(f"group {result.group_id}: {error_text(result.error)}", status)
