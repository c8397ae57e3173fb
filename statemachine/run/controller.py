"""The one call for programs that run pipelines: validate, start, cancel, wait, state."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ...events.log.storage import Storage
from ...events.model import CancelMode, RunState
from ...events.result import PipelineRunResult
from ..config.inputs import AnyConfig, ConfigDocument, document_of, resolve_config
from ..errors import ControllerBusyError
from ..files.recorded_files import OnFile
from ..files.run_folder import find_run
from ..groups.planning import GroupPlan, plan_group
from ..plan.builder import build_stage_execution_plan
from ..plan.plan import StageExecutionPlan
from ..ports import Clock, ImageBackend, InputReader, RandomBelow, ReuseIndex, SystemClock
from .creation import PlannedRun
from .group_launcher import GroupLauncher
from .handle import GroupHandle, RunHandle
from .launcher import RunLauncher, publishing_config_errors
from .rerun import Rerun, prepare_rerun
from .reuse_plan import ComparedRun, StageReuse, require_reuse


class PipelineController:
    """Runs one pipeline, or one group of them, at a time on one backend, in a thread of its own.

    Configurations may be a RunConfig, a document with its keys, or the path of a file. Images that
    earlier runs made are found through ``reuse_index``; without it, none is used again. Safe from
    any thread.
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
        reuse_index: ReuseIndex | None = None,
    ) -> None:
        self._lock = threading.Lock()  # guards _busy
        self._busy = False
        self._launcher = RunLauncher(
            backend=backend,
            runs=Path(runs),
            inputs=inputs,
            clock=clock or SystemClock(),
            random_below=random_below,
            storage=storage,
            reuse_index=reuse_index,
            on_end=self._note_run_end,
        )
        self._groups = GroupLauncher(self._launcher, on_end=self._free)

    @property
    def backend(self) -> ImageBackend:
        """The backend that makes the images; recorders wrap its ``generate_images``."""
        return self._launcher.backend

    @property
    def runs(self) -> Path:
        """The folder of the runs, each in a folder named by its id."""
        return self._launcher.runs

    @property
    def state(self) -> RunState:
        """The state of the current run; IDLE while there is none."""
        return self._launcher.state

    @property
    def current_run_id(self) -> str | None:
        """The run that has begun, or is about to begin, and has not ended."""
        return self._launcher.current_run_id

    @property
    def current_group_id(self) -> str | None:
        """The group that has begun and has not ended."""
        return self._groups.current_group_id

    @property
    def last_result(self) -> PipelineRunResult | None:
        """The result of the run that ended last."""
        return self._launcher.last_result

    def get_last_stage_execution_plan_for_tests(self) -> StageExecutionPlan | None:
        """The plan that was built last."""
        return self._launcher.last_plan

    def validate(self, config: AnyConfig) -> StageExecutionPlan:
        """The plan of ``config``; nothing is made. Raises ConfigurationError."""
        ready = resolve_config(config, inputs=self._launcher.inputs, runs=self.runs)
        self._launcher.last_plan = plan = build_stage_execution_plan(ready)
        return plan

    def start(self, config: AnyConfig) -> RunHandle:
        """Begin a run; on return it is RUNNING, durably.

        Raises ConfigurationError (subscribers get a ``config_error``, the state stays IDLE
        and no folder is made), ControllerBusyError, LogWriteError.
        """
        with self._one_at_a_time(), publishing_config_errors():
            ready = resolve_config(config, inputs=self._launcher.inputs, runs=self.runs)
            return self._launcher.begin(PlannedRun(ready))

    def start_recorded(self, run: PlannedRun) -> RunHandle:
        """Begin a run whose id and choices were recorded before, such as that of a queue's job.

        No input is looked for. Raises what ``start`` raises.
        """
        with self._one_at_a_time(), publishing_config_errors():
            return self._launcher.begin(run)

    def plan_recorded_rerun(self, rerun: Rerun) -> tuple[StageReuse, ...]:
        """What a recorded rerun would reuse; see ``plan_rerun``."""
        with self._one_at_a_time():
            found = self._launcher.plan_rerun(rerun)
            self._free()
            return found

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
        complete nothing is made; its handle has ended on return. ``force`` continues where
        earlier epochs made no image; without ``preflight`` a server is not asked for names.

        Raises RunNotFoundError, LogLockedError, LogCorruptError, ImageAlteredError,
        ResumeRefusedError, ConfigurationError (see ``start``), ControllerBusyError,
        LogWriteError. But for the last, nothing has been written then.
        """
        with self._one_at_a_time():
            folder = find_run(self.runs, run_id)
            return self._launcher.reopen(folder, force=force, preflight=preflight, on_file=on_file)

    def plan_against(self, config: AnyConfig, run_id: str) -> tuple[StageReuse, ...]:
        """What a run of ``config`` could reuse of an earlier one, by stage, and why not the rest.

        No server is asked: it counts as unchanged since. Nothing is made. Raises
        ConfigurationError, RunNotFoundError, LogCorruptError, ResumeRefusedError.
        """
        ready = resolve_config(config, inputs=self._launcher.inputs, runs=self.runs)
        other = ComparedRun.read(find_run(self.runs, run_id))
        return self._launcher.plan_against(ready, other)

    def plan_rerun(
        self,
        run_id: str,
        *,
        images: Sequence[int] | None = None,
        overrides: Sequence[str] = (),
    ) -> tuple[StageReuse, ...]:
        """What ``start_rerun`` would reuse of each stage, and why not the rest; nothing is made.

        A server is asked for its names and files. Raises what ``start_rerun`` raises.
        """
        return self.plan_recorded_rerun(self._rerun(run_id, images, overrides))

    def start_rerun(
        self,
        run_id: str,
        *,
        images: Sequence[int] | None = None,
        overrides: Sequence[str] = (),
        from_stage: str | None = None,
    ) -> RunHandle:
        """Begin a new run over the images of an earlier one, with changed settings.

        ``run_id`` is as for ``resume``; ``images`` are indexes of its images, all where it is None;
        ``overrides`` are ``KEY=VALUE`` as for ``--set``. What is equal is reused; with
        ``from_stage`` (its type), the run begins only if all images of the stages before it can be.
        Raises RunNotFoundError, LogCorruptError, ResumeRefusedError, ConfigurationError (nothing is
        made then), ControllerBusyError, LogWriteError.
        """
        with self._one_at_a_time(), publishing_config_errors():
            rerun = self._rerun(run_id, images, overrides)
            if from_stage is not None:
                require_reuse(self._launcher.plan_rerun(rerun), from_stage)
            return self._launcher.begin(rerun.planned)

    def _rerun(self, run_id: str, images: Sequence[int] | None, overrides: Sequence[str]) -> Rerun:
        parent = ComparedRun.read(find_run(self.runs, run_id))
        return prepare_rerun(
            parent, images=images, overrides=overrides, inputs=self._launcher.inputs
        )

    def plan_group(
        self,
        config: AnyConfig | ConfigDocument,
        *,
        vary: Sequence[str] = (),
        zip_axes: bool = False,
    ) -> GroupPlan:
        """The plan of every variant of a sweep; nothing is made.

        ``vary`` are axes as the command line takes them (``txt2img.steps=20,30``), beside those of
        the configuration; with ``zip_axes`` they move together. Raises ConfigurationError.
        """
        return plan_group(
            config if isinstance(config, ConfigDocument) else document_of(config),
            vary=vary,
            zip_axes=zip_axes,
            inputs=self._launcher.inputs,
            runs=self.runs,
            random_below=self._launcher.random_below,
        )

    def start_group(
        self,
        config: AnyConfig | ConfigDocument | GroupPlan,
        *,
        vary: Sequence[str] = (),
        zip_axes: bool = False,
        fail_fast: bool = False,
        group_id: str | None = None,
    ) -> GroupHandle:
        """Begin a group: a run for each variant of a sweep, one after the other.

        See ``plan_group``, whose result can be started too. On return the group's log is durable,
        and its first run is about to begin. With ``fail_fast`` the first variant that does not
        complete ends the group. ``group_id`` is its id, where that was recorded before. Raises
        ConfigurationError (nothing is made then), ControllerBusyError, LogWriteError.
        """
        with self._one_at_a_time(), publishing_config_errors():
            if not isinstance(config, GroupPlan):
                config = self.plan_group(config, vary=vary, zip_axes=zip_axes)
            return self._groups.start(config, fail_fast=fail_fast, group_id=group_id)

    def resume_group(
        self,
        group: str,
        *,
        force: bool = False,
        preflight: bool = True,
        cancelled: bool = True,
    ) -> GroupHandle:
        """Finish what is missing of a group, including variants that have not begun.

        ``group`` is an id, a unique prefix of one, ``last-group`` or the path of a group's folder.
        Of a group that is complete nothing is made; its handle has ended on return. Without
        ``cancelled``, a run that was cancelled alone is left as it is. Raises GroupNotFoundError,
        LogLockedError, LogCorruptError, ResumeRefusedError, ControllerBusyError, LogWriteError.
        """
        with self._one_at_a_time():
            return self._groups.resume(group, force=force, preflight=preflight, cancelled=cancelled)

    def cancel(
        self,
        run_id: str,
        *,
        mode: CancelMode = CancelMode.NOW,
        reason: str = "cancelled by the controller",
    ) -> None:
        """Stop the current run, or the current group; finished images are kept.

        Of a group, the run in progress is stopped and no other begins. Raises RunNotFoundError
        unless ``run_id`` is the id of the current run or group, InvalidTransitionError if it has
        just ended.
        """
        if run_id == self.current_group_id:
            self._groups.cancel(run_id, mode, reason)
        else:
            self._launcher.cancel(run_id, mode, reason)

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
            self._free()
            raise

    def _note_run_end(self) -> None:
        """A run of a group leaves the controller busy until the group ends."""
        if self._groups.current_group_id is None:
            self._free()

    def _free(self) -> None:
        self._busy = False
