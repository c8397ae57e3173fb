"""Creation of a run: its random choices, the copies of its inputs, and its first event."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from ...events.codec import json_values
from ...events.folds import Fold
from ...events.log.file_log import FileEventLog
from ...events.log.memory_log import EventLog
from ...events.log.storage import Storage
from ...events.model import (
    BackendDescription,
    Durability,
    InputRecord,
    OriginalFile,
    RunOpened,
)
from ..config.document import check_config, document_to_record
from ..config.input_files import read_bounded
from ..config.prompts import draw_prompts, draw_row_seeds
from ..config.resolution import MAX_IMAGES, has_own_prompts, uses_prompts
from ..config.schema import InputImage, RunConfig, RunTables
from ..config.script_images import map_strings
from ..errors import InputImageError
from ..files.png import source_of
from ..files.run_folder import SUFFIXES, RunFolder, new_folder, unused_id
from ..groups.variant_config import VariantOrigin
from ..plan.plan import StageExecutionPlan
from ..ports import Clock, InputReader, RandomBelow
from ..stages.stage import StageConfig
from .image_status import ImageStatus
from .journal import RunJournal, process_fields
from .requests import SCRIPT_IMAGES

MASKS = "inputs/masks"
"""Where a run keeps a mask for each input, under the number of the input."""
SEED_END = 2**31
"""Drawn seeds are below this (contract, section 4)."""


class RerunOrigin(NamedTuple):
    """What a rerun records of its parent: the index there of each of its images.

    ``seed_indexes`` are the indexes from which the seeds of stages with a seed of their own count,
    where these are not in a row.
    """

    run_id: str
    images: tuple[int, ...]
    seed_indexes: tuple[int, ...]


class PlannedRun(NamedTuple):
    """A run that is to begin, with what was decided of it before.

    ``run_id`` is its id, and ``seed`` stands in for every seed that is left to chance, where these
    were recorded by a queue or a group. ``origin`` is that of a rerun or a variant, ``backend`` the
    one that its parent or group has recorded.
    """

    config: RunConfig
    run_id: str | None = None
    seed: int | None = None
    origin: VariantOrigin | RerunOrigin | None = None
    backend: BackendDescription | None = None


class NewRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that exists on disk and has not started; ``fold`` holds its first event."""

    folder: RunFolder
    log: EventLog
    fold: Fold
    plan: StageExecutionPlan
    settings: RunTables
    status: ImageStatus
    epoch: int = 0

    def begin(self, journal: RunJournal, _backend: BackendDescription) -> None:
        """Announce RunOpened, which was recorded before there was a journal."""
        journal.announce_opening()


def resolve_choices(config: RunConfig, random_below: RandomBelow) -> RunConfig:
    """``config`` with a number for each seed left to chance (-1), and the path of masks' copies.

    The prompts are drawn. ``as_given`` is the document to record: ``config`` as it was. Raises
    InvalidStagePlanError for a value of a wrong type, and a template that cannot be used.
    """
    given, config = document_to_record(config), check_config(config)
    # How many images there are is not known where they are all combinations of templates.
    most = MAX_IMAGES if uses_prompts(config) else max(1, len(config.inputs)) * config.images
    last = max(1, SEED_END - most)
    if config.seed == -1:
        config = msgspec.structs.replace(config, seed=random_below(last))
    config = draw_prompts(draw_row_seeds(config, random_below, last))
    copies = {named: path for path, named in _script_image_copies(config).items()}
    stages: dict[str, StageConfig] = {}
    for name, stage in config.stages.items():
        drawn = (key for key in ("seed", "subseed") if getattr(stage, key, None) == -1)
        choices: dict[str, Any] = {key: random_below(last) for key in drawn}
        if stage.mask and config.mask is not None:
            choices["mask"] = f"inputs/mask.{_suffix_of_copy(config.mask)}"
        elif stage.mask and config.masks:
            choices["mask"] = MASKS
        if stage.alwayson_scripts:
            choices["alwayson_scripts"] = map_strings(
                stage.alwayson_scripts, lambda _key, text: copies.get(text, text)
            )
        stages[name] = msgspec.structs.replace(stage, **choices)
    return msgspec.structs.replace(config, as_given=json_values(given), **stages)


def create_run(
    runs: Path,
    config: RunConfig,
    plan: StageExecutionPlan,
    backend: BackendDescription,
    *,
    inputs: InputReader,
    clock: Clock,
    random_below: RandomBelow,
    storage: Storage | None = None,
    origin: VariantOrigin | RerunOrigin | None = None,
    run_id: str | None = None,
) -> NewRun:
    """A new run below ``runs``, whose log holds RunOpened, durably.

    ``origin`` is that of a variant of a group, or of a rerun. ``run_id`` is the run's id, where
    that was recorded before. ``config`` comes from ``resolve_choices``, ``plan`` from it. Raises
    InputImageError and LogWriteError; what was made is removed then.
    """
    opened_at = clock.now()
    storage = storage or Storage()
    durability = config.run.durability
    storage.syncs = durability is not Durability.PROCESS
    run_id = run_id or unused_id(runs, config.name or "run", opened_at, random_below)
    with new_folder(runs / run_id, storage) as (folder, lock):
        copies = _copy_inputs(folder, config, inputs)
        opened = _opened(run_id, config, plan, backend, opened_at, copies, origin)
        log = FileEventLog.create(
            folder.path, opened, storage=folder.storage, durability=durability, lock=lock
        )
    fold = Fold()
    fold.apply(opened)
    return NewRun(
        folder=folder,
        log=log,
        fold=fold,
        plan=plan,
        settings=config,
        status=ImageStatus(plan, fold, log.event_at),
    )


