"""The configuration of a rerun: the images of an earlier run once more, with changed settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ...events.model import InputRecord, RunOpened
from ...events.origins import input_name, prompt_of
from ..config.document import apply_overrides, parse_document
from ..config.input_files import inspect_image, refused_image
from ..config.legacy import nested_key
from ..config.schema import InputImage, RunConfig
from ..config.script_images import find_script_images, map_strings
from ..config.validation import list_values
from ..errors import ConfigurationError, ResumeRefusedError
from ..files.recorded_files import check_file
from ..files.run_folder import name_in_run_id
from ..plan.plan import StageExecutionPlan
from ..ports import InputReader
from ..stages.registry import stage_types
from .creation import PlannedRun, RerunOrigin
from .requests import SCRIPT_IMAGES, input_records
from .reuse_plan import ComparedRun

_OF_THE_PARENT = ("images", "prompts", "dynamic_prompts", "wildcards", "input_image", "sweep")
"""Keys that a rerun takes from its parent, image by image."""
Copies = Callable[[InputRecord], InputImage]
"""Gives the copy of a recorded image as an input image."""
_CHANCE = -1
"""A seed that is left to chance."""


class Rerun(NamedTuple):
    """A rerun that was checked, and the run that it repeats."""

    planned: PlannedRun
    parent: ComparedRun


def prepare_rerun(
    parent: ComparedRun,
    *,
    images: Sequence[int] | None,
    overrides: Sequence[str],
    inputs: InputReader,
) -> Rerun:
    """The rerun of ``images`` (indexes; None: all) of an earlier run.

    Paths in ``overrides`` are relative to the working folder. Where they name another server, that
    of the parent is not recorded. Raises ConfigurationError for overrides that cannot be used,
    ResumeRefusedError for a configuration that this version does not understand, InputImageError
    for an input that has changed.
    """
    opened, plan = parent.opened, parent.plan
    chosen = tuple(range(plan.total_images)) if images is None else tuple(images)
    if not chosen:
        raise ConfigurationError(f"{opened.run_id}: no image is chosen")
    given = _recorded_document(opened, plan)
    typed = frozenset(override.partition("=")[0].strip() for override in overrides)
    for key in sorted(typed):
        if nested_key(key, given).split(".")[0] in _OF_THE_PARENT:
            raise ConfigurationError(
                f"--set {key}: a rerun takes it from the run that it repeats; "
                "`config` prints the configuration of that run, for a new run",
                key=key,
            )
    counted = _seed_indexes(opened, chosen)
    are_in_a_row = counted == list(range(counted[0], counted[0] + len(counted)))
    document = _document(given, opened, plan, chosen, typed)
    document = apply_overrides(document, overrides)
    _set_seeds(document, counted, typed, are_in_a_row=are_in_a_row)
    copies = _copies_of(parent.folder, inputs)
    config = parse_document(
        document,
        name=opened.config.get("name") or name_in_run_id(opened.run_id),
        found=_found_files(opened, plan, chosen, copies, typed),
    )
    config = _with_typed_files(config, typed, inputs)
    origin = RerunOrigin(opened.run_id, chosen, () if are_in_a_row else tuple(counted))
    backend = None if "server.url" in typed else parent.backend
    return Rerun(PlannedRun(config, origin=origin, backend=backend), parent)


def _recorded_document(opened: RunOpened, plan: StageExecutionPlan) -> dict[str, Any]:
    """The recorded configuration with nested keys alone. Raises ResumeRefusedError."""
    found: dict[str, Any] = {}
    if "input_image" not in opened.config and plan.stages[0].input_source == "file":
        # That of a rerun names no files; only their number is looked at here.
        records = opened.inputs[: plan.input_count]
        found["inputs"] = tuple(refused_image(Path(one.path), "not read") for one in records)
    try:
        # That of a run from files names them, as they were found then.
        return parse_document(opened.config, found=found).document()
    except ConfigurationError as error:
        raise ResumeRefusedError(
            f"{opened.run_id}: its configuration cannot be used any more: {error}"
        ) from error


def _document(
    given: Mapping[str, Any],
    opened: RunOpened,
    plan: StageExecutionPlan,
    chosen: Sequence[int],
    typed: Set[str],
) -> dict[str, Any]:
    """The recorded configuration, with a row for each chosen image, and with the drawn seeds."""
    document = {key: value for key, value in given.items() if key not in _OF_THE_PARENT}
    for stage in plan.stages:
        table = document.get(stage.stage_type)
        for key in ("seed", "subseed"):
            if isinstance(table, dict) and table.get(key) == _CHANCE:
                table[key] = getattr(stage.config, key)
    document["prompts"] = [dict(_row(opened, plan, index, document, typed)) for index in chosen]
    if all("prompt" in row for row in document["prompts"]):
        document.pop("prompt", None)
    document["seed"] = opened.seeds[chosen[0]]
    return document


def _set_seeds(
    document: dict[str, Any], counted: Sequence[int], typed: Set[str], *, are_in_a_row: bool
) -> None:
    """Let each seed that is set count from the place of each image in the parent, as there."""
    seed, rows = document.get("seed"), document["prompts"]
    if "seed" in typed and type(seed) is int:
        for row, index in zip(rows, counted, strict=True):
            if seed != _CHANCE:
                row["seed"] = seed + index
            elif not are_in_a_row:
                row["seed"] = _CHANCE
        document["seed"] = seed if seed == _CHANCE else rows[0]["seed"]
    if not are_in_a_row:
        seeds = [row.get("seed") for row in rows]
        if seeds == [*range(seeds[0], seeds[0] + len(rows))]:
            # Otherwise the stages would count from this one, by other indexes.
            document["seed"] = int(seeds[0] == 0)
        return
    for name in stage_types():
        table = document.get(name)
        own = table.get("seed") if isinstance(table, dict) else None
        if isinstance(table, dict) and type(own) is int and own != _CHANCE:
            document[name] = {**table, "seed": own + counted[0]}


def _row(
    opened: RunOpened,
    plan: StageExecutionPlan,
    index: int,
    document: Mapping[str, Any],
    typed: Set[str],
) -> Iterator[tuple[str, Any]]:
    """The prompts and the seed of an image, but for those that the rerun sets anew."""
    own = prompt_of(opened, index)
    if own is not None:
        for key, text in msgspec.structs.asdict(own).items():
            if key not in typed and text is not None:
                yield key, text
    elif (
        "prompt" not in document
        and "prompt" not in typed
        and any(stage.config.inherits("prompt") for stage in plan.stages)
    ):
        yield "prompt", getattr(plan.stages[0].config, "prompt", None) or ""
    if "seed" not in typed:
        yield "seed", opened.seeds[index]


def _found_files(
    opened: RunOpened,
    plan: StageExecutionPlan,
    chosen: Sequence[int],
    copies: Copies,
    typed: Set[str],
) -> dict[str, Any]:
    """The inputs, masks and images of scripts that the parent has copies of."""
    found: dict[str, Any] = {}
    if opened.ca_bundle and "server.ca_bundle" not in typed:
        found["ca_bundle"] = opened.ca_bundle
    if plan.stages[0].input_source == "file":
        records = (input_records(plan.stages[0], index, plan, opened) for index in chosen)
        found["inputs"] = tuple(copies(one) for one, _ in records if one is not None)
    for stage in plan.stages:
        if stage.config.mask is not None and not _is_typed(stage.stage_type, "mask", typed):
            masks = [input_records(stage, index, plan, opened)[1] for index in chosen]
            found["masks"] = tuple(copies(one) for one in masks if one is not None)
    found["script_images"] = _script_images(opened, plan, copies)
    return found


def _with_typed_files(config: RunConfig, typed: Set[str], reader: InputReader) -> RunConfig:
    """``config`` with the files that its overrides name. Raises InputImageError."""
    known, named = config.script_images, dict(config.script_images)
    for name, stage in config.stages.items():
        if _is_typed(name, "alwayson_scripts", typed) and stage.alwayson_scripts:
            scripts = map_strings(
                stage.alwayson_scripts, lambda _key, text: "" if text in known else text
            )
            key = f"{name}.alwayson_scripts"
            named |= find_script_images(scripts, Path.cwd(), reader, key=key)
        if _is_typed(name, "mask", typed) and stage.mask:
            mask = inspect_image(Path.cwd() / Path(stage.mask).expanduser(), reader,
                                 key=f"{name}.mask")  # fmt: skip
            config = msgspec.structs.replace(config, mask=mask)
    return msgspec.structs.replace(config, script_images=named)


def _is_typed(stage_type: str, key: str, typed: Set[str]) -> bool:
    """Whether a key of a stage, or a part of it, is set, or its whole table."""
    place = f"{stage_type}.{key}"
    return any(one in (stage_type, place) or one.startswith(f"{place}.") for one in typed)


def _script_images(
    opened: RunOpened, plan: StageExecutionPlan, copies: Copies
) -> Mapping[str, InputImage]:
    """The images of scripts by name as written: in the plan, the path of the copy stands there."""
    records = {one.path: one for one in opened.inputs if one.path.startswith(f"{SCRIPT_IMAGES}/")}
    found: dict[str, InputImage] = {}
    for stage in plan.stages if records else ():
        table = opened.config.get(stage.stage_type)
        written = dict(list_values(table.get("alwayson_scripts"))) if table else {}
        for place, text in list_values(stage.config.alwayson_scripts):
            if text in records and isinstance(name := written.get(place), str):
                found[name] = copies(records[text])
    return found


def _copies_of(folder: Path, reader: InputReader) -> Copies:
    """Gives the copies in a run's folder; raises ConfigurationError for one that has changed."""

    @cache
    def image_of(record: InputRecord) -> InputImage:
        path = folder / record.path
        if record.refusal:
            return refused_image(Path(input_name(record) or record.path), record.refusal)
        if (wrong := check_file(folder, record.path, record.sha256)) is not None:
            raise ConfigurationError(f"{path}: {wrong}", key="input_image")
        return msgspec.structs.replace(
            inspect_image(path, reader),
            parent_run_id=record.parent_run_id,
            seed=record.seed,
            original_name=input_name(record),
        )

    return image_of


def _seed_indexes(opened: RunOpened, chosen: Sequence[int]) -> list[int]:
    """Where the seeds of stages count from; a rerun of a rerun keeps those of the first run."""
    known = opened.seed_indexes if isinstance(opened.seed_indexes, tuple) else None
    return [known[index] if known else index for index in chosen]
