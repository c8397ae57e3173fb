"""``bundle``: a run as a zip for a bug report."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ...export.bundle import Bundle, bundle_run
from ..display import open_file_counter
from ..output import count, json_option, output_option, print_json, runs_option, say
from ..run_lookup import find_run
from ..statuses import EXIT_COMPLETED, EXIT_CORRUPT

_SHOWN = 10


@click.command("bundle")
@click.argument("run")
@output_option("The zip to write.  [default: <run id>.bundle.zip]")
@click.option("--images", is_flag=True, help="Put the input images and images in as well.")
@click.option("--no-thumbnails", is_flag=True, help="Leave the images' thumbnails out.")
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
    """Make a zip of RUN for a bug report, which replays on another machine.

    Known secrets are left out of it: credentials that show by their name or shape, mail
    addresses, home folders and others, names of machines. Prompts, settings and the words of
    servers are not. It holds the log, thumbnails of the images, and which software made them.

    RUN is a run id, a unique prefix of one, `last`, or the path of a run folder.

    Exit status 0: made; 4: made, and the log is corrupt or an image altered.
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
        _tell(made)
    return EXIT_CORRUPT if made.manifest.corrupt or made.altered else EXIT_COMPLETED


def _tell(made: Bundle) -> None:
    manifest = made.manifest
    say(f"{made.file}: {made.bytes / 1000:.0f} kB")
    if manifest.log is None:
        say("  not one record of the log can be told; what is in it is the manifest")
    else:
        lost = ", numbered anew, for some are lost" if manifest.log.renumbered else ""
        say(f"  {count(manifest.log.records, 'record')}{lost}; state {manifest.log.state}")
    if manifest.corrupt:
        say(f"  the log is corrupt: {manifest.corrupt}")
    for one in manifest.not_in_log[:_SHOWN]:
        say(f"  not in it: {one.bytes} bytes of the log from byte {one.offset} on")
    whole = count(manifest.images, "image file") if manifest.with_images else "no image files"
    say(f"  {count(manifest.thumbnails, 'thumbnail')}, {whole}")
    for file in manifest.not_bundled[:_SHOWN]:
        say(f"  not in it: {file.path}: {file.why}")
    if manifest.not_bundled_count > _SHOWN:
        say(f"  ... and {manifest.not_bundled_count - _SHOWN} more files are not in it")
    for left in manifest.left_out:
        say(f"  left out: {left.what}: {left.count}")
    say("look through it before you hand it on: prompts and servers' words are as they were")
    say(f"once it is unpacked:  stagewright replay {made.folder}")
