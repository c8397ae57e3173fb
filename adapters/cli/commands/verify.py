"""``verify``: checks logs and image files against their records."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from ....events.errors import RunNotFoundError
from ....statemachine.files.recorded_files import MISSING
from ....statemachine.files.run_folder import run_folders
from ....statemachine.resume.verify import Verification, verify_run
from ...export.bundle.manifest import lacks_images
from ..completion import complete_run
from ..display import open_file_counter
from ..output import (
    check_runs_folder,
    count,
    json_option,
    print_json,
    print_line,
    runs_option,
)
from ..run_lookup import find_run
from ..statuses import EXIT_CORRUPT, EXIT_ERROR, print_error
from ..styles import DOUBTFUL, GOOD, WRONG, Mark


@click.command("verify")
@click.argument("run", required=False, shell_complete=complete_run)
@click.option("--all", "every", is_flag=True, help="Check every run.")
@runs_option
@json_option
def verify_command(run: str | None, every: bool, runs: Path, as_json: bool) -> int:  # noqa: FBT001 - click passes flags
    """Check a run's log and image files; writes nothing.

    \b
    Exit status:
      0  sound
      1  sound but unfinished, or not readable
      4  the log is corrupt, or an image is missing or altered
    """
    if every == (run is not None):
        raise click.UsageError("verify needs either a RUN or --all")
    if every:
        check_runs_folder(runs)
    folders = list(run_folders(runs)) if every else [find_run(runs, run or "")]
    status = 0
    documents: list[dict[str, Any]] = []
    with open_file_counter(sys.stderr) as counter:
        for place, folder in enumerate(folders, start=1):
            counter.label = f"run {place} of {len(folders)}" if every else ""
            try:
                found = verify_run(folder, counter.take)
            except (OSError, RunNotFoundError) as error:
                if not every:
                    raise
                counter.pause()
                words = f"{folder.name}: cannot be checked: {error}"
                status = max(status, print_error(words, EXIT_ERROR))
                continue
            finally:
                counter.pause()
            status = max(status, _status(found))
            if as_json:
                documents.append(_document(found))
            else:
                _report(found)
    if as_json:
        print_json(documents if every else documents[0])
    elif every:
        print_line(f"{count(len(folders), 'run')} checked")
    return status


def _status(found: Verification) -> int:
    if not found.sound:
        return EXIT_CORRUPT
    return 0 if found.finished else EXIT_ERROR


def _document(found: Verification) -> dict[str, Any]:
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
