"""``report``: writes a run as one HTML page."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path

import click

from ...export.report import WrittenReport, write_report
from ...export.report.group_report import REPORT_NAME, WrittenGroupReport, write_group_report
from ...text import byte_size
from ..completion import complete_run_or_group
from ..display import open_file_counter
from ..options import json_option, output_option, runs_option
from ..output import count, first_lines, print_json, print_line
from ..ratings import shown_ratings
from ..run_lookup import find_run_or_group
from ..statuses import EXIT_COMPLETED, EXIT_CORRUPT, print_error

_SHOWN = 5
"""How many missing or altered files are printed; the page names all of them."""


@click.command("report")
@click.argument("run", metavar="RUN_OR_GROUP", shell_complete=complete_run_or_group)
@output_option(
    "The HTML file to write.  [default: <run id>.html beside the run's folder, or "
    "report.html in the group's]"
)
@click.option("--open", "opens", is_flag=True, help="Open the page in the browser.")
@click.option("--no-thumbnails", is_flag=True, help="Leave out the thumbnails of the images.")
@runs_option
@json_option
def report_command(
    run: str,
    output: Path | None,
    opens: bool,
    no_thumbnails: bool,
    runs: Path,
    as_json: bool,
) -> int:
    """Write a run or a group as one HTML page.

    The page shows the timeline, the stages, the images and every event, and needs no network.
    A click on an image opens its file in full size. It replaces an earlier report, but no other
    file. Of a group it shows the variants in rows and columns, which are chosen in the page, and
    compares images.

    Exit status: 0 if the page was written; 4 if it was written, but the log is corrupt or an
    image was altered.
    """
    folder, is_group, runs = find_run_or_group(runs, run)
    output = output or (
        folder / REPORT_NAME if is_group else folder.parent / f"{folder.resolve().name}.html"
    )
    written: WrittenReport | WrittenGroupReport
    with open_file_counter(sys.stderr) as counter:
        if is_group:
            written = write_group_report(
                folder, runs, output, thumbnails=not no_thumbnails, on_variant=counter.take
            )
        else:
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
    if opens:
        _open(output)
    return _status(written)


def _open(output: Path) -> None:
    if not webbrowser.open(output.absolute().as_uri()):
        print_error(f"no browser was found; open {output} yourself", EXIT_COMPLETED)


def _show(written: WrittenReport | WrittenGroupReport) -> None:
    if isinstance(written, WrittenGroupReport):
        what = count(written.variants, "variant")
    else:
        what = count(written.events, "event")
    images = count(written.images, "image")
    print_line(f"{written.path}: {what}, {images}, {byte_size(written.bytes)}")
    wrong = {"altered": written.altered, "missing or unreadable": written.missing}
    for words, paths in wrong.items():
        lines = [f"  {words}: {path}" for path in paths]
        more = f"  ... and {{}} more file{'' if len(paths) == _SHOWN + 1 else 's'} {words}"
        for line in first_lines(lines, _SHOWN, more):
            print_line(line)


def _status(written: WrittenReport | WrittenGroupReport) -> int:
    if isinstance(written, WrittenReport) and written.corrupt:
        return print_error(written.corrupt, EXIT_CORRUPT)
    if written.altered:
        first, *others = written.altered
        more = f" and {len(others)} more" if others else ""
        return print_error(f"{first}{more}: altered since it was recorded", EXIT_CORRUPT)
    return EXIT_COMPLETED
