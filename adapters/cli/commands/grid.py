"""``grid``: draws the images of a run or a group side by side."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ...text import byte_size
from ..completion import complete_run_or_group
from ..display import open_file_counter
from ..options import check_runs_folder, json_option, output_option, runs_option
from ..output import count, first_lines, print_json, print_line
from ..run_lookup import find_run_or_group
from ..statuses import EXIT_COMPLETED, print_error

_SHOWN = 20


@click.command("grid")
@click.argument("run_or_group", shell_complete=complete_run_or_group)
@click.option(
    "--stage", help="Stage whose images are drawn (upscale, 01-upscale).  [default: last]"
)
@click.option("--rows", metavar="KEY", help="Varied key of the rows.  [default: the first]")
@click.option("--columns", metavar="KEY", help="Varied key of the columns.  [default: the second]")
@output_option("The PNG file to write.  [default: <id>.png in the folder of runs]")
@runs_option
@json_option
def grid_command(
    run_or_group: str,
    stage: str | None,
    rows: str | None,
    columns: str | None,
    output: Path | None,
    runs: Path,
    as_json: bool,
) -> int:
    """Draw the images of a run or a group as a PNG.

    A group has a row and a column for each value of two varied keys, and a block for each
    combination of the others; one axis alone is the columns. A cell without an image says why. Each
    image has the name by which commands find it, such as 7f3a9c#2. Columns that are too many for
    the width continue below. What does not fit one sheet becomes several, FILE-1.png, FILE-2.png.
    An earlier sheet is replaced, but no other file.
    """
    # Pillow takes 20 ms to load, which `--help` need not wait for.
    from ...export.sheet import (  # noqa: PLC0415 - see above
        SheetRefusedError,
        group_content,
        run_content,
        write_sheets,
    )

    check_runs_folder(runs)
    found = find_run_or_group(runs, run_or_group)
    folder = found.folder
    if found.is_group:
        content = group_content(folder, found.runs, stage, rows, columns)
    elif rows or columns:
        raise SheetRefusedError("--rows and --columns are for groups: a run has no varied keys")
    else:
        content = run_content(folder, stage)
    with open_file_counter(sys.stderr, "drawing") as counter:
        written = write_sheets(
            content, output or runs / f"{folder.resolve().name}.png", counter.take
        )
    if as_json:
        print_json(written)
    else:
        missing = f", {written.missing} missing" if written.missing else ""
        print_line(f"{written.title}: {count(written.images, 'image')}{missing}")
        for sheet in written.sheets:
            print_line(f"  {sheet.path}: {sheet.width}x{sheet.height}, {byte_size(sheet.bytes)}")
    for message in first_lines(written.unreadable, _SHOWN, "{} more"):
        print_error(f"not drawn: {message}", EXIT_COMPLETED)
    if written.escaped:
        print_error(_about_fonts(written.escaped), EXIT_COMPLETED)
    return EXIT_COMPLETED


def _about_fonts(escaped: tuple[str, ...]) -> str:
    some = " ".join(escaped[:_SHOWN])
    more = f" and {len(escaped) - _SHOWN} more" if len(escaped) > _SHOWN else ""
    return (
        f"no font here has {some}{more}: they are written as escapes (\\u6771); "
        "install one that does, such as Noto Sans CJK or DejaVu Sans"
    )
