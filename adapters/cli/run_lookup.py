"""Finds the run or the image that a command names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ...events.errors import RunNotFoundError
from ...events.folds import replay
from ...statemachine.config.input_files import IMAGE_SUFFIXES
from ...statemachine.files import run_folder
from ...statemachine.groups import folder
from ...statemachine.groups.folder import RunOrGroup
from .statuses import EXIT_COMPLETED, print_error


def find_run(runs: Path, name: str) -> Path:
    """The folder of a run, as ``RunFinder`` finds it; a note names each that ``last`` skips."""
    return find_runs(runs, [name])[0]


def find_runs(runs: Path, names: Iterable[str]) -> list[Path]:
    """The same of several; the folder of runs is read once."""
    finder = run_folder.RunFinder(
        runs, lambda error: print_error(f"skipped: {error}", EXIT_COMPLETED)
    )
    return [finder.find(name) for name in names]


def find_run_or_group(runs: Path, name: str) -> RunOrGroup:
    """The folder of a run or of a group; a note names each run that ``last`` skips."""
    finder = run_folder.RunFinder(
        runs, lambda error: print_error(f"skipped: {error}", EXIT_COMPLETED)
    )
    return folder.find_run_or_group(runs, name, finder)


def find_image(runs: Path, name: str) -> Path | None:
    """The image file that ``name`` is the path of, or that it names as ``RUN#3``; else None.

    ``RUN#3`` is the image of a run that people call its third, of the furthest stage that
    finished it. Raises RunNotFoundError.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir():
        raise RunNotFoundError(f"{name}: no such image or run")
    run, number = run_folder.split_image_number(name)
    if number is None or path.is_dir():
        return None
    folder = find_run(runs, run)
    result = replay(folder)
    for image in result.images:
        if image.image_index == number - 1:
            return folder / image.path
    raise RunNotFoundError(f"{name}: {run_folder.why_no_image(result, number)}")
