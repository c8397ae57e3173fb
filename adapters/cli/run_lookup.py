"""How commands find the run that they are given."""

from __future__ import annotations

from pathlib import Path

from ...statemachine.files import run_folder
from .statuses import EXIT_COMPLETED, complain


def find_run(runs: Path, name: str) -> Path:
    """As ``run_folder.find_run``; says on standard error which runs ``last`` passes over."""
    return run_folder.find_run(
        runs, name, lambda error: complain(f"passed over: {error}", EXIT_COMPLETED)
    )
