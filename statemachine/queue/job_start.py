"""Begins the run or the group of a job, or continues it, from what was recorded of the job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from ...events.errors import GroupNotFoundError, RunNotFoundError
from ...events.queue.model import JobAdded, JobKind
from ..config.schema import RunConfig
from ..errors import ResumeRefusedError
from ..files.run_folder import find_run
from ..groups.folder import GROUPS_NAME, find_group
from ..groups.planning import GroupPlan, PlannedVariant
from ..groups.variant_config import VariantConfigs
from ..plan.builder import build_stage_execution_plan
from ..run.controller import PipelineController
from ..run.creation import PlannedRun, RerunOrigin
from ..run.handle import GroupHandle, RunHandle
from ..run.rerun import Rerun
from ..run.reuse_plan import ComparedRun, require_reuse
from .job_files import JobFiles
from .job_queue import TakenJob


class JobStarter:
    """Starts the jobs of a queue with one controller.

    ``servers`` are used by jobs whose configuration names none; unlike those of the controller,
    they get no credentials, for they come from a file.
    """

    def __init__(
        self, controller: PipelineController, files: JobFiles, *, servers: Sequence[str] = ()
    ) -> None:
        self._controller = controller
        self._files = files
        self._servers = servers[0] if len(servers) == 1 else tuple(servers)

    def start(self, taken: TakenJob) -> RunHandle | GroupHandle:
        """Begin the job's run or group under its recorded id, or continue it.

        Raises what ``PipelineController.start``, ``start_group``, ``resume`` and ``resume_group``
        raise.
        """
        job, added = taken.job, taken.added
        if job.group_id is not None:
            return self._start_group(added, job.group_id)
        assert job.run_id is not None
        return self._start_run(added, job.run_id)

    def _start_run(self, added: JobAdded, run_id: str) -> RunHandle:
        try:
            folder = find_run(self._controller.runs, run_id)
        except RunNotFoundError:
            if added.job is JobKind.RESUME:
                raise
            _refuse_link(self._controller.runs / run_id)
            return self._begin_run(added, run_id)
        # The limit of a queue is that of its workers' deaths; a retry is asked for by a person.
        return self._controller.resume(str(folder), force=True)

    def _start_group(self, added: JobAdded, group_id: str) -> GroupHandle:
        runs = self._controller.runs
        try:
            folder = find_group(runs, group_id)
        except GroupNotFoundError:
            if added.job is JobKind.RESUME:
                raise
            _refuse_link(runs / GROUPS_NAME / group_id)
            plan = self._group_plan(added)
            return self._controller.start_group(plan, fail_fast=added.fail_fast, group_id=group_id)
        return self._controller.resume_group(str(folder), force=True)

    def _begin_run(self, added: JobAdded, run_id: str) -> RunHandle:
        config = self._with_server(self._configs(added).config_of(added.variants[0]))
        if added.rerun is None:
            return self._controller.start_recorded(PlannedRun(config, run_id, added.seed))
        source = added.rerun
        parent = ComparedRun.read(find_run(self._controller.runs, source.run_id))
        origin = RerunOrigin(source.run_id, source.images, source.seed_indexes)
        backend = parent.backend if source.on_its_server else None
        planned = PlannedRun(config, run_id, added.seed, origin, backend)
        if source.from_stage is not None:
            found = self._controller.plan_recorded_rerun(Rerun(planned, parent))
            require_reuse(found, source.from_stage)
        return self._controller.start_recorded(planned)

    def _group_plan(self, added: JobAdded) -> GroupPlan:
        """The plan of a sweep, from what was recorded of it."""
        configs = self._configs(added)
        loaded = [self._with_server(configs.config_of(one)) for one in added.variants]
        variants = tuple(
            PlannedVariant(
                one.variant_index, one.values, build_stage_execution_plan(config), one.found
            )
            for one, config in zip(added.variants, loaded, strict=True)
        )
        plan = GroupPlan(
            document=added.config,
            name=added.name,
            axes=added.axes,
            random=added.random,
            random_seed=added.random_seed,
            seed=added.seed,
            variants=variants,
            found=tuple(configs.found),
            server=loaded[0].server_settings,
            preflight=loaded[0].run.preflight,
            durability=loaded[0].run.durability,
        )
        named = "url" in (added.config.get("server") or {})
        return plan if named or not self._servers else plan.with_server(self._servers)

    def _configs(self, added: JobAdded) -> VariantConfigs:
        if not added.variants:
            raise ResumeRefusedError(f"job {added.job_id}: no run of it was recorded")
        return VariantConfigs(added, self._files.folder(added.job_id))

    def _with_server(self, config: RunConfig) -> RunConfig:
        if not self._servers or config.server.url is not None:
            return config
        server = msgspec.structs.replace(config.server, url=self._servers)
        return msgspec.structs.replace(config, server=server)


def _refuse_link(folder: Path) -> None:
    """A link in the place of a folder that is to be made would lead elsewhere."""
    if folder.is_symlink():
        raise ResumeRefusedError(f"{folder}: a link is in the place of the job's folder")
