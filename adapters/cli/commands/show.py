"""``show``: shows which run, stage, seed and settings made an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ....events.errors import RunNotFoundError
from ....events.folds import replay
from ....events.origins import input_name
from ....statemachine.config.input_files import IMAGE_SUFFIXES
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
    of a run folder.
    """
    path = Path(image_or_run)
    if path.is_file():
        found = provenance_of(path, runs)
        if as_json:
            print_json(found)
        else:
            _show_image(found)
        return
    if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir():
        raise RunNotFoundError(f"{image_or_run}: no such image or run")
    folder = find_run(runs, image_or_run)
    result = replay(folder)
    if as_json:
        print_json_parts(result.json_parts())
    else:
        show_result(result, folder)


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
