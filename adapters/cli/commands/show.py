"""``show``: shows which run, stage, seed and settings made an image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from ....events.errors import RunNotFoundError
from ....events.folds import replay
from ....events.groups.fold import GroupFold
from ....events.groups.log import GROUP_LOG_NAME
from ....events.groups.model import GroupOpened, SweepAxis
from ....events.model import RunOpened
from ....events.origins import input_name, servers_of, varied_of
from ....events.ratings.log import Ratings
from ....events.result import PipelineRunResult
from ....statemachine.groups.result import GroupResult, fold_group, result_of
from ....statemachine.variants.axes import axis_keys
from ...event_text import backend_text
from ...projections.foreign_images import ForeignImage, tool_name
from ...projections.provenance import (
    ImageProvenance,
    foreign_image,
    provenance_of,
    settings_of_stages,
)
from ...projections.rating_text import rating_text
from ...projections.server_work import ServerShare, work_of_servers, work_text
from ...projections.used_settings import settings_asked, settings_used
from ...projections.varied_values import value_text, varied_text, varies_seed
from ...text import day_and_time
from ..completion import complete_run_or_group
from ..group_result import show_group
from ..options import check_runs_folder, json_option, runs_option
from ..output import count, print_json, print_json_parts, print_line, print_settings
from ..ratings import shown_ratings
from ..results import show_prompts, show_result
from ..run_lookup import find_image, find_run_or_group
from ..styles import Mark, file_mark

_PROMPTS = ("prompt", "negative_prompt")
_MOST_AXES = 12
_MOST_VALUES = 12


@click.command("show")
@click.argument(
    "image_or_run", metavar="IMAGE_OR_RUN_OR_GROUP", shell_complete=complete_run_or_group
)
@runs_option
@json_option
def show_command(image_or_run: str, runs: Path, as_json: bool) -> None:
    """Show an image's settings, or the result of a run or group.

    The image may also come from AUTOMATIC1111, Forge, ComfyUI, InvokeAI or Fooocus.

    Name the path of an image, RUN#3 for a run's third image, RUN, or GROUP.
    """
    check_runs_folder(runs)
    image = find_image(runs, image_or_run)
    if image is not None:
        _show_file(image, runs, as_json=as_json)
        return
    folder, is_group, runs = find_run_or_group(runs, image_or_run)
    if is_group:
        _show_group(folder, runs, as_json=as_json)
        return
    result = replay(folder)
    servers = _servers_of(result)
    if as_json:
        print_json_parts(result.json_parts({"servers": servers} if servers else None))
    else:
        show_result(result, folder)
        _show_servers(servers)
        _show_ratings(result, shown_ratings(runs))
        opened = result.events[0] if result.events else None
        if isinstance(opened, RunOpened) and opened.group_id is not None:
            show_rows(variant_rows(opened.group_id, opened.variant_index, varied_of(opened)))
        _show_stages(settings_of_stages(result.plan))
        if isinstance(opened, RunOpened) and isinstance(opened.prompts, tuple):
            show_prompts(opened.prompts)


def _show_group(folder: Path, runs: Path, *, as_json: bool) -> None:
    fold = fold_group(folder)
    result = result_of(fold, runs)
    if as_json:
        print_json(_group_document(fold, result))
        return
    show_rows(_group_rows(fold, folder))
    if fold.opened is not None and isinstance(fold.opened.options, Mapping) and fold.opened.options:
        print_line("options of the server:")
        print_settings(fold.opened.options.items())
    show_group(result, runs)


def variant_rows(
    group_id: str, index: int | None, varied: Mapping[str, Any]
) -> list[tuple[str, Any]]:
    """The group of a run, the number of its variant, and what is varied in it."""
    number = "" if index is None else f"variant {index + 1} of "
    return [("group", f"{number}{group_id}"), ("varied", varied_text(varied) or "nothing")]


def _show_file(image: Path, runs: Path, *, as_json: bool) -> None:
    found: ImageProvenance | ForeignImage | None
    try:
        made = provenance_of(image, runs)
        rating = shown_ratings(runs).of(made.artifact.source_sha256)
        found = msgspec.structs.replace(made, rating=rating)
    except RunNotFoundError as error:
        found = foreign_image(image)
        if found is None:
            raise
        why = str(error).removeprefix(f"{image}: ")
    if as_json:
        print_json(found)
    elif isinstance(found, ImageProvenance):
        _show_image(found)
    else:
        _show_foreign(found, why)


def _show_foreign(found: ForeignImage, why: str) -> None:
    """``why`` no log tells of the image."""
    rows: list[tuple[str, Any]] = [
        ("image", file_mark(Path(found.image))),
        ("made by", tool_name(found)),
        *([("run", found.run_id)] if found.run_id else []),
        ("recorded", f"{why}; what follows is from its metadata"),
    ]
    show_rows(rows)
    show_metadata(found)


def show_metadata(found: ForeignImage) -> None:
    """Print what the metadata of an image tells: the prompts, the seed, settings of each stage."""
    show_rows(
        [
            ("prompt", found.prompt),
            ("negative prompt", found.negative_prompt),
            ("seed", "not known" if found.seed is None else found.seed),
        ]
    )
    for stage, settings in found.stages.items():
        print_line(f"settings of {stage}:")
        print_settings(settings.items())
    if found.unknown:
        print_line("further metadata:")
        print_settings(found.unknown.items())


def _show_image(found: ImageProvenance) -> None:
    rows: list[tuple[str, Any]] = [
        ("image", file_mark(Path(found.image))),
        ("run", found.run_id),
        ("stage", found.stage_id),
        ("image number", found.image_index + 1),
        ("seed", found.artifact.seed),
        ("size", f"{found.artifact.width}x{found.artifact.height}"),
        ("recorded", "this file" if found.exact else "these pixels, but the file has changed"),
        ("backend", " ".join(part for part in found.backend if part)),
        ("made from", _source(found)),
        *([("rating", rating_text(found.rating))] if found.rating else []),
    ]
    if found.group_id is not None:
        rows[2:2] = variant_rows(found.group_id, found.variant_index, found.varied)
    if found.made_by is not None:
        made_by = f"run {found.made_by.run_id} (call {found.made_by.call_id}), reused here"
        rows.append(("made by", made_by))
    if found.not_checked:
        rows.append(("not checked", ", ".join(found.not_checked)))
    if found.origin is not None:
        run = found.origin.parent_run_id
        named = input_name(found.origin) or found.origin.path
        rows.append(("input image", f"{named}, of run {run}" if run else named))
    show_rows(rows)
    # The seed is that of the first image.
    _show_stages(found.stages, left_out=("seed",))
    kind = found.backend[0] if found.backend else ""
    stage_type = found.stage_id.partition("-")[2]
    used = settings_used(stage_type, found.info, kind)
    print_line(f"settings of {found.stage_id} that the backend reports:")
    print_settings((key, value) for key, value in used.items() if key not in _PROMPTS)


def _show_ratings(result: PipelineRunResult, ratings: Ratings) -> None:
    """The ratings of the images of a run that are rated."""
    texts = {one.number: rating_text(ratings.of(one.source_sha256)) for one in result.images}
    if any(texts.values()):
        print_line("ratings:")
        print_settings((f"image {number}", text) for number, text in texts.items() if text)


def _servers_of(result: PipelineRunResult) -> tuple[ServerShare, ...]:
    """What each of several servers made; the log is read again only where there are several."""
    opened = result.events[0] if result.events else None
    if not result.resumes and not (isinstance(opened, RunOpened) and servers_of(opened.backend)):
        return ()
    return work_of_servers(result.events)


def _show_servers(servers: Sequence[ServerShare]) -> None:
    """The images of each server, and its speed."""
    if servers:
        print_line("servers:")
        print_settings((server.url, work_text(server)) for server in servers)


def _source(found: ImageProvenance) -> str:
    """What the stage was given: the prompt alone, an input, or an image of the stage before."""
    if not found.inputs:
        return "the prompt"
    *earlier, _ = found.stages or ("",)
    return f"image {found.artifact.number} of {earlier[-1]}" if earlier else "its input image"


def show_rows(rows: Iterable[tuple[str, Any]]) -> None:
    """Print a line for each name and value."""
    for name, value in rows:
        print_line(f"{name:<15} ", value if isinstance(value, Mark) else str(value))


def _show_stages(stages: Mapping[str, Mapping[str, Any]], left_out: tuple[str, ...] = ()) -> None:
    """The prompts, and the settings of each stage; prompts of a stage that has its own."""
    shown: dict[str, Any] = {}
    for stage_id, config in stages.items():
        prompts = {key: config[key] for key in _PROMPTS if config.get(key)}
        for key, value in prompts.items():
            if shown.get(key) != value:
                print_line(f"{key.replace('_', ' '):<15} {value}")
        shown.update(prompts)
        print_line(f"settings of {stage_id}:")
        asked = settings_asked(config).items()
        hidden = (*_PROMPTS, *left_out)
        print_settings((key, value) for key, value in asked if key not in hidden)


def _group_document(fold: GroupFold, result: GroupResult) -> dict[str, Any]:
    """The result of a group, and what its first record holds.

    ``seed`` is null where the seed is varied: each variant has its own.
    """
    opened = fold.opened
    assert opened is not None
    names = ("name", "config", "random", "random_seed", "fail_fast", "backend", "software")
    return {
        **msgspec.to_builtins(result),
        **{name: getattr(opened, name) for name in names},
        "seed": None if varies_seed(opened.axes) else opened.seed,
        "options": None if opened.options is msgspec.UNSET else opened.options,
        "opened_at": opened.ts,
        "ended_at": fold.sealed.ts if fold.sealed else None,
        "resumes": fold.resumes,
    }


def _group_rows(fold: GroupFold, folder: Path) -> Iterator[tuple[str, str | Mark]]:
    """The configuration's name, the axes, the seed, the server and the times."""
    opened = fold.opened
    assert opened is not None
    yield "group", opened.group_id
    yield "name", opened.name
    for place, axis in enumerate(opened.axes[:_MOST_AXES]):
        yield "" if place else "varies", _axis_text(axis)
    if opened.random is not None:
        yield (
            "drawn",
            f"{count(opened.random, 'variant')} of the product, seed {opened.random_seed}",
        )
    if not varies_seed(opened.axes):
        yield "seed", _seed_text(opened)
    backend = opened.backend
    kind = f"{backend.kind} " if backend.product else ""
    yield "backend", f"{kind}{backend_text(backend)}"
    yield "software", opened.software
    yield "opened", day_and_time(opened.ts)
    if fold.sealed is not None:
        yield "ended", day_and_time(fold.sealed.ts)
    if fold.resumes:
        yield "resumed", count(fold.resumes, "time")
    yield "log", file_mark(folder / GROUP_LOG_NAME)


def _axis_text(axis: SweepAxis) -> str:
    keys = " + ".join(map(value_text, axis_keys(axis)[:_MOST_AXES]))
    values = ", ".join(map(value_text, axis.values[:_MOST_VALUES]))
    more = len(axis.values) - _MOST_VALUES
    return f"{keys}: {values}{f', and {more} more' if more > 0 else ''}"


def _seed_text(opened: GroupOpened) -> str:
    stated = opened.config.get("seed", -1)
    return f"{opened.seed}, drawn once for all runs" if stated == -1 else value_text(stated)
