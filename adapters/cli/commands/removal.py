"""``rm`` and ``archive``: remove runs, or images of their earlier stages, or set runs aside."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path

import click

from ....statemachine.groups.folder import recorded_group_id
from ....statemachine.groups.removal import VariantRemovals, remove_group
from ....statemachine.ports import SystemClock
from ....statemachine.resume.removal import archive_run, remove_earlier_images, remove_run
from ...bootstrap import new_storage
from ...text import byte_size
from ..completion import complete_run_or_group
from ..display import open_file_counter
from ..options import runs_option
from ..output import count, one_line, print_line, progress_stream
from ..removal_choice import Chosen, ChosenRun, choose

_EXIT_STATUSES = """\b
Exit status:
  0  done
  1  a file could not be removed or moved
  2  not confirmed, no such run, a process is running it or its group, or it is not finished
  4  the log is corrupt, or an image is missing or altered
"""
_run_arguments = click.argument(
    "names",
    nargs=-1,
    required=True,
    metavar="RUN_OR_GROUP...",
    shell_complete=complete_run_or_group,
)
_keep_option = click.option(
    "--keep-last-stage",
    "keep",
    is_flag=True,
    help="Remove only the images of the stages before the last one.",
)
_yes_option = click.option("--yes", is_flag=True, help="Do it without asking.")


@click.command("rm", epilog=_EXIT_STATUSES)
@_run_arguments
@_keep_option
@_yes_option
@runs_option
def rm_command(names: tuple[str, ...], keep: bool, yes: bool, runs: Path) -> None:
    """Remove runs and groups, or images of earlier stages.

    A group is removed with all its runs, and `resume GROUP` never makes a removed run again. The
    sizes are shown first. With --keep-last-stage the log records what is removed: the runs stay
    sound and can be shown, but those images are never made again.
    """
    if keep:
        _remove_images(_choose_images(names, runs, yes=yes), "rm --keep-last-stage")
        return
    warning = "resume never makes a removed run again"
    chosen = choose(names, runs, keep=False, removes=True, warning=warning, with_damaged=True)
    _confirm(f"remove the whole of {chosen.text()}", chosen, yes=yes)
    for group, members in groupby(chosen.runs, lambda one: one.group):
        _remove_runs(group, members, is_quiet=group in chosen.groups)
    for group in chosen.groups:
        group_id = one_line(recorded_group_id(group))
        remove_group(group, storage=new_storage())
        rest = "; its runs stay" if group in chosen.damaged else ", with its runs"
        print_line(f"{group_id}: removed{rest}")


@click.command("archive", epilog=_EXIT_STATUSES)
@_run_arguments
@_keep_option
@_yes_option
@runs_option
def archive_command(names: tuple[str, ...], keep: bool, yes: bool, runs: Path) -> None:
    """Move runs, or those of groups, to the folder `archive`.

    Every command still finds them there; the folder of a group stays where it is.
    The sizes are shown first. An archived run gets no reminders, and `resume --all` leaves it out.
    """
    warning = "resume of the group still finishes them"
    chosen = choose(names, runs, keep=keep, removes=keep, warning=warning)
    removed = f", and remove {_earlier(chosen)}" if keep else ""
    _confirm(f"archive {chosen.text()}{removed}", chosen, yes=yes)
    if keep:
        _remove_images(chosen, "archive --keep-last-stage")
    here = Path.cwd()  # it may be what is moved
    for one in chosen.runs:
        place = os.path.relpath(archive_run(one.folder, storage=new_storage()).absolute(), here)
        print_line(f"{one.run_id}: archived in {place}")


def _choose_images(names: Sequence[str], runs: Path, *, yes: bool) -> Chosen:
    chosen = choose(names, runs, keep=True, removes=True, warning="its runs stay")
    _confirm(f"remove {_earlier(chosen)}", chosen, yes=yes)
    return chosen


def _remove_runs(group: Path | None, members: Iterable[ChosenRun], *, is_quiet: bool) -> None:
    """Remove runs; the log of their group, if they have one, records each before it is gone."""
    with ExitStack() as stack:
        removals: VariantRemovals | None = None
        if group is not None:
            removals = VariantRemovals(group, clock=SystemClock(), storage=new_storage())
            stack.callback(removals.close)
        for one in members:
            if removals is not None and one.entry.variant_index is not None:
                removals.record(one.entry.variant_index, one.run_id, "rm")
            remove_run(one.folder, storage=new_storage())
            if not is_quiet:
                print_line(f"{one.run_id}: removed")


def _earlier(chosen: Chosen) -> str:
    images = count(sum(one.files for one in chosen.runs), "image")
    return f"{images} of earlier stages of {chosen.text()}"


def _confirm(deed: str, chosen: Chosen, *, yes: bool) -> None:
    """Ask on a terminal. Raises UsageError if the user cannot be asked, or does not want it."""
    question = f"{deed}, {byte_size(chosen.size)}"
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


def _remove_images(chosen: Chosen, reason: str) -> None:
    with open_file_counter(progress_stream()) as counter:
        for place, one in enumerate(chosen.runs, start=1):
            counter.label = f"run {place} of {len(chosen.runs)}" if len(chosen.runs) > 1 else ""
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
