"""New jobs: checked, and everything that they will do decided, before they are added."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from ...events.folds import Fold
from ...events.groups.model import SweepAxis, Variant
from ...events.log.reader import read_log
from ...events.log.shared_events import SharedEnvelope
from ...events.queue.model import (
    MOST_KINDS_OF_WORK,
    MOST_NAME_CHARACTERS,
    JobAdded,
    JobKind,
    RerunSource,
    StageWork,
)
from ..config.document import check_config, document_to_record
from ..config.inputs import AnyConfig, ConfigDocument, document_of
from ..config.prompts import draw_prompts, draw_row_seeds
from ..config.schema import ServerTable
from ..config.sweeps import sweep_of
from ..errors import ConfigurationError
from ..files.run_folder import find_run, name_in_run_id
from ..groups.folder import find_run_or_group, recorded_group_id
from ..groups.found_files import FoundFiles
from ..groups.planning import SEED_END, GroupPlan, plan_alone, plan_group
from ..groups.variant_config import GroupChoices
from ..plan.builder import build_stage_execution_plan
from ..plan.checkpoints import checkpoints
from ..plan.plan import StageExecutionPlan
from ..ports import InputReader, RandomBelow
from ..run.rerun import prepare_rerun

_NOT_RECORDED = ("warnings", "server")


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job that can be added; its fields are those of ``JobAdded``.

    ``found`` has the files as they are now, which are copied when the job is added. ``warnings``
    are those of its plan, and ``server`` is the one that its configuration names.
    """

    job: JobKind
    name: str
    config: Mapping[str, Any] = {}
    seed: int = 0
    found: tuple[FoundFiles, ...] = ()
    axes: tuple[SweepAxis, ...] = ()
    variants: tuple[Variant, ...] = ()
    random: int | None = None
    random_seed: int | None = None
    fail_fast: bool = False
    rerun: RerunSource | None = None
    resumes: str | None = None
    checkpoints: tuple[str | None, str | None] = (None, None)
    total_images: int = 0
    work: tuple[StageWork, ...] = ()
    warnings: tuple[str, ...] = ()
    server: ServerTable = ServerTable()

    def with_server(self, url: str) -> NewJob:
        """The job for this server, which its configuration does not name."""
        config = {**self.config, "server": {**self.config.get("server", {}), "url": url}}
        return msgspec.structs.replace(self, config=config)

    def recorder(
        self,
        job_id: str,
        copies: tuple[Mapping[str, Any], ...],
        priority: int,
        not_before: datetime | None,
    ) -> Callable[[SharedEnvelope], JobAdded]:
        """What makes the event that adds the job; ``copies`` are recorded as ``found``."""
        fields = {name: getattr(self, name) for name in _RECORDED}
        fields |= {
            "found": copies,
            "name": self.name[:MOST_NAME_CHARACTERS],
            "work": self.work[:MOST_KINDS_OF_WORK],
        }
        return lambda at: JobAdded(
            **at, **fields, job_id=job_id, priority=priority, not_before=not_before
        )


_RECORDED = tuple(set(NewJob.__struct_fields__) - set(_NOT_RECORDED))


def plan_job(
    config: AnyConfig | ConfigDocument,
    *,
    vary: Sequence[str] = (),
    zip_axes: bool = False,
    fail_fast: bool = False,
    inputs: InputReader,
    runs: Path,
    random_below: RandomBelow,
) -> NewJob:
    """The job of a configuration, which may be a sweep. Raises ConfigurationError."""
    document = config if isinstance(config, ConfigDocument) else document_of(config)
    is_sweep = sweep_of(document, vary, zip=zip_axes) is not None
    if is_sweep:
        plan = plan_group(
            document,
            vary=vary,
            zip_axes=zip_axes,
            inputs=inputs,
            runs=runs,
            random_below=random_below,
        )
    else:
        plan = plan_alone(document, inputs=inputs, runs=runs, random_below=random_below)
    job = _job_of(plan, JobKind.SWEEP if is_sweep else JobKind.RUN)
    return msgspec.structs.replace(job, fail_fast=fail_fast)


