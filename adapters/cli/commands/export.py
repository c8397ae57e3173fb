"""``export``: copies images under names of the user's choice."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from ....events.errors import LogCorruptError, RunNotFoundError
from ....statemachine.groups.folder import variant_folders
from ....statemachine.groups.result import fold_group
from ...bootstrap import new_storage
from ...export.images.export import FORMATS, ImageExport, ImageExporter, RunImages
from ...export.images.names import GROUP_TEMPLATE, RUN_TEMPLATE, NameTemplate
from ..completion import complete_run_or_group
from ..display import open_file_counter
from ..image_choice import ImageChoice, choose_images, only_option
from ..options import check_runs_folder, json_option, runs_option
from ..output import count, first_lines, print_json, print_line
from ..ratings import shown_ratings
from ..run_lookup import find_run_or_group
from ..statuses import EXIT_COMPLETED, EXIT_CORRUPT, print_error

_SHOWN = 10


@click.command("export")
@click.argument("name", metavar="RUN_OR_GROUP", shell_complete=complete_run_or_group)
@only_option
@click.option(
    "--to",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for the copies.",
)
@click.option("--name", "template", metavar="NAME", help="Name of each file, with {fields}.")
@click.option(
    "--format",
    "image_format",
    type=click.Choice(list(FORMATS)),
    help="Format of the copies.  [default: that of each image]",
)
@click.option("--replace", is_flag=True, help="Replace files that have other content.")
@runs_option
@json_option
def export_command(
    name: str,
    only: ImageChoice | None,
    to: Path,
    template: str | None,
    image_format: str | None,
    replace: bool,
    runs: Path,
    as_json: bool,
) -> int:
    """Copy the final images of a run or a group.

    NAME is "{name}-{number:03}-{seed}" by default, for a group with {variant:03}. Its fields are
    name, number, seed, run, stage, group, variant, date, rating (0 without one), and the keys that
    a sweep varies, such as {txt2img.cfg_scale}. Images that are not converted are copied byte for
    byte; JPEG and WebP keep the text with the settings. In a group, a number in LIST is that of an
    image in each variant.

    Exit status: 0 if all were copied or were there already; 4 if an image is missing or altered, or
    the log of a run is corrupt: the other images are copied.
    """
    check_runs_folder(runs)
    found = find_run_or_group(runs, name)
    folders = _variants(found.folder, found.runs) if found.is_group else [found.folder]
    owner = f"{'group' if found.is_group else 'run'} {found.folder.name}"
    ratings = shown_ratings(found.runs)
    read, unreadable = _read(folders) if found.is_group else ([RunImages.read(folders[0])], {})
    chosen = choose_images([one.result for one in read], only, ratings.of, owner)
    images = [(run, image) for run, found in zip(read, chosen, strict=True) for image in found]
    exporter = ImageExporter(
        to,
        NameTemplate(template or (GROUP_TEMPLATE if found.is_group else RUN_TEMPLATE)),
        image_format=image_format,
        replace=replace,
        storage=new_storage(),
    )
    with open_file_counter(sys.stderr) as counter:
        made = exporter.export(images, ratings.of, counter.take)
    made = msgspec.structs.replace(made, left_out={**unreadable, **made.left_out})
    if as_json:
        print_json(made)
    else:
        _show(made)
    status = EXIT_CORRUPT if made.left_out else EXIT_COMPLETED
    left_out = [f"{path}: not exported: {why}" for path, why in made.left_out.items()]
    for line in first_lines(left_out, _SHOWN, "{} more are not exported"):
        print_error(line, status)
    return status


def _variants(group: Path, runs: Path) -> list[Path]:
    """The folders of a group's runs, in the order of its variants."""
    fold = fold_group(group)
    folders = variant_folders(runs, fold.group_id, fold.run_ids)
    return [folders[index] for index in sorted(folders)]


def _read(folders: Sequence[Path]) -> tuple[list[RunImages], dict[str, str]]:
    """The images of a group's runs, and why the others, by their folders, cannot be read.

    Raises LogCorruptError or OSError where none can be read.
    """
    read: list[RunImages] = []
    unreadable: dict[str, str] = {}
    for folder in folders:
        try:
            read.append(RunImages.read(folder))
        except (LogCorruptError, RunNotFoundError, OSError) as error:
            if folder == folders[-1] and not read:
                raise
            unreadable[str(folder)] = str(error)
    return read, unreadable


def _show(made: ImageExport) -> None:
    copied = sum(image.copied for image in made.images)
    there = len(made.images) - copied
    known = f"; {count(there, 'image')} there already" if there else ""
    print_line(f"{count(copied, 'image')} copied to {made.to}{known}")
