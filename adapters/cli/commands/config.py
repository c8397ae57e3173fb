"""``config``: prints a configuration that makes an image or a run again."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ....events.errors import RunNotFoundError
from ....events.log.reader import iterate
from ....events.model import RunOpened
from ...projections.configurations import ChosenImage, config_of_foreign_image, config_of_run
from ...projections.provenance import foreign_image, provenance_of
from ..completion import complete_run
from ..output import check_runs_folder, runs_option
from ..run_lookup import find_image, find_run


@click.command("config")
@click.argument("image_or_run", shell_complete=complete_run)
@runs_option
def config_command(image_or_run: str, runs: Path) -> None:
    """Print a configuration that makes an image or a run again.

    The image may also come from AUTOMATIC1111, Forge, ComfyUI, InvokeAI or Fooocus. What its
    metadata does not tell is a comment.

    IMAGE_OR_RUN is the path of an image, RUN#3 for a run's third image, or RUN.
    """
    check_runs_folder(runs)
    image = find_image(runs, image_or_run)
    if image is None:
        text = _of_run(find_run(runs, image_or_run), None)
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


def _of_run(folder: Path, image: ChosenImage | None) -> str:
    opened = next(iterate(folder))
    assert isinstance(opened, RunOpened)
    return config_of_run(opened, f"{folder.absolute().as_posix()}/", image)
