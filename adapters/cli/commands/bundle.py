"""``bundle``: packs a run into a zip for a bug report."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ...export.bundle import Bundle, bundle_run
from ...text import byte_size
from ..completion import complete_run
from ..display import open_file_counter
from ..options import json_option, output_option, runs_option
from ..output import count, first_lines, print_json, print_line
from ..run_lookup import find_run
from ..statuses import EXIT_COMPLETED, EXIT_CORRUPT

_SHOWN = 10


@click.command("bundle")
@click.argument("run", shell_complete=complete_run)
@output_option("The zip file to write.  [default: <run id>.bundle.zip]")
@click.option("--images", is_flag=True, help="Include the input images and all images.")
@click.option("--no-thumbnails", is_flag=True, help="Leave out the thumbnails of the images.")
@runs_option
@json_option
def bundle_command(
    run: str,
    output: Path | None,
    images: bool,
    no_thumbnails: bool,
    runs: Path,
    as_json: bool,
) -> int:
    """Pack RUN into a zip for a bug report.

    The zip holds the log, thumbnails of the images, and the versions of the software. Once
    unpacked, it can be replayed on any machine. Credentials that a name or a form gives away,
    mail addresses, folder names and machine names are replaced. Prompts are kept as they are.

    Exit status: 0 if the zip was written; 4 if it was written, but the log is corrupt or an
    image was altered.
    """
    with open_file_counter(sys.stderr) as counter:
        made = bundle_run(
            find_run(runs, run),
            output,
            images=images,
            thumbnails=not no_thumbnails,
            on_file=counter.take,
        )
    if as_json:
        print_json(made)
    else:
        _show(made)
    return EXIT_CORRUPT if made.manifest.corrupt or made.altered else EXIT_COMPLETED


def _show(made: Bundle) -> None:
    manifest = made.manifest
    print_line(f"{made.file}: {byte_size(made.bytes)}")
    if manifest.records:
        print_line(f"  {count(manifest.records, 'record')}; state {manifest.state}")
    else:
        print_line("  no record of the log is readable; the zip holds no log")
    if manifest.corrupt:
        print_line(f"  the log is corrupt: {manifest.corrupt}")
    if manifest.not_in_log is not None:
        left = manifest.not_in_log
        print_line(f"  left out: {left.bytes} bytes of the log from byte {left.offset} on")
    images = count(manifest.images, "image file") if manifest.with_images else "no image files"
    print_line(f"  {count(manifest.thumbnails, 'thumbnail')}, {images}")
    if manifest.images:
        print_line("  the image files are copied unchanged, with the prompts in their metadata")
    left_out = [f"  left out: {path}: {why}" for path, why in manifest.not_bundled.items()]
    for line in first_lines(left_out, _SHOWN, "  ... and {} more files are left out"):
        print_line(line)
    for kind, replacements in manifest.replaced.items():
        print_line(f"  replaced: {kind}: {replacements}")
    print_line("Check it before you share it: prompts are not changed.")
    print_line(f"To read it, unpack it and run: stagewright replay {made.folder}")
