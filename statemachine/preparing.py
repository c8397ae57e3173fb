"""Making a run: every random choice, the copies of its inputs, and its first event."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from ..events.codec import json_values
from ..events.errors import LogWriteError
from ..events.file_log import FileEventLog
from ..events.lock import RunLock, boot_id, host_name
from ..events.model import BackendDescription, Durability, InputRecord, RunOpened
from ..events.storage import OsStorage, Storage
from ..events.version import VERSION
from .builder import build_stage_execution_plan
from .config import InputImage, RunConfig
from .errors import InputImageError
from .image_files import SUFFIXES
from .loading import read_bounded
from .plan import StageExecutionPlan
from .png import source_of
from .ports import Clock, RandomBelow
from .run_folder import RunFolder, make_run_folder

SEED_END = 2**31
"""Drawn seeds are below this (contract, section 4)."""


class PreparedRun(msgspec.Struct, frozen=True):
    """A run that exists on disk and has not started."""

    folder: RunFolder
    log: FileEventLog
    opened: RunOpened
    plan: StageExecutionPlan


def software() -> str:
    """What writes the log, for the log."""
    return f"stagewright {VERSION} (Python {platform.python_version()}, {platform.system()})"


def draw_seeds(config: RunConfig, random_below: RandomBelow) -> RunConfig:
    """``config`` with a number for each seed that was left to chance (-1)."""
    total = max(1, len(config.inputs)) * config.images
    if config.seed == -1:
        config = msgspec.structs.replace(config, seed=random_below(max(1, SEED_END - total)))
    if config.img2img is not None and config.img2img.seed == -1:
        drawn = random_below(max(1, SEED_END - total))
        img2img = msgspec.structs.replace(config.img2img, seed=drawn)
        config = msgspec.structs.replace(config, img2img=img2img)
    return config


class RunMaker:
    """Makes runs below one folder."""

    def __init__(
        self,
        runs: Path,
        *,
        clock: Clock,
        random_below: RandomBelow,
        storage: Storage | None = None,
    ) -> None:
        self._runs = runs
        self._clock = clock
        self._random_below = random_below
        self._storage: Storage = storage or OsStorage()

    def make(self, config: RunConfig, backend: BackendDescription) -> PreparedRun:
        """A run folder whose log holds RunOpened, durably, with everything resolved.

        Raises InvalidStagePlanError (nothing is made), InputImageError and LogWriteError
        (what was made is removed).
        """
        document = json_values(config.document())
        config = draw_seeds(config, self._random_below)
        build_stage_execution_plan(config)
        opened_at = self._clock.now()
        name = config.name or "run"
        path = make_run_folder(self._runs, name, opened_at, self._random_below, self._storage)
        folder = RunFolder(path, storage=self._storage)
        lock: RunLock | None = None
        try:
            lock = RunLock(folder.path)
            return self._open(folder, lock, config, document, opened_at, backend)
        except BaseException as error:
            try:
                self._storage.remove_tree(folder.path)
            finally:
                if lock is not None:
                    lock.release()
            if isinstance(error, OSError):
                raise LogWriteError(f"the run cannot be made: {error}", path=folder.path) from error
            raise

    def _open(
        self,
        folder: RunFolder,
        lock: RunLock,
        config: RunConfig,
        document: Mapping[str, Any],
        opened_at: datetime,
        backend: BackendDescription,
    ) -> PreparedRun:
        records, config = self._copy_inputs(folder, config)
        plan = build_stage_execution_plan(config)
        opened = RunOpened(
            run_id=folder.path.name,
            seq=0,
            ts=opened_at,
            config=document,
            plan=json_values(plan),
            seeds=tuple(config.seed + index for index in range(plan.total_images)),
            inputs=records,
            backend=backend,
            software=software(),
            host=host_name(),
            boot_id=boot_id(),
            pid=os.getpid(),
        )
        log = FileEventLog.create(
            folder.path,
            opened,
            storage=self._storage,
            durability=config.run.durability,
            lock=lock,
        )
        return PreparedRun(folder, log, opened, plan)

    def _copy_inputs(
        self, folder: RunFolder, config: RunConfig
    ) -> tuple[tuple[InputRecord, ...], RunConfig]:
        """Copy inputs and mask; the records, the mask last, and the mask's copy in ``config``."""
        images = [
            (f"inputs/{place:05d}.{SUFFIXES[image.media_type]}", image)
            for place, image in enumerate(config.inputs)
        ]
        if config.mask is not None and config.img2img is not None:
            path = f"inputs/mask.{SUFFIXES[config.mask.media_type]}"
            images.append((path, config.mask))
            img2img = msgspec.structs.replace(config.img2img, mask=path)
            config = msgspec.structs.replace(config, img2img=img2img)
        if images:
            self._storage.make_folder(folder.path / "inputs")
        durable = config.run.durability is not Durability.PROCESS
        records = tuple(self._copy(folder, path, image, durable=durable) for path, image in images)
        return records, config

    def _copy(
        self, folder: RunFolder, path: str, image: InputImage, *, durable: bool
    ) -> InputRecord:
        data = read_bounded(Path(image.path))
        digest = sha256(data).hexdigest()
        if image.sha256 not in ("", digest):
            raise InputImageError(
                f"input_image = {image.path}: it was changed after it had been checked",
                key="input_image",
            )
        self._storage.write_file(folder.locate(path), data, durable=durable)
        return InputRecord(
            path=path,
            sha256=digest,
            source_sha256=sha256(source_of(data)).hexdigest(),
            parent_run_id=image.parent_run_id,
        )
