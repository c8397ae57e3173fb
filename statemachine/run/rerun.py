"""The configuration of a rerun: the images of an earlier run once more, with changed settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ...events.folds import Fold
from ...events.model import BackendDescription, InputRecord, RunOpened
from ...events.origins import input_name, prompt_of
from ..config.document import apply_overrides, parse_document
from ..config.input_files import inspect_image, refused_image
from ..config.schema import InputImage, RunConfig
from ..config.validation import list_values
from ..errors import ConfigurationError, ResumeRefusedError
from ..files.recorded_files import check_file
from ..plan.plan import StageExecutionPlan
from ..ports import InputReader
from ..resume.recorded_plan import recorded_plan
from .requests import SCRIPT_IMAGES, input_records

_OF_THE_PARENT = ("images", "prompts", "dynamic_prompts", "wildcards", "input_image", "sweep")
"""Keys that a rerun takes from its parent, image by image."""


class RerunOrigin(NamedTuple):
    """What a rerun records of its parent: the index there of each of its images.

    ``seed_indexes`` are the indexes from which the seeds of stages with a seed of their own count,
    where these are not in a row.
    """

    run_id: str
    images: tuple[int, ...]
    seed_indexes: tuple[int, ...]


class Rerun(NamedTuple):
    """A rerun that was checked, and the plan and the backend of its parent."""

    config: RunConfig
    origin: RerunOrigin
    parent_plan: StageExecutionPlan
    backend: BackendDescription


def prepare_rerun(
    folder: Path,
    fold: Fold,
    *,
    images: Sequence[int] | None,
    overrides: Sequence[str],
    inputs: InputReader,
) -> Rerun:
    """The rerun of ``images`` (indexes; None: all) of the run in ``folder``, whose log is folded.

    Raises ConfigurationError for overrides that cannot be used, ResumeRefusedError for a run
    whose plan this version does not understand, InputImageError for an input that has changed.
    """
    opened, plan = fold.opened, recorded_plan(fold)
    assert opened is not None
    chosen = tuple(range(plan.total_images)) if images is None else tuple(images)
    if not chosen:
        raise ConfigurationError(f"{opened.run_id}: no image is chosen")
    typed = {override.partition("=")[0].strip() for override in overrides}
    for key in typed:
        if key.split(".")[0] in _OF_THE_PARENT:
            raise ConfigurationError(
                f"--set {key}: a rerun takes {key} from the run that it repeats", key=key
            )
    counted = list(_seed_indexes(opened, chosen))
    are_in_a_row = counted == list(range(counted[0], counted[0] + len(counted)))
    document = _document(opened, plan, chosen, typed)
    for table in _tables_with_seed(document, plan) if are_in_a_row else ():
        table["seed"] += counted[0]
    config = parse_document(apply_overrides(document, overrides), name=opened.config.get("name"))
    config = _with_files(config, folder, opened, plan, chosen, inputs)
    origin = RerunOrigin(opened.run_id, chosen, () if are_in_a_row else tuple(counted))
    return Rerun(config, origin, plan, fold.backend or opened.backend)


def _document(
    opened: RunOpened, plan: StageExecutionPlan, chosen: Sequence[int], typed: set[str]
) -> dict[str, Any]:
    """The recorded configuration, with a row for each chosen image, and with the drawn seeds."""
    try:
        document = parse_document(opened.config).document()
    except ConfigurationError as error:
        raise ResumeRefusedError(
            f"{opened.run_id}: its configuration cannot be used any more: {error}"
        ) from error
    for key in _OF_THE_PARENT:
        document.pop(key, None)
    for stage in plan.stages:
        table = document.get(stage.stage_type)
        for key in ("seed", "subseed"):
            if isinstance(table, dict) and table.get(key) == -1:
                table[key] = getattr(stage.config, key)
    document["prompts"] = [dict(_row(opened, plan, index, document, typed)) for index in chosen]
    if all("prompt" in row for row in document["prompts"]):
        document.pop("prompt", None)
    if "seed" not in typed:
        document["seed"] = opened.seeds[chosen[0]]
    return document


def _tables_with_seed(
    document: dict[str, Any], plan: StageExecutionPlan
) -> Iterator[dict[str, Any]]:
    tables = (document.get(stage.stage_type) for stage in plan.stages)
    return (one for one in tables if isinstance(one, dict) and one.get("seed") is not None)


def _row(
    opened: RunOpened,
    plan: StageExecutionPlan,
    index: int,
    document: Mapping[str, Any],
    typed: set[str],
) -> Iterator[tuple[str, Any]]:
    """The prompts and the seed of an image, but for those that the rerun sets anew."""
    own = prompt_of(opened, index)
    if own is not None:
        for key, text in msgspec.structs.asdict(own).items():
            if key not in typed and text is not None:
                yield key, text
    elif "prompt" not in document and "prompt" not in typed:
        yield "prompt", getattr(plan.stages[0].config, "prompt", None) or ""
    if "seed" not in typed:
        yield "seed", opened.seeds[index]


def _with_files(
    config: RunConfig,
    folder: Path,
    opened: RunOpened,
    plan: StageExecutionPlan,
    chosen: Sequence[int],
    reader: InputReader,
) -> RunConfig:
    """``config`` with the inputs, masks and images of scripts that the parent has copies of."""
    copies = _Copies(folder, reader)
    found: dict[str, Any] = {"ca_bundle": opened.ca_bundle or None}
    first = plan.stages[0]
    if first.input_source == "file":
        records = (input_records(first, index, plan, opened) for index in chosen)
        found["inputs"] = tuple(copies.image(one) for one, _ in records if one is not None)
    for stage in plan.stages:
        if stage.config.mask is not None:
            masks = [input_records(stage, index, plan, opened)[1] for index in chosen]
            found["masks"] = tuple(copies.image(one) for one in masks if one is not None)
    found["script_images"] = _script_images(opened, plan, copies)
    return msgspec.structs.replace(config, **found)


def _script_images(
    opened: RunOpened, plan: StageExecutionPlan, copies: _Copies
) -> Mapping[str, InputImage]:
    """The images of scripts by name as written: in the plan, the path of the copy stands there."""
    records = {one.path: one for one in opened.inputs if one.path.startswith(f"{SCRIPT_IMAGES}/")}
    found: dict[str, InputImage] = {}
    for stage in plan.stages if records else ():
        table = opened.config.get(stage.stage_type)
        written = dict(list_values(table.get("alwayson_scripts"))) if table else {}
        for place, text in list_values(stage.config.alwayson_scripts):
            if text in records and isinstance(name := written.get(place), str):
                found[name] = copies.image(records[text])
    return found


class _Copies:
    """The copies in a run's folder as input images."""

    def __init__(self, folder: Path, reader: InputReader) -> None:
        self._folder = folder
        self._reader = reader
        self._known: dict[str, InputImage] = {}

    def image(self, record: InputRecord) -> InputImage:
        """Raises InputImageError for a file that has changed since."""
        if record.path not in self._known:
            self._known[record.path] = self._inspect(record)
        return self._known[record.path]

    def _inspect(self, record: InputRecord) -> InputImage:
        path = self._folder / record.path
        if record.refusal:
            return refused_image(Path(input_name(record) or record.path), record.refusal)
        if (wrong := check_file(self._folder, record.path, record.sha256)) is not None:
            raise ConfigurationError(f"{path}: {wrong}", key="input_image")
        return msgspec.structs.replace(
            inspect_image(path, self._reader),
            parent_run_id=record.parent_run_id,
            seed=record.seed,
            original_name=input_name(record),
        )


def _seed_indexes(opened: RunOpened, chosen: Sequence[int]) -> Iterator[int]:
    """Where the seeds of stages count from; a rerun of a rerun keeps those of the first run."""
    known = opened.seed_indexes if isinstance(opened.seed_indexes, tuple) else None
    return (known[index] if known else index for index in chosen)
