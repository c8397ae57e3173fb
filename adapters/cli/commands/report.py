"""``report``: writes a run as one HTML page."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path

import click

from ...export.report import WrittenReport, write_report
from ...text import byte_size
from ..completion import complete_run
from ..display import open_file_counter
from ..output import count, json_option, output_option, print_json, print_line, runs_option
from ..ratings import shown_ratings
from ..run_lookup import find_run
from ..statuses import EXIT_COMPLETED, EXIT_CORRUPT, print_error

_SHOWN = 5
"""How many missing or altered files are printed; the page names all of them."""


@click.command("report")
@click.argument("run", shell_complete=complete_run)
@output_option("The HTML file to write.  [default: <run id>.html beside the run's folder]")
@click.option("--open", "opens", is_flag=True, help="Open the page in the browser.")
@click.option("--no-thumbnails", is_flag=True, help="Leave out the thumbnails of the images.")
@runs_option
@json_option
def report_command(
    run: str,
    output: Path | None,
    opens: bool,  # noqa: FBT001 - click passes flags
    no_thumbnails: bool,  # noqa: FBT001 - the same
    runs: Path,
    as_json: bool,  # noqa: FBT001 - the same
) -> int:
    """Write a run as one HTML page.

    The page shows the timeline, the stages, the images and every event, and needs no network
    and no other file. It replaces an earlier report, but no other file.

    Exit status: 0 if the page was written; 4 if it was written, but the log is corrupt or an
    image was altered.
    """
    folder = find_run(runs, run)
    output = output or folder.parent / f"{folder.resolve().name}.html"
    with open_file_counter(sys.stderr) as counter:
        written = write_report(
            folder,
            output,
            ratings=shown_ratings(runs),
            thumbnails=not no_thumbnails,
            on_file=counter.take,
        )
    if as_json:
        print_json(written)
    else:
        _show(written)
    if opens and not webbrowser.open(output.absolute().as_uri()):
        print_error(f"no browser was found; open {output} yourself", EXIT_COMPLETED)
    return _status(written)


def _show(written: WrittenReport) -> None:
    what = f"{count(written.events, 'event')}, {count(written.images, 'image')}"
    print_line(f"{written.path}: {what}, {byte_size(written.bytes)}")
    wrong = {"altered": written.altered, "missing or unreadable": written.missing}
    for words, paths in wrong.items():
        for path in paths[:_SHOWN]:
            print_line(f"  {words}: {path}")
        if len(paths) > _SHOWN:
            print_line(f"  ... and {count(len(paths) - _SHOWN, 'more file')} {words}")


def _status(written: WrittenReport) -> int:
    if written.corrupt:
        return print_error(written.corrupt, EXIT_CORRUPT)
    if written.altered:
        first = written.altered[0]
        more = f" and {len(written.altered) - 1} more" if len(written.altered) > 1 else ""
        return print_error(f"{first}{more}: altered since it was recorded", EXIT_CORRUPT)
    return EXIT_COMPLETED
