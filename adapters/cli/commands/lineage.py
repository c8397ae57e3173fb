"""``lineage``: shows from which inputs, runs, stages and models an image came."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ....events.errors import RunNotFoundError
from ....events.model import BackendDescription, InputRecord
from ....events.origins import input_name
from ...backends.infotext_settings import ModelFile
from ...event_text import backend_text
from ...projections.foreign_images import tool_name
from ...projections.lineage import Lineage, LineageOrigin, LineageStep, OriginKind, lineage_of
from ...projections.used_settings import agree
from ...text import day_and_time
from ..completion import complete_run
from ..options import check_runs_folder, json_option, runs_option
from ..output import duration, print_json, print_line, print_settings, setting_text
from ..run_lookup import find_image
from ..statuses import EXIT_COMPLETED, EXIT_CORRUPT, print_error
from ..styles import file_mark
from .show import show_metadata, show_rows, variant_rows

_ELSEWHERE = ("prompt", "negative_prompt", "seed")
"""Settings that have lines of their own."""


@click.command("lineage")
@click.argument("image", shell_complete=complete_run)
@runs_option
@json_option
def lineage_command(image: str, runs: Path, as_json: bool) -> int:
    """Show from which inputs, runs and models an image came.

    Each stage is shown, from the image back to the prompt or the file that it all began with,
    over all runs: its settings, model hashes, server and times. Runs that were renamed or
    archived are found by the digests of their images.

    IMAGE is the path of an image, or RUN#3 for a run's third image.

    Exit status: 0 if the lineage was followed to its beginning, or to a run that is not here; 4 if
    a log is corrupt or contradicts another.
    """
    check_runs_folder(runs)
    file = find_image(runs, image)
    if file is None:
        raise RunNotFoundError(f"{image}: no such image; name its file, or RUN#3 for the third one")
    found = lineage_of(file, runs)
    if as_json:
        print_json(found)
    else:
        _show(found)
    if found.origin.kind is OriginKind.BROKEN:
        return print_error(f"{image}: {found.origin.text}", EXIT_CORRUPT)
    return EXIT_COMPLETED


def _show(found: Lineage) -> None:
    print_line(f"{'image':<15} ", file_mark(Path(found.image)))
    if found.steps:
        show_rows([("recorded", "this file" if found.exact else _CHANGED)])
    for place, step in enumerate(found.steps, start=1):
        print_line("")
        print_line(f"{place}. {step.stage_id}, image {step.artifact.number} of run {step.run_id}")
        show_rows(_rows(step))
        options = step.backend.options
        for title, settings in (
            ("settings", list(_settings(step))),
            ("options of the server", list(options.items()) if isinstance(options, dict) else []),
        ):
            if settings:
                print_line(f"{title}:")
                print_settings(settings)
        following = found.steps[place : place + 1]
        source = _source(step, following[0] if following else None)
        show_rows([("made from", source)] if source else [])
    _show_origin(found.origin)


_CHANGED = "these pixels, but the file has changed"


def _rows(step: LineageStep) -> Iterator[tuple[str, Any]]:
    made = step.artifact
    file = Path(step.image)
    yield "file", file_mark(file) if step.there else f"{file} (no longer there)"
    if step.group_id is not None:
        yield from variant_rows(step.group_id, step.variant_index, step.varied)
    if step.repeats is not None:
        yield "repeats", f"run {step.repeats}"
    when = day_and_time(step.finished)
    if step.made_by is None:
        yield "made", f"{when}, in {duration(step.duration_ms)}"
    else:
        yield "made by", f"run {step.made_by.run_id} (call {step.made_by.call_id})"
        yield "reused", when
    if step.not_checked:
        yield "not checked", ", ".join(step.not_checked)
    yield "server", _server(step.backend)
    yield "seed", made.seed
    yield "size", f"{made.width}x{made.height}"
    for name, text in (("prompt", step.prompt), ("negative prompt", step.negative_prompt)):
        if text:
            yield name, text
    for model in step.models:
        yield model.kind, _model(model)
    for one in step.further_inputs:
        yield "with", _input(one)


def _server(backend: BackendDescription) -> str:
    if backend.servers:
        return f"one of {backend_text(backend)}"
    product = " ".join(part for part in (backend.product, backend.version) if part)
    where = f" at {backend.url}" if backend.url else ""
    return f"{product or backend.kind}{where}"


def _model(model: ModelFile) -> str:
    told = f"hash {model.hash}" if model.hash else "hash not reported"
    return f"{model.name or 'name not reported'} ({told})"


def _settings(step: LineageStep) -> Iterator[tuple[str, Any]]:
    """The requested settings, with what the backend used instead; then what it reports besides."""
    schedules = {
        "scheduler": step.settings.get("scheduler"),
        "schedule": step.used.get("scheduler"),
    }
    for key, asked in step.settings.items():
        if key not in _ELSEWHERE:
            used = step.used.get(key)
            if used is None or agree(key, asked, used, **schedules):
                yield key, asked
            else:
                yield key, f"{setting_text(asked)} (the backend reports {setting_text(used)})"
    for key, used in step.used.items():
        if key not in step.settings and key not in _ELSEWHERE:
            yield key, f"{setting_text(used)} (left to the server)"


def _source(step: LineageStep, following: LineageStep | None) -> str:
    """What a step was made from; "" for the first one where the origin says it."""
    if following is None:
        return _input(step.from_input) if step.from_input else ""
    if following.run_id == step.run_id:
        return f"image {following.artifact.number} of {following.stage_id}"
    assert step.from_input is not None  # only an input leads into another run
    return f"{_input(step.from_input)}, of run {following.run_id}"


def _input(record: InputRecord) -> str:
    name = input_name(record) or record.path
    digest = record.original.sha256 if record.original else record.sha256
    return f"{name} (SHA-256 {digest[:16]}...)"


def _show_origin(origin: LineageOrigin) -> None:
    print_line("")
    rows: list[tuple[str, Any]] = [("begins with", origin.text)]
    if origin.name:
        rows += [("file", origin.name), ("SHA-256", origin.sha256)]
    found = origin.metadata
    if found is not None:
        rows.append(("made by", f"{tool_name(found)}, as its metadata says"))
    show_rows(rows)
    if found is not None:
        show_metadata(found)
