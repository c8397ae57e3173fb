"""Makes, reopens and launches runs, one at a time, each in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from ...events import signals
from ...events.errors import LogWriteError, RunNotFoundError, StagewrightError
from ...events.folds import Fold, replay
from ...events.log.reader import read_log
from ...events.log.storage import Storage
from ...events.model import BackendDescription, CancelMode, ImagePrompt, RunOpened, RunState
from ...events.origins import prompt_texts
from ...events.result import PipelineRunResult
from ..config.schema import Reuse, RunConfig
from ..errors import ConfigurationError
from ..files.recorded_files import OnFile
from ..files.run_folder import new_run_id
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
    file_hashes_of,
)
from ..resume.recorded_plan import recorded_plan
from ..resume.reopen import ReopenedRun, reopen_run
from .creation import create_run, preview_opening, resolve_choices
from .handle import RunHandle
from .rerun import Rerun, RerunOrigin
from .reuse import EarlierImages, NoIndex, OneRun, RunIdentity
from .reuse_plan import ComparedRun, StageReuse, plan_reuse
from .runner import PipelineRunner
from .stage_run import OpenRun

_logger = logging.getLogger("stagewright.controller")


class RecordedRun(NamedTuple):
    """A run that was recorded before it began: its id, and all that it will do.

    ``config`` has its inputs and prompts, ``seed`` stands in for every seed that is left to chance.
    ``origin`` and ``backend`` are those of a rerun.
    """

    run_id: str
    config: RunConfig
    seed: int
    origin: RerunOrigin | None = None
    backend: BackendDescription | None = None


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

    def begin(self, config: RunConfig) -> RunHandle:
        """Make a run of its own and launch it."""
        resolved = resolve_choices(config, self.random_below)
        self.last_plan = plan = build_stage_execution_plan(resolved)
        self._prepare(resolved, plan)
        return self._create(resolved, plan)

    def begin_recorded(self, run: RecordedRun) -> RunHandle:
        """Make a run that was recorded before, under its id, and launch it.

        A backend that cannot be reached is not waited for.
        """
        resolved = resolve_choices(run.config, GroupChoices(run.seed))
        self.last_plan = plan = build_stage_execution_plan(resolved)
        server = msgspec.structs.replace(resolved.server, wait_s=0.0)
        self._prepare(msgspec.structs.replace(resolved, server=server), plan, run.backend)
        return self._create(resolved, plan, run.origin, run.run_id)

    def begin_variant(
        self,
        config: RunConfig,
        origin: VariantOrigin,
        *,
        seed: int,
        backend: BackendDescription,
        before_folder: Callable[[], None],
    ) -> RunHandle:
        """Make the run of a variant of a group and launch it.

        ``seed`` and ``backend`` are those of the group. ``before_folder`` is called once the
        backend is ready, which is not waited for: the group does that.
        """
        resolved = resolve_choices(config, GroupChoices(seed))
        plan = build_stage_execution_plan(resolved)
        self.last_plan = plan = mark_varied(
            plan, origin.variant_index, origin.varied, resolved.as_given
        )
        server = msgspec.structs.replace(resolved.server, wait_s=0.0)
        self._prepare(msgspec.structs.replace(resolved, server=server), plan, backend)
        before_folder()
        return self._create(resolved, plan, origin)

    def begin_rerun(self, rerun: Rerun) -> RunHandle:
        """Make the run of a rerun and launch it, on the backend of its parent."""
        resolved, plan = self._prepared_rerun(rerun)
        return self._create(resolved, plan, rerun.origin)

    def plan_rerun(self, rerun: Rerun) -> tuple[StageReuse, ...]:
        """What a rerun would reuse; the backend is asked, and nothing is made."""
        resolved, plan = self._prepared_rerun(rerun)
        try:
            opened = preview_opening(
                resolved,
                plan,
                self.backend.description,
                self.inputs,
                self.clock.now(),
                rerun.origin,
            )
            earlier = self._earlier_images(opened, resolved.run.reuse)
            return plan_reuse(plan, opened, earlier, ComparedRun(rerun.parent_plan, rerun.parent))
        finally:
            self.release()

    def plan_against(self, config: RunConfig, folder: Path) -> tuple[StageReuse, ...]:
        """What a run of ``config`` could reuse of the run in ``folder``, as far as its log tells.

        The backend is not asked: it counts as the one of that run, unchanged. A seed that is left
        to chance counts as that of the run. Raises LogCorruptError, ResumeRefusedError, OSError.
        """
        fold = Fold()
        read_log(folder, fold.apply_all)
        other, before = recorded_plan(fold), fold.opened
        assert before is not None
        assert fold.backend is not None
        if config.seed == -1:
            config = msgspec.structs.replace(config, seed=before.seeds[0])
        resolved = resolve_choices(config, self.random_below)
        plan = build_stage_execution_plan(resolved)
        opened = preview_opening(resolved, plan, fold.backend, self.inputs, self.clock.now())
        identity = RunIdentity(opened.run_id, None, before.run_id, fold.backend)
        earlier = EarlierImages(identity, Reuse.GROUP, OneRun(folder), UNKNOWN_FILES)
        return plan_reuse(plan, opened, earlier, ComparedRun(other, before))

    def _prepared_rerun(self, rerun: Rerun) -> tuple[RunConfig, StageExecutionPlan]:
        resolved = resolve_choices(rerun.config, self.random_below)
        self.last_plan = plan = build_stage_execution_plan(resolved)
        self._prepare(resolved, plan, rerun.backend)
        return resolved, plan

    def reopen(
        self,
        folder: Path,
        *,
        force: bool = False,
        preflight: bool = True,
        on_file: OnFile | None = None,
    ) -> RunHandle:
        """Go on with a run; the handle of a run that is complete has ended on return."""
        run = reopen_run(folder, force=force, storage=self.storage, on_file=on_file)
        if run.is_complete:
            run.end(self.clock)
            handle = RunHandle(run.fold.run_id, folder)
            self._end(handle, replay(folder), None)
            return handle
        try:
            if run.to_make:
                self._prepare_again(run, preflight=preflight)
        except BaseException:
            run.log.close()
            raise
        return self._launch(run)

    def new_run_id(self, name: str) -> str:
        """An id that no run below the folder of runs has."""
        while True:
            run_id = new_run_id(name, self.clock.now(), self.random_below)
            if not (self.runs / run_id).exists():
                return run_id

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

    def _prepare(
        self,
        config: RunConfig,
        plan: StageExecutionPlan,
        recorded: BackendDescription | None = None,
    ) -> None:
        if isinstance(self.backend, PreparableBackend):
            drawn = config.drawn_prompts
            self.backend.prepare(
                plan,
                config.server_settings,
                preflight=config.run.preflight,
                recorded=recorded,
                **prompts_to_check(drawn.prompts if drawn and plan.prompts else UNSET),
            )

    def _create(
        self,
        resolved: RunConfig,
        plan: StageExecutionPlan,
        origin: VariantOrigin | RerunOrigin | None = None,
        run_id: str | None = None,
    ) -> RunHandle:
        run = create_run(
            self.runs,
            resolved,
            plan,
            self.backend.description,
            inputs=self.inputs,
            clock=self.clock,
            random_below=self.random_below,
            storage=self.storage,
            origin=origin,
            run_id=run_id,
        )
        return self._launch(run)

    def _prepare_again(self, run: ReopenedRun, *, preflight: bool) -> None:
        if not isinstance(self.backend, PreparableBackend):
            return
        with publishing_config_errors():
            self.backend.prepare(
                run.plan,
                run.settings.server,
                preflight=preflight and run.settings.run.preflight,
                recorded=run.backend,
                unsettled=run.unsettled,
                **prompts_to_check(run.fold.opened.prompts if run.fold.opened else UNSET),
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
            thread = threading.Thread(
                target=self._work,
                args=(handle, runner),
                name=f"stagewright-{handle.run_id}",
                daemon=False,  # not inherited: a GUI's worker thread is a daemon
            )
            thread.start()
        except BaseException as error:
            runner.give_up(error)
            raise
        return handle

    def _earlier_images(self, opened: RunOpened | None, mode: Reuse) -> EarlierImages:
        """The images that a run may use again."""
        assert opened is not None
        parent = None if opened.parent_run_id is UNSET else opened.parent_run_id
        is_alone = mode is Reuse.GROUP and opened.group_id is None and parent is None
        index = self.reuse_index
        if index is None or mode is Reuse.NONE or is_alone:
            index = NoIndex()
        index.refresh()
        backend = self.backend
        identity = RunIdentity(opened.run_id, opened.group_id, parent, backend.description)
        return EarlierImages(identity, mode, index, file_hashes_of(backend))

    def _work(self, handle: RunHandle, runner: PipelineRunner) -> None:
        result: PipelineRunResult | None = None
        failure: BaseException | None = None
        try:
            runner.work()
            handle.is_backend_out_of_reach = runner.is_backend_out_of_reach
            result = replay(handle.folder)
        except StagewrightError as error:
            failure = error
        except BaseException as error:  # noqa: BLE001 - the handle's ``wait`` raises it
            failure = LogWriteError(f"the run's end is not known: {error}", path=handle.folder)
            failure.__cause__ = error
        if isinstance(failure, RunNotFoundError):
            failure = LogWriteError(f"the run has gone from the disk: {failure}")
        self._end(handle, result, failure)

    def _end(
        self, handle: RunHandle, result: PipelineRunResult | None, failure: BaseException | None
    ) -> None:
        self.last_result = result
        try:
            self.release()
            self._on_end()
        finally:
            handle.end(result, failure)


def prompts_to_check(prompts: Iterable[ImagePrompt] | UnsetType) -> dict[str, Any]:
    """What ``prepare`` is given of images' own prompts; a backend may know none."""
    texts = prompt_texts(prompts)
    return {"prompts": texts} if texts else {}


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
