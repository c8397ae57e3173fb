"""``bundle``: packs a run into a zip for a bug report."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ...export.bundle import Bundle, bundle_run
from ...text import byte_size
from ..display import open_file_counter
from ..output import count, json_option, output_option, print_json, print_line, runs_option
from ..run_lookup import find_run
from ..statuses import EXIT_COMPLETED, EXIT_CORRUPT

_SHOWN = 10


@click.command("bundle")
@click.argument("run")
@output_option("The zip file to write.  [default: <run id>.bundle.zip]")
@click.option("--images", is_flag=True, help="Include the input images and all images.")
@click.option("--no-thumbnails", is_flag=True, help="Leave out the thumbnails of the images.")
@runs_option
@json_option
def bundle_command(
    run: str,
    output: Path | None,
    images: bool,  # noqa: FBT001 - click passes flags
    no_thumbnails: bool,  # noqa: FBT001 - the same
    runs: Path,
    as_json: bool,  # noqa: FBT001 - the same
) -> int:
    """Pack RUN into a zip for a bug report.

    The zip holds the log, thumbnails of the images, and the versions of the software. Once
    unpacked, it can be replayed on any machine. Credentials that a name or a form gives away,
    mail addresses, folder names and machine names are replaced. Prompts, settings and messages
    of servers are kept as they are.

    RUN is a run id, a unique prefix of one, `last`, or the path of a run folder.

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
    if manifest.log is None:
        print_line("  no record of the log is readable; the zip holds only the manifest")
    else:
        lost = " (renumbered, because some are lost)" if manifest.log.renumbered else ""
        print_line(f"  {count(manifest.log.records, 'record')}{lost}; state {manifest.log.state}")
    if manifest.corrupt:
        print_line(f"  the log is corrupt: {manifest.corrupt}")
    for one in manifest.not_in_log[:_SHOWN]:
        print_line(f"  left out: {one.bytes} bytes of the log from byte {one.offset} on")
    whole = count(manifest.images, "image file") if manifest.with_images else "no image files"
    print_line(f"  {count(manifest.thumbnails, 'thumbnail')}, {whole}")
    for file in manifest.not_bundled[:_SHOWN]:
        print_line(f"  left out: {file.path}: {file.why}")
    if manifest.not_bundled_count > _SHOWN:
        print_line(f"  ... and {manifest.not_bundled_count - _SHOWN} more files are left out")
    for left in manifest.left_out:
        print_line(f"  replaced: {left.what}: {left.count}")
    print_line("Check it before you share it: prompts and messages of servers are not changed.")
    print_line(f"To read it, unpack it and run: stagewright replay {made.folder}")
