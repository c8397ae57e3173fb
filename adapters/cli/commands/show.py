"""``show``: shows which run, stage, seed and settings made an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ....events.errors import RunNotFoundError
from ....events.folds import replay
from ....events.origins import input_name
from ....events.result import PipelineRunResult
from ....statemachine.config.input_files import IMAGE_SUFFIXES
from ....statemachine.files.run_folder import split_image_number
from ...projections.provenance import ImageProvenance, provenance_of
from ..output import json_option, print_json, print_json_parts, print_line, runs_option
from ..run_lookup import find_run
from .replay import show_result


@click.command("show")
@click.argument("image_or_run")
@runs_option
@json_option
def show_command(image_or_run: str, runs: Path, as_json: bool) -> None:  # noqa: FBT001 - click passes flags
    """Show which settings made an image, or the result of a run.

    IMAGE_OR_RUN is the path of an image, a run id, a unique prefix of one, `last`, or the path
    of a run folder. RUN#3 is the third image of a run.
    """
    path = Path(image_or_run)
    if not path.is_file():
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir():
            raise RunNotFoundError(f"{image_or_run}: no such image or run")
        name, number = split_image_number(image_or_run)
        folder = find_run(runs, name)
        result = replay(folder)
        if number is None:
            _show_run(result, folder, as_json=as_json)
            return
        path = folder / _image_path(result, number)
    found = provenance_of(path, runs)
    if as_json:
        print_json(found)
    else:
        _show_image(found)


def _show_run(result: PipelineRunResult, folder: Path, *, as_json: bool) -> None:
    if as_json:
        print_json_parts(result.json_parts())
    else:
        show_result(result, folder)


def _image_path(result: PipelineRunResult, number: int) -> str:
    """The file of the image with a number, as the furthest stage made it."""
    for image in result.images:
        if image.image_index == number - 1:
            return image.path
    raise RunNotFoundError(f"run {result.run_id} has no image {number}")


def _show_image(found: ImageProvenance) -> None:
    rows: list[tuple[str, Any]] = [
        ("image", found.image),
        ("run", found.run_id),
        ("stage", found.stage_id),
        ("image number", found.image_index + 1),
        ("seed", found.artifact.seed),
        ("size", f"{found.artifact.width}x{found.artifact.height}"),
        ("recorded", "this file" if found.exact else "these pixels, but the file has changed"),
        ("backend", " ".join(part for part in found.backend if part)),
        ("made from", ", ".join(found.inputs) or "the prompt"),
    ]
    if found.origin is not None:
        run = found.origin.parent_run_id
        named = input_name(found.origin) or found.origin.path
        rows.append(("input image", f"{named}, of run {run}" if run else named))
    for name, value in rows:
        print_line(f"{name:<14} {value}")
    print_line("settings requested:")
    _show_settings(found.settings)
    print_line("settings used, as reported by the backend:")
    _show_settings(found.info)


def _show_settings(settings: Any, lead: str = "    ") -> None:
    for name, value in settings.items():
        print_line(f"{lead}{name:<22} {value}")
