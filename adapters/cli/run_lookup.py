"""Finds the run, the group or the image that a command names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ...events.errors import RunNotFoundError
from ...events.folds import replay
from ...statemachine.config.input_files import IMAGE_SUFFIXES
from ...statemachine.files import run_folder
from ...statemachine.groups.folder import RunOrGroup, fitting_groups, runs_around
from ...statemachine.groups.folder import find_group as find_group_folder
from ...statemachine.groups.folder import find_run_or_group as find_in_runs
from .statuses import EXIT_COMPLETED, print_error


class Found(NamedTuple):
    """The folder of a run or a group that a command is given, and the folder of its runs."""

    folder: Path
    is_group: bool
    runs: Path


def find_run(runs: Path, name: str) -> Path:
    """The folder of a run, as ``RunFinder`` finds it; a note names each that ``last`` skips.

    Raises RunNotFoundError, which says so where the name is that of a group.
    """
    try:
        return _finder(runs).find(name)
    except RunNotFoundError as error:
        if len(fitting_groups(runs, name)) == 1:
            raise RunNotFoundError(
                f"{name} is a group, and this command takes a run; `list {name}` shows its runs"
            ) from error
        raise


def find_run_or_group(runs: Path, name: str) -> Found:
    """The folder of a run or of a group. Raises RunNotFoundError."""
    return find_runs_or_groups(runs, [name])[0]


def find_runs_or_groups(runs: Path, names: Iterable[str]) -> list[Found]:
    """The same of several; the folder of runs is read once."""
    finder = _finder(runs)
    return [_found(runs, find_in_runs(runs, name, finder)) for name in names]


def find_group(runs: Path, name: str) -> Found:
    """The folder of a group. Raises GroupNotFoundError."""
    return _found(runs, RunOrGroup(find_group_folder(runs, name), is_group=True))


def _found(runs: Path, one: RunOrGroup) -> Found:
    folder = one.folder if one.folder.name not in ("", "..") else one.folder.absolute().resolve()
    own = runs_around(folder, runs) if one.is_group else runs
    return Found(folder, one.is_group, own)


def _finder(runs: Path) -> run_folder.RunFinder:
    return run_folder.RunFinder(
        runs, lambda error: print_error(f"skipped: {error}", EXIT_COMPLETED)
    )


def runs_around_run(folder: Path) -> Path:
    """The folder of the runs that a run's folder is in, archived or not."""
    beside = folder.absolute().parent
    return beside.parent if beside.name == run_folder.ARCHIVE_NAME else beside


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
