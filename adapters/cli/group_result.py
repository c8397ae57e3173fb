"""The result of a group as text."""

from __future__ import annotations

from pathlib import Path

from ...statemachine.groups.result import GroupResult
from .output import print_line


def show_group(result: GroupResult, runs: Path) -> None:
    """Print a line for each variant, and the state of the group."""
    del runs
    for variant in result.variants:
        print_line(f"{variant.variant_index + 1:>5} {variant.run_id or '-'} {variant.state}")
    print_line(f"{result.group_id}: {result.state}")
