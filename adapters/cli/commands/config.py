"""``config``: prints a configuration that makes an image or a run again."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ....events.errors import RunNotFoundError
from ....events.log.reader import iterate
from ....events.model import RunOpened
from ....statemachine.errors import ConfigurationError
from ....statemachine.groups.result import fold_group
from ...projections.configurations import (
    ChosenImage,
    config_of_foreign_image,
    config_of_group,
    config_of_run,
)
from ...projections.provenance import foreign_image, provenance_of
from ..completion import complete_run_or_group
from ..options import check_runs_folder, runs_option
from ..run_lookup import find_image, find_run_or_group


@click.command("config")
@click.argument(
    "image_or_run", metavar="IMAGE_OR_RUN_OR_GROUP", shell_complete=complete_run_or_group
)
@runs_option
def config_command(image_or_run: str, runs: Path) -> None:
    """Print a configuration of an image, run or group.

    It makes the same again.

    The image may also come from AUTOMATIC1111, Forge, ComfyUI, InvokeAI or Fooocus. What its
    metadata does not tell is a comment.

    Name the path of an image, RUN#3 for a run's third image, RUN, or GROUP.
    """
    check_runs_folder(runs)
    image = find_image(runs, image_or_run)
    if image is None:
        one = find_run_or_group(runs, image_or_run)
        text = _of_group(one.folder) if one.is_group else _of_run(one.folder, None)
    else:
        try:
            found = provenance_of(image, runs)
            chosen = ChosenImage(found.image_index, found.stage_id)
            text = _of_run(Path(found.run_folder), chosen)
        except RunNotFoundError:
            if (foreign := foreign_image(image)) is None:
                raise
            text = config_of_foreign_image(foreign)
    # Not through print_line: TOML escapes control characters itself.
    sys.stdout.write(text)


def _of_group(folder: Path) -> str:
    opened = fold_group(folder).opened
    assert opened is not None
    try:
        return config_of_group(opened)
    except RecursionError as error:  # the log is foreign
        raise ConfigurationError(f"{folder}: it is nested too deeply to be written") from error


def _of_run(folder: Path, image: ChosenImage | None) -> str:
    opened = next(iterate(folder))
    assert isinstance(opened, RunOpened)
    return config_of_run(opened, f"{folder.absolute().as_posix()}/", image)
