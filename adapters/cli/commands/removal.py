"""``rm`` and ``archive``: remove runs, or the images of their earlier stages, or set them aside."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import msgspec

from ....events.errors import LogLockedError
from ....events.log.lock import is_locked, lock_holder
from ....statemachine.ports import SystemClock
from ....statemachine.resume.removal import (
    archive_run,
    earlier_images,
    finish_removals,
    remove_earlier_images,
    remove_run,
)
from ...bootstrap import new_storage
from ...projections.catalogue import catalogue_entry
from ...text import byte_size
from ..completion import complete_run
from ..display import open_file_counter
from ..output import check_runs_folder, count, print_line, progress_stream, runs_option
from ..run_lookup import find_runs

_EXIT_STATUSES = """\b
Exit status:
  0  done
  1  a file could not be removed or moved
  2  not confirmed, no such run, a process is running it, or it is not finished
  4  the log is corrupt, or an image is missing or altered
"""
_run_arguments = click.argument(
    "names", nargs=-1, required=True, metavar="RUN...", shell_complete=complete_run
)
_keep_option = click.option(
    "--keep-last-stage",
    "keep",
    is_flag=True,
    help="Remove only the images of the stages before the last one.",
)
_yes_option = click.option("--yes", is_flag=True, help="Do it without asking.")


class _Choice(msgspec.Struct, frozen=True):
    """A run, and the number and size in bytes of the files that are to be removed or moved."""

    folder: Path
    run_id: str
    files: int
    size: int


@click.command("rm", epilog=_EXIT_STATUSES)
@_run_arguments
@_keep_option
@_yes_option
@runs_option
def rm_command(names: tuple[str, ...], keep: bool, yes: bool, runs: Path) -> None:  # noqa: FBT001 - click passes flags
    """Remove runs, or the images of their earlier stages.

    The sizes are shown first. With --keep-last-stage the log records what is removed: the runs stay
    sound and can be shown, but those images are never made again.
    """
    chosen = _choose(names, runs, keep=keep)
    if keep:
        _confirm(f"remove {_earlier(chosen)}", chosen, yes=yes)
        _remove_images(chosen, "rm --keep-last-stage")
        return
    _confirm(f"remove the whole of {count(len(chosen), 'run')}", chosen, yes=yes)
    for one in chosen:
        remove_run(one.folder, storage=new_storage())
        print_line(f"{one.run_id}: removed")


@click.command("archive", epilog=_EXIT_STATUSES)
@_run_arguments
@_keep_option
@_yes_option
@runs_option
def archive_command(names: tuple[str, ...], keep: bool, yes: bool, runs: Path) -> None:  # noqa: FBT001 - click passes flags
    """Move runs to the folder `archive`.

    Every command still finds them there.
    The sizes are shown first. An archived run gets no reminders, and `resume --all` leaves it out.
    """
    chosen = _choose(names, runs, keep=keep)
    removed = f", and remove {_earlier(chosen)}" if keep else ""
    _confirm(f"archive {count(len(chosen), 'run')}{removed}", chosen, yes=yes)
    if keep:
        _remove_images(chosen, "archive --keep-last-stage")
    for one in chosen:
        place = os.path.relpath(archive_run(one.folder, storage=new_storage()))
        print_line(f"{one.run_id}: archived in {place}")


def _choose(names: Sequence[str], runs: Path, *, keep: bool) -> list[_Choice]:
    """The runs that are named, each once; none is chosen if one of them may not be touched."""
    check_runs_folder(runs)
    finish_removals(runs, storage=new_storage())
    folders = {folder.resolve(): folder for folder in find_runs(runs, names)}
    measure: Callable[[Path], tuple[int, int]] = _measure_images if keep else _measure_folder
    chosen = []
    for folder in folders.values():
        if is_locked(folder):
            raise LogLockedError(str(lock_holder(folder) or "unknown"), path=folder)
        files, size = measure(folder)
        entry = catalogue_entry(folder)
        chosen.append(_Choice(folder, entry.run_id, files, size))
        what = f"{count(files, 'image')} of earlier stages" if keep else count(files, "file")
        print_line(f"{entry.run_id}  {entry.name}, {entry.state}: {what}, {byte_size(size)}")
        if entry.group_id is not None:
            print_line(
                f"  it belongs to group {entry.group_id}, whose other runs may need its images"
            )
    return chosen


def _measure_images(folder: Path) -> tuple[int, int]:
    sizes = [image.bytes for image in earlier_images(folder)]
    return len(sizes), sum(sizes)


def _measure_folder(folder: Path) -> tuple[int, int]:
    sizes = [
        os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118 - what os.walk gives
        for place, _, names in os.walk(folder)
        for name in names
    ]
    return len(sizes), sum(sizes)


def _earlier(chosen: Sequence[_Choice]) -> str:
    images = count(sum(one.files for one in chosen), "image")
    return f"{images} of earlier stages of {count(len(chosen), 'run')}"


def _confirm(deed: str, chosen: Sequence[_Choice], *, yes: bool) -> None:
    """Ask on a terminal. Raises UsageError if the user cannot be asked, or does not want it."""
    total = byte_size(sum(one.size for one in chosen))
    question = f"{deed}, {total}"
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"not confirmed: {question}; --yes does it without asking")
    if not _is_agreed(f"{question[0].upper()}{question[1:]}?"):
        raise click.UsageError("not confirmed; nothing was changed")


def _is_agreed(question: str) -> bool:
    """Ask; the end of the input (Ctrl-D) is a no. Raises Abort after Ctrl-C."""
    try:
        return click.confirm(question)
    except click.Abort as error:
        if not isinstance(error.__context__, EOFError):
            raise
        print_line()
        return False


def _remove_images(chosen: Sequence[_Choice], reason: str) -> None:
    with open_file_counter(progress_stream()) as counter:
        for place, one in enumerate(chosen, start=1):
            counter.label = f"run {place} of {len(chosen)}" if len(chosen) > 1 else ""
            remove_earlier_images(
                one.folder,
                reason=reason,
                clock=SystemClock(),
                storage=new_storage(),
                on_file=counter.take,
            )
            counter.pause()
            print_line(
                f"{one.run_id}: {count(one.files, 'image')} removed, {byte_size(one.size)}; "
                "the last stage is kept"
            )
