"""What the tests of the queue share: jobs, queues, and workers on a backend that costs nothing."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from stagewright.adapters import PillowInputReader
from stagewright.adapters.projections.queue_table import SqliteJobTable
from stagewright.events.model import Durability
from stagewright.events.queue.jobs import Job, JobState
from stagewright.events.queue.model import JobKind
from stagewright.statemachine import (
    GroupPlan,
    JobQueue,
    NewJob,
    SingleNodeJobRunner,
    StageExecutionPlan,
    build_stage_execution_plan,
    plan_job,
)
from stagewright.statemachine.config.schema import ServerTable
from stagewright.statemachine.groups.planning import PlannedVariant

from .log_format import split_bodies
from .support import ScriptedBackend, controller, document

LOG = "queue.jsonl"


def new_job(name: str = "job", *, runs: Path = Path("runs"), **top: Any) -> NewJob:
    """A small run that can be added."""
    vary = top.pop("vary", ())
    return plan_job(
        document(name=name, **top),
        vary=vary,
        inputs=PillowInputReader(),
        runs=runs,
        random_below=secrets.randbelow,
    )


def bare_job(name: str = "job", model: str | None = None) -> NewJob:
    """A job that is only added and taken, and loads a checkpoint or nothing."""
    return NewJob(job=JobKind.RUN, name=name) if model is None else planned_job(name, model)


def planned_job(name: str = "job", model: str | None = None) -> NewJob:
    """A job with a plan that is never begun."""
    small = small_plan()
    table = msgspec.structs.replace(small.stages[0].config, model=model)
    stage = msgspec.structs.replace(small.stages[0], config=table)
    plan = GroupPlan(
        document={"prompt": name},
        name=name,
        seed=1,
        variants=(PlannedVariant(0, {}, msgspec.structs.replace(small, stages=(stage,)), 0),),
        found=(),
        server=ServerTable(),
        preflight=True,
        durability=Durability.CHECKPOINT,
    )
    return NewJob(job=JobKind.RUN, name=name, plan=plan)


@cache
def small_plan() -> StageExecutionPlan:
    return build_stage_execution_plan(document())


def sqlite_queue(runs: Path, **parts: Any) -> JobQueue:
    """A queue as the command line has it."""
    return JobQueue(runs, table=SqliteJobTable(runs), **parts)


def names(queue: JobQueue, *states: JobState) -> list[str]:
    """The names of the jobs in some states; of waiting ones without any."""
    return [job.name for job in queue.jobs(*(states or (JobState.WAITING,)))]


def work(
    queue: JobQueue,
    backend: ScriptedBackend | None = None,
    *,
    on_job: Callable[[Job], object] = lambda _job: None,
    **options: Any,
) -> SingleNodeJobRunner:
    """Work until the queue is empty."""
    runner = SingleNodeJobRunner(
        queue, controller(queue.runs, backend), exit_when_empty=True, on_job=on_job, **options
    )
    runner.work()
    return runner


def queue_events(runs: Path) -> list[dict[str, Any]]:
    """The events of the queue as they are on disk."""
    return [json.loads(body) for body in split_bodies((runs / LOG).read_bytes())]


def event_types(runs: Path) -> list[str]:
    """The types of these events."""
    return [str(event["type"]) for event in queue_events(runs)]