def _job_of(plan: GroupPlan, kind: JobKind) -> NewJob:
    plans = [one.plan for one in plan.variants]
    return NewJob(
        job=kind,
        name=plan.name or "run",
        config=plan.document,
        seed=plan.seed,
        found=plan.found,
        axes=plan.axes,
        variants=_recorded_variants(plan),
        random=plan.random,
        random_seed=plan.random_seed,
        checkpoints=_first_and_last(plans),
        total_images=plan.total_images,
        work=_work_of(plans),
        warnings=plan.warnings,
        server=plan.server,
    )


def plan_rerun_job(
    run: str,
    *,
    images: Sequence[int] | None = None,
    overrides: Sequence[str] = (),
    from_stage: str | None = None,
    inputs: InputReader,
    runs: Path,
    random_below: RandomBelow,
) -> NewJob:
    """The job of a rerun; see ``PipelineController.start_rerun``, whose errors it raises."""
    folder, fold = find_run(runs, run), Fold()
    read_log(folder, fold.apply_all)
    rerun = prepare_rerun(folder, fold, images=images, overrides=overrides, inputs=inputs)
    seed = random_below(SEED_END)
    config = rerun.config
    document = document_to_record(config)
    if config.seed == -1:
        config = msgspec.structs.replace(config, seed=seed)
    rows = draw_row_seeds(check_config(config), GroupChoices(seed + 1), SEED_END)
    drawn = draw_prompts(rows)
    plan = build_stage_execution_plan(drawn)
    if plan.conflicts:
        raise ConfigurationError("; ".join(map(str, plan.conflicts)))
    origin = rerun.origin
    return NewJob(
        job=JobKind.RERUN,
        name=config.name or name_in_run_id(origin.run_id),
        config=document,
        seed=seed,
        found=(FoundFiles.of(drawn),),
        variants=(_variant(plan),),
        rerun=RerunSource(
            run_id=origin.run_id,
            images=origin.images,
            seed_indexes=origin.seed_indexes,
            from_stage=from_stage,
            on_its_server=rerun.backend is not None,
        ),
        checkpoints=_first_and_last([plan]),
        total_images=plan.total_images,
        work=_work_of([plan]),
        warnings=plan.warnings,
        server=config.server,
    )


def plan_resume_job(run_or_group: str, *, runs: Path) -> NewJob:
    """The job that resumes a run or a group. Raises RunNotFoundError, LogCorruptError."""
    found = find_run_or_group(runs, run_or_group)
    if found.is_group:
        own_id = recorded_group_id(found.folder)
        return NewJob(job=JobKind.RESUME, name=name_in_run_id(own_id), resumes=own_id)
    fold = Fold()
    read_log(found.folder, fold.apply_all)
    return NewJob(job=JobKind.RESUME, name=name_in_run_id(fold.run_id), resumes=fold.run_id)


def _recorded_variants(plan: GroupPlan) -> tuple[Variant, ...]:
    return tuple(
        Variant(
            variant_index=one.variant_index,
            values=one.values,
            total_images=one.total_images,
            total_steps=one.total_steps,
            found=one.found,
        )
        for one in plan.variants
    )


def _variant(plan: StageExecutionPlan) -> Variant:
    return Variant(
        variant_index=0,
        values={},
        total_images=plan.total_images,
        total_steps=plan.total_steps,
    )


def _first_and_last(plans: Iterable[StageExecutionPlan]) -> tuple[str | None, str | None]:
    loaded = (name for plan in plans for name in checkpoints(plan))
    first = next(loaded, None)
    return first, next(iter(deque(loaded, maxlen=1)), first)


def _work_of(plans: Iterable[StageExecutionPlan]) -> tuple[StageWork, ...]:
    """The work of some plans; that of stages that differ in nothing else is added up."""
    found: dict[tuple[str, str, float | None], float] = {}
    for stage_type, model, pixels, weight in _stages_of(plans):
        key = stage_type, model, pixels
        found[key] = found.get(key, 0.0) + weight
    return tuple(
        StageWork(stage_type=stage_type, model=model, weight=weight, pixels=pixels)
        for (stage_type, model, pixels), weight in found.items()
    )


def _stages_of(
    plans: Iterable[StageExecutionPlan],
) -> Iterator[tuple[str, str, float | None, float]]:
    for plan in plans:
        for stage in plan.stages:
            model, size = getattr(stage.config, "model", None), stage.output_size
            pixels = None if size is None else float(size[0] * size[1])
            weight = float(stage.config.weight() * plan.total_images)
            yield stage.stage_type, model if isinstance(model, str) else "", pixels, weight
