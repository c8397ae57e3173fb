"""Makes, reopens and launches runs, one at a time, each in a thread of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from ...events import signals
from ...events.errors import LogWriteError, RunNotFoundError
from ...events.folds import replay
from ...events.log.storage import Storage
from ...events.model import BackendDescription, CancelMode, ImagePrompt, RunOpened, RunState
from ...events.origins import prompt_texts
from ...events.result import PipelineRunResult
from ..config.schema import Reuse, RunConfig, ServerTable
from ..errors import ConfigurationError
from ..files.recorded_files import OnFile
from ..groups.variant_config import GroupChoices, VariantOrigin, mark_varied
from ..plan.builder import build_stage_execution_plan
from ..plan.plan import StageExecutionPlan
from ..ports import (
    UNKNOWN_FILES,
    Clock,
    ImageBackend,
    InputReader,
    PreparableBackend,
    RandomBelow,
    ReuseIndex,
    UnsettledCall,
    file_hashes_of,
)
from ..resume.reopen import ReopenedRun, reopen_run
from .creation import (
    PlannedRun,
    create_run,
    preview_opening,
    resolve_choices,
)
from .handle import RunHandle
from .rerun import Rerun
from .reuse import EarlierImages, FindRuns, RunIdentity, no_runs
from .reuse_plan import ComparedRun, StageReuse, plan_reuse
from .runner import PipelineRunner
from .stage_run import OpenRun

_logger = logging.getLogger("stagewright.controller")


class RunLauncher:
    """Starts runs on one backend and ends them; the caller starts one at a time.

    ``on_end`` is called when a run has ended and the backend has been released, before the handle
    of the run has ended.
    """

    def __init__(
        self,
        *,
        backend: ImageBackend,
        runs: Path,
        inputs: InputReader,
        clock: Clock,
        random_below: RandomBelow,
        storage: Storage | None,
        reuse_index: ReuseIndex | None,
        on_end: Callable[[], object],
    ) -> None:
        self.backend = backend
        self.runs = runs
        self.inputs = inputs
        self.clock = clock
        self.random_below = random_below
        self.storage = storage
        self.reuse_index = reuse_index
        self._on_end = on_end
        self.last_result: PipelineRunResult | None = None
        self.last_plan: StageExecutionPlan | None = None
        self._current: tuple[RunHandle, PipelineRunner] | None = None

    @property
    def state(self) -> RunState:
        """The state of the current run; IDLE while there is none."""
        current = self._current
        return RunState.IDLE if current is None else current[1].state

    @property
    def current_run_id(self) -> str | None:
        """The run that has begun, or is about to begin, and has not ended."""
        current = self._current
        return None if current is None else current[0].run_id

    def begin(
        self, planned: PlannedRun, before_folder: Callable[[], object] = lambda: None
    ) -> RunHandle:
        """Make a run and launch it; ``before_folder`` is called once the backend is ready.

        A run whose id was recorded does not wait for a backend that cannot be reached: its group,
        or the worker of its queue, waits.
        """
        with self._released_on_failure():
            resolved, plan = self._prepared(planned)
            before_folder()
            run = create_run(
                self.runs,
                resolved,
                plan,
                self.backend.description,
                inputs=self.inputs,
                clock=self.clock,
                random_below=self.random_below,
                storage=self.storage,
                origin=planned.origin,
                run_id=planned.run_id,
            )
            return self._launch(run)

    def plan_rerun(self, rerun: Rerun) -> tuple[StageReuse, ...]:
        """What a rerun would reuse; the backend is asked, and nothing is made."""
        try:
            resolved, plan = self._prepared(rerun.planned)
            opened = preview_opening(
                resolved,
                plan,
                self.backend.description,
                self.inputs,
                self.clock.now(),
                rerun.planned.origin,
            )
            earlier = self._earlier_images(opened, resolved.run.reuse)
            return plan_reuse(plan, opened, earlier, rerun.parent)
        finally:
            self.release()

    def plan_against(self, config: RunConfig, other: ComparedRun) -> tuple[StageReuse, ...]:
        """What a run of ``config`` could reuse of another one, as far as its log tells.

        The backend is not asked: it counts as the one of that run, unchanged. A seed that is left
        to chance counts as that of the run. Raises ConfigurationError.
        """
        if config.seed == -1:
            config = msgspec.structs.replace(config, seed=other.opened.seeds[0])
        resolved = resolve_choices(config, self.random_below)
        plan = build_stage_execution_plan(resolved)
        opened = preview_opening(resolved, plan, other.backend, self.inputs, self.clock.now())
        identity = RunIdentity(opened.run_id, None, other.opened.run_id, other.backend)
        earlier = EarlierImages(identity, Reuse.GROUP, lambda _: [other.folder], UNKNOWN_FILES)
        return plan_reuse(plan, opened, earlier, other)

    def reopen(
        self,
        folder: Path,
        *,
        force: bool = False,
        preflight: bool = True,
        on_file: OnFile | None = None,
    ) -> RunHandle:
        """Go on with a run; the handle of a run that is complete has ended on return."""
        with self._released_on_failure():
            run = reopen_run(folder, force=force, storage=self.storage, on_file=on_file)
            if run.is_complete:
                run.end(self.clock)
                handle = RunHandle(run.fold.run_id, folder)
                result = replay(folder)
                self._end(result)
                handle.end(result)
                return handle
            try:
                if run.to_make:
                    self._prepare_again(run, preflight=preflight)
            except BaseException:
                run.log.close()
                raise
            return self._launch(run)

    def cancel(self, run_id: str, mode: CancelMode, reason: str) -> None:
        """Stop the current run.

        Raises RunNotFoundError unless ``run_id`` is the current run, InvalidTransitionError
        if it has just ended.
        """
        current = self._current
        if current is None or current[0].run_id != run_id:
            raise RunNotFoundError(f"run {run_id} is not running here")
        current[1].cancel(mode, reason)

    def release(self) -> None:
        """Forget the current run, once the backend has released what it held for it."""
        try:
            if isinstance(self.backend, PreparableBackend):
                self.backend.release()
        except BaseException as error:
            if signals.is_for_the_program(error):
                raise
            # The run has ended all the same: its result, or its error, must reach the caller.
            name, kind = type(self.backend).__name__, type(error).__name__
            _logger.error("the backend %s failed to release: %s: %s", name, kind, error)  # noqa: TRY400 - a user reads it
        finally:
            self._current = None

    @contextmanager
    def _released_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.release()
            raise

    def _prepared(self, planned: PlannedRun) -> tuple[RunConfig, StageExecutionPlan]:
        """The configuration and the plan, with all choices made, once the backend is prepared."""
        seed, origin = planned.seed, planned.origin
        config = resolve_choices(
            planned.config, self.random_below if seed is None else GroupChoices(seed)
        )
        plan = build_stage_execution_plan(config)
        if isinstance(origin, VariantOrigin):
            plan = mark_varied(plan, origin.variant_index, origin.varied, config.as_given)
        self.last_plan = plan
        server = config.server_settings
        if planned.run_id is not None:
            server = msgspec.structs.replace(server, wait_s=0.0)
        drawn = config.drawn_prompts
        self.prepare(
            plan,
            server,
            preflight=config.run.preflight,
            prompts=drawn.prompts if drawn and plan.prompts else UNSET,
            recorded=planned.backend,
        )
        return config, plan

    def prepare(
        self,
        plan: StageExecutionPlan,
        server: ServerTable,
        *,
        preflight: bool,
        prompts: Iterable[ImagePrompt] | UnsetType,
        recorded: BackendDescription | None = None,
        unsettled: Sequence[UnsettledCall] = (),
    ) -> None:
        """Have the backend prepare for a plan, if it does that. Raises ConfigurationError."""
        if isinstance(self.backend, PreparableBackend):
            # A backend need not know these.
            given = {"prompts": prompt_texts(prompts), "unsettled": unsettled}
            more: dict[str, Any] = {name: value for name, value in given.items() if value}
            self.backend.prepare(plan, server, preflight=preflight, recorded=recorded, **more)

    def _prepare_again(self, run: ReopenedRun, *, preflight: bool) -> None:
        with publishing_config_errors():
            self.prepare(
                run.plan,
                run.settings.server,
                preflight=preflight and run.settings.run.preflight,
                prompts=run.fold.opened.prompts if run.fold.opened else UNSET,
                recorded=run.backend,
                unsettled=run.unsettled,
            )

    def _launch(self, run: OpenRun) -> RunHandle:
        """Move the run to RUNNING, and give it its thread."""
        handle = RunHandle(run.fold.run_id, run.folder.path)
        runner = PipelineRunner(
            run,
            backend=self.backend,
            inputs=self.inputs,
            clock=self.clock,
            earlier=self._earlier_images(run.fold.opened, run.settings.run.reuse),
        )
        self.last_plan = run.plan
        # Before the run begins: a receiver of its start may cancel it at once.
        self._current = (handle, runner)
        runner.start()
        try:
            handle.start(lambda: self._work(handle, runner), self._end)
        except BaseException as error:
            runner.give_up(error)
            raise
        return handle

    def _earlier_images(self, opened: RunOpened | None, mode: Reuse) -> EarlierImages:
        """The images that a run may use again."""
        assert opened is not None
        parent = None if opened.parent_run_id is UNSET else opened.parent_run_id
        is_alone = mode is Reuse.GROUP and opened.group_id is None and parent is None
        find: FindRuns = no_runs
        if self.reuse_index is not None and mode is not Reuse.NONE and not is_alone:
            self.reuse_index.refresh()
            find = self.reuse_index.find
        backend = self.backend
        identity = RunIdentity(opened.run_id, opened.group_id, parent, backend.description)
        return EarlierImages(identity, mode, find, file_hashes_of(backend))

    def _work(self, handle: RunHandle, runner: PipelineRunner) -> PipelineRunResult:
        runner.work()
        handle.is_backend_out_of_reach = runner.is_backend_out_of_reach
        try:
            return replay(handle.folder)
        except RunNotFoundError as error:
            raise LogWriteError(f"the run has gone from the disk: {error}") from error

    def _end(self, result: PipelineRunResult | None) -> None:
        self.last_result = result
        self.release()
        self._on_end()


@contextmanager
def publishing_config_errors() -> Iterator[None]:
    """Publish the error of a configuration with which nothing was started."""
    try:
        yield
    except ConfigurationError as error:
        message = f"Config Error: {error}"
        told = {"message": message, "error": error, "errors": error.errors}
        signals.publish(signals.config_error, None, **told)
        raise
