"""``show``: shows which run, stage, seed and settings made an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ....events.folds import replay
from ...projections.provenance import ImageProvenance, provenance_of
from ..output import json_option, print_json, print_json_parts, print_line, runs_option
from ..run_lookup import find_image, find_run
from .replay import show_result


@click.command("show")
@click.argument("image_or_run")
@runs_option
@json_option
def show_command(image_or_run: str, runs: Path, as_json: bool) -> None:  # noqa: FBT001 - click passes flags
    """Show which settings made an image, or the result of a run.

    IMAGE_OR_RUN is the path of an image, RUN#3 for a run's third image, or RUN. RUN is a run id, a
    unique prefix of one, its six digits, a name that only one run has, `last`, or the path of a run
    folder.
    """
    image = find_image(runs, image_or_run)
    if image is not None:
        found = provenance_of(image, runs)
        if as_json:
            print_json(found)
        else:
            _show_image(found)
        return
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
    for name, value in rows:
        print_line(f"{name:<14} {value}")
    print_line("settings requested:")
    _show_settings(found.settings)
    print_line("settings used, as reported by the backend:")
    _show_settings(found.info)


def _show_settings(settings: Any, lead: str = "    ") -> None:
    for name, value in settings.items():
        print_line(f"{lead}{name:<22} {value}")
