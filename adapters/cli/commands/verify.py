"""``verify``: checks logs and image files against their records."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from ....events.errors import RunNotFoundError
from ....statemachine.files.recorded_files import MISSING
from ....statemachine.files.run_folder import run_folders
from ....statemachine.groups.folder import group_folders
from ....statemachine.groups.verify import GroupVerification, verify_group
from ....statemachine.resume.verify import Verification, verify_run
from ...export.bundle.manifest import lacks_images
from ..completion import complete_run_or_group
from ..display import open_file_counter
from ..options import check_runs_folder, json_option, runs_option
from ..output import count, one_line, print_json, print_line
from ..run_lookup import find_run_or_group
from ..statuses import EXIT_CORRUPT, EXIT_ERROR, print_error
from ..styles import DOUBTFUL, GOOD, WRONG, Mark


@click.command("verify")
@click.argument(
    "run", metavar="[RUN_OR_GROUP]", required=False, shell_complete=complete_run_or_group
)
@click.option("--all", "every", is_flag=True, help="Check every run and every group's log.")
@runs_option
@json_option
def verify_command(run: str | None, every: bool, runs: Path, as_json: bool) -> int:
    """Check the logs and image files of a run or group.

    Nothing is written.

    \b
    Exit status:
      0  sound
      1  sound but unfinished, or not readable
      4  a log is corrupt, or an image is missing or altered
    """
    if every == (run is not None):
        raise click.UsageError("verify needs either a RUN, a GROUP, or --all")
    if every:
        check_runs_folder(runs)
        checked = _Checks(as_json=as_json)
        for folder in group_folders(runs):
            checked.check_group(folder, runs)
        checked.check_runs(list(run_folders(runs)))
    else:
        found = find_run_or_group(runs, run or "")
        checked = _Checks(as_json=as_json, is_single=not found.is_group)
        folders = [found.folder]
        if found.is_group:
            folders = checked.check_group(found.folder, found.runs)
        checked.check_runs(folders)
    if as_json:
        print_json(checked.documents[0] if checked.is_single else checked.documents)
    elif not checked.is_single:
        print_line(checked.total())
    return checked.status


class _Checks:
    """Checks groups and runs one after the other, and reports each at once.

    With ``is_single`` an error of the only run is raised.
    """

    def __init__(self, *, as_json: bool, is_single: bool = False) -> None:
        self.is_single = is_single
        self.status = 0
        self.documents: list[dict[str, Any]] = []
        self._as_json = as_json
        self._groups = self._runs = 0

    def check_group(self, folder: Path, runs: Path) -> list[Path]:
        """Check the log of a group; the folders of its runs."""
        self._groups += 1
        try:
            found = verify_group(folder, runs)
        except OSError as error:
            self._note_error(f"{folder.name}: cannot be checked: {error}")
            return []
        self.status = max(self.status, _status(found))
        if self._as_json:
            self.documents.append(_document(found))
        else:
            _report_group(found)
        return [Path(place) for place in found.runs.values()]

    def check_runs(self, folders: Sequence[Path]) -> None:
        """Check runs."""
        self._runs += len(folders)
        with open_file_counter(sys.stderr) as counter:
            for place, folder in enumerate(folders, start=1):
                counter.label = "" if self.is_single else f"run {place} of {len(folders)}"
                try:
                    found = verify_run(folder, counter.take)
                except (OSError, RunNotFoundError) as error:
                    if self.is_single:
                        raise
                    counter.pause()
                    self._note_error(f"{folder.name}: cannot be checked: {error}")
                    continue
                finally:
                    counter.pause()
                self.status = max(self.status, _status(found))
                if self._as_json:
                    self.documents.append(_document(found))
                else:
                    _report(found)

    def total(self) -> str:
        """How many were checked."""
        groups = f" and {count(self._groups, 'group')}" if self._groups else ""
        return f"{count(self._runs, 'run')}{groups} checked"

    def _note_error(self, words: str) -> None:
        self.status = max(self.status, print_error(words, EXIT_ERROR))


def _report_group(found: GroupVerification) -> None:
    name = one_line(found.group_id)
    if found.corrupt:
        print_line(f"{name}: ", Mark("corrupt", WRONG), f": {found.corrupt}")
        return
    what = f"{count(found.events, 'event')}, {count(found.variants, 'variant')}, {found.state}"
    if found.running:
        print_line(f"{name}: sound so far: {what}; {found.running} is working on it")
    elif found.finished:
        torn = f"; {found.torn_bytes} torn bytes at the end" if found.torn_bytes else ""
        print_line(f"{name}: ", Mark("sound", GOOD), f": {what}{torn}")
    else:
        unfinished = Mark("sound but unfinished", DOUBTFUL)
        print_line(f"{name}: ", unfinished, f": {what}; resume would {found.advice}")


def _status(found: Verification | GroupVerification) -> int:
    if not found.sound:
        return EXIT_CORRUPT
    return 0 if found.finished else EXIT_ERROR


def _document(found: Verification | GroupVerification) -> dict[str, Any]:
    more = {"sound": found.sound, "finished": found.finished}
    return {**msgspec.to_builtins(found), **more}


def _report(found: Verification) -> None:
    absent = 0
    bundled = not found.corrupt and lacks_images(Path(found.folder))
    for flaw in found.flaws:
        if bundled and flaw.what == str(MISSING):
            absent += 1
        else:
            print_line(f"{found.run_id}: {flaw.place}: {flaw.what}")
    if absent:
        files = "1 file is" if absent == 1 else f"{absent} files are"
        print_line(f"{found.run_id}: {files} missing: this bundle was made without the image files")
    images = f"{found.images} of {count(found.planned_images, 'image')}"
    if found.removed_images:
        images = f"{images} (the files of {found.removed_images} were removed on purpose)"
    # After the point where a log is corrupt there may be more of them.
    known = [count(found.events, "event"), *([] if found.corrupt else [images]), found.state]
    what = ", ".join(known)
    if not found.sound:
        flaws = Mark(count(len(found.flaws), "flaw"), WRONG)
        print_line(f"{found.run_id}: ", flaws, f" in {what}{_cure(found)}")
    elif found.finished:
        print_line(f"{found.run_id}: ", Mark("sound", GOOD), f": {what}, sealed")
    elif found.running:
        print_line(f"{found.run_id}: sound so far: {what}; {found.running} is running it")
    else:
        unfinished = Mark("sound but unfinished", DOUBTFUL)
        print_line(f"{found.run_id}: ", unfinished, f": {what}; resume would {found.advice}")


def _cure(found: Verification) -> str:
    if found.corrupt:
        return "; salvage copies what is sound into a new run"
    return f"; resume would {found.advice}" if found.advice else ""
