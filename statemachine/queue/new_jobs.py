"""New jobs: checked, and everything that they will do decided, before they are added."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from ...events.folds import Fold
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
from ..errors import ConfigurationError
from ..files.run_folder import find_run, name_in_run_id
from ..groups.folder import find_run_or_group, recorded_group_id
from ..groups.found_files import FoundFiles
from ..groups.planning import SEED_END, GroupPlan, PlannedVariant, plan_group
from ..groups.variant_config import GroupChoices
from ..plan.builder import build_stage_execution_plan
from ..plan.checkpoints import first_and_last_checkpoint
from ..plan.plan import StageExecutionPlan
from ..ports import InputReader, RandomBelow
from ..run.creation import RerunOrigin
from ..run.rerun import prepare_rerun
from ..run.reuse_plan import ComparedRun


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job that can be added: ``plan`` is what it will do; that of a resume is recorded already.

    The files of the plan are copied when the job is added.
    """

    job: JobKind
    name: str
    plan: GroupPlan | None = None
    fail_fast: bool = False
    rerun: RerunSource | None = None
    resumes: str | None = None

    @property
    def found(self) -> tuple[FoundFiles, ...]:
        """What was found outside the configuration."""
        return self.plan.found if self.plan else ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of the plan."""
        return self.plan.warnings if self.plan else ()

    def record(
        self,
        job_id: str,
        copies: tuple[Mapping[str, Any], ...],
        priority: int,
        not_before: datetime | None,
        at: SharedEnvelope,
    ) -> JobAdded:
        """The event that adds the job; ``copies`` are recorded as ``found``."""
        event = JobAdded(
            **at,
            job_id=job_id,
            job=self.job,
            config={},
            name=self.name[:MOST_NAME_CHARACTERS],
            priority=priority,
            not_before=not_before,
            fail_fast=self.fail_fast,
            rerun=self.rerun,
            resumes=self.resumes,
        )
        if (plan := self.plan) is None:
            return event
        plans = [one.plan for one in plan.variants]
        return msgspec.structs.replace(
            event,
            config=plan.document,
            seed=plan.seed,
            found=copies,
            axes=plan.axes,
            variants=tuple(one.record() for one in plan.variants),
            random=plan.random,
            random_seed=plan.random_seed,
            checkpoints=first_and_last_checkpoint(plans),
            total_images=plan.total_images,
            work=_work_of(plans)[:MOST_KINDS_OF_WORK],
        )


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
    plan = plan_group(
        document,
        vary=vary,
        zip_axes=zip_axes,
        or_alone=True,
        inputs=inputs,
        runs=runs,
        random_below=random_below,
    )
    return NewJob(
        job=JobKind.SWEEP if plan.axes else JobKind.RUN,
        name=plan.name or "run",
        plan=plan,
        fail_fast=fail_fast,
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
    parent = ComparedRun.read(find_run(runs, run))
    rerun = prepare_rerun(parent, images=images, overrides=overrides, inputs=inputs).planned
    seed, config, origin = random_below(SEED_END), rerun.config, rerun.origin
    assert isinstance(origin, RerunOrigin)
    document = document_to_record(config)
    if config.seed == -1:
        config = msgspec.structs.replace(config, seed=seed)
    rows = draw_row_seeds(check_config(config), GroupChoices(seed + 1), SEED_END)
    drawn = draw_prompts(rows)
    plan = build_stage_execution_plan(drawn)
    if plan.conflicts:
        raise ConfigurationError("; ".join(map(str, plan.conflicts)))
    name = config.name or name_in_run_id(origin.run_id)
    return NewJob(
        job=JobKind.RERUN,
        name=name,
        plan=GroupPlan(
            document=document,
            name=name,
            seed=seed,
            variants=(PlannedVariant(0, {}, plan, 0),),
            found=(FoundFiles.of(drawn),),
            server=config.server_settings,
            preflight=config.run.preflight,
            durability=config.run.durability,
            warnings=plan.warnings,
        ),
        rerun=RerunSource(
            run_id=origin.run_id,
            images=origin.images,
            seed_indexes=origin.seed_indexes,
            from_stage=from_stage,
            on_its_server=rerun.backend is not None,
        ),
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
