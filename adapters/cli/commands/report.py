"""``report``: a run as one page that can be looked at, kept and handed on."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ...export.report import WrittenReport, write_report
from ...export.report.quantities import byte_size
from ..display import open_file_counter
from ..output import count, json_option, output_option, print_json, runs_option, say
from ..run_lookup import find_run
from ..statuses import EXIT_COMPLETED, EXIT_CORRUPT, complain

_SHOWN = 5
"""Of the files that are missing or altered; the page names them all."""


@click.command("report")
@click.argument("run")
@output_option("The page to write.  [default: <run id>.html]")
@click.option("--no-thumbnails", is_flag=True, help="Leave the images' thumbnails out.")
@runs_option
@json_option
def report_command(
    run: str,
    output: Path | None,
    no_thumbnails: bool,  # noqa: FBT001 - click passes flags
    runs: Path,
    as_json: bool,  # noqa: FBT001 - the same
) -> int:
    """Make one HTML page of RUN: its timeline, stages, images and every event.

    The page needs no network and no other file. An earlier report is replaced, any other file
    is not.

    RUN is a run id, a unique prefix of one, `last`, or the path of a run folder.

    Exit status 4: the log is corrupt, or an image altered; the page is there all the same.
    """
    folder = find_run(runs, run)
    output = output or Path(f"{folder.resolve().name}.html")
    with open_file_counter(sys.stderr) as counter:
        written = write_report(folder, output, thumbnails=not no_thumbnails, on_file=counter.take)
    if as_json:
        print_json(written)
    else:
        _tell(written)
    return _status(written)


def _tell(written: WrittenReport) -> None:
    what = f"{count(written.events, 'event')}, {count(written.images, 'image')}"
    say(f"{written.path}: {what}, {byte_size(written.bytes)}")
    wrong = {"not what was recorded": written.altered, "missing or unreadable": written.missing}
    for words, paths in wrong.items():
        for path in paths[:_SHOWN]:
            say(f"  {words}: {path}")
        if len(paths) > _SHOWN:
            say(f"  ... and {count(len(paths) - _SHOWN, 'more file')} {words}")


def _status(written: WrittenReport) -> int:
    if written.corrupt:
        return complain(written.corrupt, EXIT_CORRUPT)
    if written.altered:
        first = written.altered[0]
        more = f" and {len(written.altered) - 1} more" if len(written.altered) > 1 else ""
        return complain(f"{first}{more}: not what was recorded", EXIT_CORRUPT)
    return EXIT_COMPLETED
