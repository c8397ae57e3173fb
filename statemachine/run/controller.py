"""The one call for programs that run pipelines: validate, start, cancel, wait, state."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import UNSET, UnsetType

from ...events import signals
from ...events.errors import LogWriteError, RunNotFoundError, StagewrightError
from ...events.folds import replay
from ...events.log.storage import Storage
from ...events.model import CancelMode, ImagePrompt, RunState
from ...events.origins import prompt_texts
from ...events.result import PipelineRunResult
from ..config.inputs import AnyConfig, resolve_config
from ..errors import ConfigurationError, ControllerBusyError
from ..files.recorded_files import OnFile
from ..files.run_folder import find_run
from ..plan.builder import build_stage_execution_plan
from ..plan.plan import StageExecutionPlan
from ..ports import (
    Clock,
    ImageBackend,
    InputReader,
    PreparableBackend,
    RandomBelow,
    SystemClock,
)
from ..resume.reopen import ReopenedRun, reopen_run
from .creation import NewRun, create_run, resolve_choices
from .runner import PipelineRunner
from .stage_run import OpenRun

_logger = logging.getLogger("stagewright.controller")


class RunHandle:
    """A run that was started."""

    def __init__(self, run_id: str, folder: Path) -> None:
        self.run_id = run_id
        self.folder = folder
        self._ended = threading.Event()
        self._result: PipelineRunResult | None = None
        self._error: BaseException | None = None

    @property
    def result(self) -> PipelineRunResult | None:
        """The run's result once it has ended, else None."""
        return self._result

    def wait(self, timeout_s: float | None = None) -> PipelineRunResult:
        """Wait for the run to end; its result, folded from its log.

        Raises TimeoutError, and LogWriteError when the run's end could not be recorded.
        """
        if not self.wait_ended(timeout_s):
            raise TimeoutError(f"run {self.run_id} has not ended within {timeout_s} s")
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def wait_ended(self, timeout_s: float | None = None) -> bool:
        """Wait for the run to end, however it ends; whether it has."""
        return self._ended.wait(timeout_s)

    def _end(self, result: PipelineRunResult | None, error: BaseException | None) -> None:
        self._result = result
        self._error = error
        self._ended.set()


