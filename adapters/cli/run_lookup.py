"""Finds the run that a command names."""

from __future__ import annotations

from pathlib import Path

from ...statemachine.files import run_folder
from .statuses import EXIT_COMPLETED, print_error


def find_run(runs: Path, name: str) -> Path:
    """Like ``run_folder.find_run``; prints a note for each run that ``last`` skips."""
    return run_folder.find_run(
        runs, name, lambda error: print_error(f"skipped: {error}", EXIT_COMPLETED)
    )