def preview_opening(
    config: RunConfig,
    plan: StageExecutionPlan,
    backend: BackendDescription,
    inputs: InputReader,
    opened_at: datetime,
    origin: VariantOrigin | RerunOrigin | None = None,
) -> RunOpened:
    """The first event of a run that is not made, to see what it could reuse.

    Raises InputImageError.
    """
    records = tuple(_input_record(path, image, inputs)[0] for path, image in _inputs_of(config))
    return _opened("preview", config, plan, backend, opened_at, records, origin)


def _opened(
    run_id: str,
    config: RunConfig,
    plan: StageExecutionPlan,
    backend: BackendDescription,
    opened_at: datetime,
    copies: tuple[InputRecord, ...],
    origin: VariantOrigin | RerunOrigin | None,
) -> RunOpened:
    """The run's first event."""
    variant = origin if isinstance(origin, VariantOrigin) else None
    rerun = origin if isinstance(origin, RerunOrigin) else None
    return RunOpened(
        run_id=run_id,
        seq=0,
        ts=opened_at,
        config=config.as_given,
        plan=json_values(plan),
        seeds=config.drawn_prompts.seeds
        if config.drawn_prompts
        else tuple(config.seed + index for index in range(plan.total_images)),
        inputs=copies,
        backend=backend,
        group_id=variant.group_id if variant else None,
        variant_index=variant.variant_index if variant else None,
        varied=variant.varied if variant else UNSET,
        parent_run_id=rerun.run_id if rerun else UNSET,
        parent_images=rerun.images if rerun else UNSET,
        seed_indexes=rerun.seed_indexes or UNSET if rerun else UNSET,
        **process_fields(),
        ca_bundle=UNSET
        if config.ca_bundle in (None, config.server.ca_bundle)
        else config.ca_bundle,
        prompts=config.drawn_prompts.prompts
        if config.drawn_prompts and has_own_prompts(config)
        else UNSET,
        sources=config.prompt_source.sources or UNSET if config.prompt_source else UNSET,
    )


def _suffix_of_copy(image: InputImage) -> str:
    """An image of any other format is kept as PNG."""
    return SUFFIXES.get(image.media_type, "png")


def _script_image_copies(config: RunConfig) -> dict[str, str]:
    """The paths of the copies of the images in scripts, and the paths as written."""
    return {
        f"{SCRIPT_IMAGES}/{number:05d}.{_suffix_of_copy(image)}": named
        for number, (named, image) in enumerate(config.script_images.items())
    }


def _inputs_of(config: RunConfig) -> list[tuple[str, InputImage]]:
    """The inputs, then the masks, then the images of scripts, with the paths of their copies."""
    images = [
        (f"{place}/{number:05d}.{_suffix_of_copy(image)}", image)
        for place, listed in (("inputs", config.inputs), (MASKS, config.masks))
        for number, image in enumerate(listed)
    ]
    masks = {stage.mask: config.mask for stage in config.stages.values()}
    images += [(path, image) for path, image in masks.items() if path and image is not None]
    images += [
        (path, config.script_images[named]) for path, named in _script_image_copies(config).items()
    ]
    return images


def _copy_inputs(
    folder: RunFolder, config: RunConfig, reader: InputReader
) -> tuple[InputRecord, ...]:
    images = _inputs_of(config)
    for made in sorted({path.rpartition("/")[0] for path, _ in images}):
        folder.storage.make_folder(folder.path / made)
    return tuple(_copy_input(folder, path, image, reader) for path, image in images)


def _copy_input(
    folder: RunFolder, path: str, image: InputImage, reader: InputReader
) -> InputRecord:
    record, data = _input_record(path, image, reader)
    if not record.refusal:
        folder.storage.write_file(folder.path / path, data)
    return record


def _input_record(path: str, image: InputImage, reader: InputReader) -> tuple[InputRecord, bytes]:
    """What is recorded of an input, and the bytes of its copy."""
    if image.refusal:
        original = OriginalFile(name=image.file_name, sha256="")
        refused = InputRecord(
            path=path, sha256="", source_sha256="", original=original, refusal=image.refusal
        )
        return refused, b""
    data = read_bounded(Path(image.path))
    digest = sha256(data).hexdigest()
    if image.sha256 not in ("", digest):
        raise InputImageError(
            f"input_image = {image.path}: it was changed after it had been checked",
            key="input_image",
        )
    original = OriginalFile(name=image.file_name, sha256=digest)
    if image.media_type not in SUFFIXES:
        data = reader.convert_to_png(data, name=f"input_image = {image.path}")
        digest = sha256(data).hexdigest()
    record = InputRecord(
        path=path,
        sha256=digest,
        source_sha256=sha256(source_of(data)).hexdigest(),
        parent_run_id=image.parent_run_id,
        original=original,
        seed=image.seed,
    )
    return record, data