class PipelineController:
    """Runs one pipeline at a time on one backend, in a thread of its own.

    Configurations may be a RunConfig, a document with its keys, or the path of a file. Safe
    from any thread.
    """

    def __init__(
        self,
        *,
        backend: ImageBackend,
        runs: Path,
        inputs: InputReader,
        clock: Clock | None = None,
        random_below: RandomBelow = secrets.randbelow,
        storage: Storage | None = None,
    ) -> None:
        self._backend = backend
        self._runs = Path(runs)
        self._inputs = inputs
        self._clock: Clock = clock or SystemClock()
        self._random_below = random_below
        self._storage = storage
        self._lock = threading.Lock()  # guards _busy
        self._busy = False
        self._current: tuple[RunHandle, PipelineRunner] | None = None
        self._last_result: PipelineRunResult | None = None
        self._last_plan: StageExecutionPlan | None = None

    @property
    def backend(self) -> ImageBackend:
        """The backend that makes the images; recorders wrap its ``generate_images``."""
        return self._backend

    @property
    def runs(self) -> Path:
        """The folder of the runs, each in a folder named by its id."""
        return self._runs

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

    @property
    def last_result(self) -> PipelineRunResult | None:
        """The result of the run that ended last."""
        return self._last_result

    def get_last_stage_execution_plan_for_tests(self) -> StageExecutionPlan | None:
        """The plan that was built last."""
        return self._last_plan

    def validate(self, config: AnyConfig) -> StageExecutionPlan:
        """The plan of ``config``; nothing is made. Raises ConfigurationError."""
        ready = resolve_config(config, inputs=self._inputs, runs=self._runs)
        self._last_plan = plan = build_stage_execution_plan(ready)
        return plan

    def start(self, config: AnyConfig) -> RunHandle:
        """Begin a run; on return it is RUNNING, durably.

        Raises ConfigurationError (subscribers get a ``config_error``, the state stays IDLE
        and no folder is made), ControllerBusyError, LogWriteError.
        """
        with self._one_at_a_time():
            with _publishing_config_errors():
                run = self._create(config)
            return self._launch(run)

    def resume(
        self,
        run_id: str,
        *,
        force: bool = False,
        preflight: bool = True,
        on_file: OnFile | None = None,
    ) -> RunHandle:
        """Go on with a run that died, failed or was cancelled; on return it is RUNNING, durably.

        ``run_id`` is an id, a unique prefix of one, ``last`` or the path of a run folder. Every
        recorded file is checked first, and ``on_file`` called after each. Of a run that is
        complete nothing is made; its handle has ended on return. ``force`` goes on where
        earlier epochs made no image; without ``preflight`` a server is not asked for names.

        Raises RunNotFoundError, LogLockedError, LogCorruptError, ImageAlteredError,
        ResumeRefusedError, ConfigurationError (see ``start``), ControllerBusyError,
        LogWriteError. But for the last, nothing has been written then.
        """
        with self._one_at_a_time():
            folder = find_run(self._runs, run_id)
            run = reopen_run(folder, force=force, storage=self._storage, on_file=on_file)
            if run.is_complete:
                run.end(self._clock)
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

    def cancel(
        self,
        run_id: str,
        *,
        mode: CancelMode = CancelMode.NOW,
        reason: str = "cancelled by the controller",
    ) -> None:
        """Stop the current run; its finished images are kept.

        Raises RunNotFoundError unless ``run_id`` is the current run, InvalidTransitionError
        if it has just ended.
        """
        current = self._current
        if current is None or current[0].run_id != run_id:
            raise RunNotFoundError(f"run {run_id} is not running here")
        current[1].cancel(mode, reason)

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Refuse other runs until this one has ended, or could not be launched."""
        with self._lock:
            if self._busy:
                raise ControllerBusyError("this controller has a run already; wait for its end")
            self._busy = True
        try:
            yield
        except BaseException:
            self._release()
            raise

    def _release(self) -> None:
        """Be ready for another run, once the backend has released what it held for this one."""
        try:
            if isinstance(self._backend, PreparableBackend):
                self._backend.release()
        except BaseException as error:
            if signals.is_for_the_program(error):
                raise
            # The run has ended all the same: its result, or its error, must reach the caller.
            name, kind = type(self._backend).__name__, type(error).__name__
            _logger.error("the backend %s failed to release: %s: %s", name, kind, error)  # noqa: TRY400 - a user reads it
        finally:
            self._current = None
            self._busy = False

    def _create(self, config: AnyConfig) -> NewRun:
        ready = resolve_config(config, inputs=self._inputs, runs=self._runs)
        resolved = resolve_choices(ready, self._random_below)
        self._last_plan = plan = build_stage_execution_plan(resolved)
        if isinstance(self._backend, PreparableBackend):
            drawn = resolved.drawn_prompts
            self._backend.prepare(
                plan,
                resolved.server_settings,
                preflight=resolved.run.preflight,
                **_prompts(drawn.prompts if drawn and plan.prompts else UNSET),
            )
        return create_run(
            self._runs,
            resolved,
            plan,
            self._backend.description,
            inputs=self._inputs,
            clock=self._clock,
            random_below=self._random_below,
            storage=self._storage,
        )

    def _prepare_again(self, run: ReopenedRun, *, preflight: bool) -> None:
        if not isinstance(self._backend, PreparableBackend):
            return
        with _publishing_config_errors():
            self._backend.prepare(
                run.plan,
                run.settings.server,
                preflight=preflight and run.settings.run.preflight,
                recorded=run.backend,
                unsettled=run.unsettled,
                **_prompts(run.fold.opened.prompts if run.fold.opened else UNSET),
            )

    def _launch(self, run: OpenRun) -> RunHandle:
        """Move the run to RUNNING, and give it its thread."""
        handle = RunHandle(run.fold.run_id, run.folder.path)
        runner = PipelineRunner(run, backend=self._backend, inputs=self._inputs, clock=self._clock)
        self._last_plan = run.plan
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

    def _work(self, handle: RunHandle, runner: PipelineRunner) -> None:
        result: PipelineRunResult | None = None
        failure: BaseException | None = None
        try:
            runner.work()
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
        self._last_result = result
        try:
            self._release()
        finally:
            handle._end(result, failure)  # noqa: SLF001 - the handle is the controller's own


def _prompts(prompts: Iterable[ImagePrompt] | UnsetType) -> dict[str, Any]:
    """What ``prepare`` is given of images' own prompts; a backend may know none."""
    texts = prompt_texts(prompts)
    return {"prompts": texts} if texts else {}


@contextmanager
def _publishing_config_errors() -> Iterator[None]:
    """Publish the error of a configuration with which nothing was started."""
    try:
        yield
    except ConfigurationError as error:
        message = f"Config Error: {error}"
        told = {"message": message, "error": error, "errors": error.errors}
        signals.publish(signals.config_error, None, **told)
        raise
