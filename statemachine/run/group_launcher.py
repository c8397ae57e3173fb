"""Starts and resumes groups of runs, each in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from ...events.errors import LogWriteError, RunNotFoundError
from ...events.groups.log import GROUP_LOG
from ...events.groups.model import GroupOpened, GroupResumed
from ...events.log.storage import Storage
from ...events.model import CancelMode, Durability, Outcome, RunState
from ..errors import ResumeRefusedError
from ..files.run_folder import RunFolder, new_folder, unused_id
from ..groups.folder import (
    GROUPS_NAME,
    find_group,
    runs_around,
    variant_folders,
)
from ..groups.found_files import FileCopies
from ..groups.journal import GroupJournal
from ..groups.planning import GroupPlan
from ..groups.result import (
    GroupResult,
    VariantResult,
    finished_variants,
    result_of_variants,
)
from ..groups.variant_config import VariantConfigs
from .group_runner import GroupRunner
from .handle import GroupHandle
from .journal import process_fields
from .launcher import RunLauncher


class GroupLauncher:
    """Starts groups whose runs a ``RunLauncher`` starts; the caller starts one at a time.

    ``on_end`` is called when a group has ended, before its handle has.
    """

    def __init__(self, launcher: RunLauncher, *, on_end: Callable[[], object]) -> None:
        self._launcher = launcher
        self._on_end = on_end
        self._current: GroupRunner | None = None

    @property
    def current_group_id(self) -> str | None:
        """The group that has begun and has not ended."""
        current = self._current
        return None if current is None else current.group_id

    def start(
        self, plan: GroupPlan, *, fail_fast: bool, group_id: str | None = None
    ) -> GroupHandle:
        """See ``PipelineController.start_group``."""
        launcher, durability = self._launcher, plan.durability
        storage = launcher.storage or Storage()
        storage.syncs = durability is not Durability.PROCESS
        try:
            # Checks the names of all variants, and reads the options of the server once.
            launcher.prepare(
                plan.union, plan.server, preflight=plan.preflight, prompts=plan.prompts
            )
            place, opened_at = launcher.runs / GROUPS_NAME, launcher.clock.now()
            if group_id is None:
                group_id = unused_id(place, plan.name or "group", opened_at, launcher.random_below)
            with new_folder(place / group_id, storage, GROUP_LOG) as (folder, lock):
                opened = self._opened(plan, folder, opened_at, fail_fast=fail_fast)
                journal = GroupJournal.create(
                    folder.path,
                    opened,
                    lock,
                    clock=launcher.clock,
                    storage=storage,
                    durability=durability,
                )
        finally:
            launcher.release()
        return self._launch(journal, GroupRunner(folder, journal, launcher))

    def resume(self, group: str, *, force: bool, preflight: bool, cancelled: bool) -> GroupHandle:
        """See ``PipelineController.resume_group``."""
        launcher = self._launcher
        path = find_group(launcher.runs, group)
        if (own := runs_around(path, launcher.runs)) != launcher.runs:
            # Its runs would not be found here, and all of them be made again.
            raise ResumeRefusedError(
                f"{path}: the runs of this group are in {own}, and not in {launcher.runs}: "
                "resume it with a controller of that folder"
            )
        folder = RunFolder(path, storage=launcher.storage or Storage())
        journal = GroupJournal.open(path, clock=launcher.clock, storage=folder.storage)
        try:
            # With the lock held: an order to cancel that comes later is meant for this process.
            stale_cancel = folder.cancel_stamp()
            fold, durability = journal.fold, VariantConfigs(journal.opened, path).durability
            folders = variant_folders(launcher.runs, fold.group_id, fold.run_ids)
            finished = finished_variants(fold, folders)
            if finished is not None:
                return self._end_complete(journal, finished, durability)
            journal.begin_epoch(durability)
            if stale_cancel is not None:
                folder.forget_cancel_order(stale_cancel)
            journal.record(lambda at: GroupResumed(**at, **process_fields()))
        except BaseException as error:
            journal.close()
            if isinstance(error, OSError):
                raise LogWriteError(f"the group cannot be resumed: {error}", path=path) from error
            raise
        runner = GroupRunner(
            folder, journal, launcher, force=force, preflight=preflight, cancelled=cancelled
        )
        return self._launch(journal, runner, is_new=False)

    def cancel(self, group_id: str, mode: CancelMode, reason: str) -> None:
        """Stop the current group. Raises RunNotFoundError, InvalidTransitionError."""
        current = self._current
        if current is None or current.group_id != group_id:
            raise RunNotFoundError(f"group {group_id} is not running here")
        current.cancel(mode, reason)

    def _opened(
        self,
        plan: GroupPlan,
        folder: RunFolder,
        opened_at: datetime,
        *,
        fail_fast: bool,
    ) -> GroupOpened:
        copies = FileCopies(folder.path, folder.storage)
        backend = self._launcher.backend.description
        return GroupOpened(
            group_id=folder.path.name,
            seq=0,
            ts=opened_at,
            config=plan.document,
            axes=plan.axes,
            variants=tuple(one.record() for one in plan.variants),
            seed=plan.seed,
            options=backend.options,
            name=plan.name or "",
            random=plan.random,
            random_seed=plan.random_seed,
            fail_fast=fail_fast,
            backend=backend,
            found=tuple(msgspec.to_builtins(copies.copy(one)) for one in plan.found),
            **process_fields(),
        )

    def _end_complete(
        self, journal: GroupJournal, variants: Sequence[VariantResult], durability: Durability
    ) -> GroupHandle:
        """The handle of a group of which nothing is missing; its log is sealed if it is not."""
        fold = journal.fold
        try:
            if fold.state != RunState.COMPLETED:
                journal.begin_epoch(durability)
                journal.record_seal(Outcome.COMPLETED)
        finally:
            journal.close()
        handle = GroupHandle(fold.group_id, journal.folder)
        self._on_end()
        handle.end(result_of_variants(fold, variants))
        return handle

    def _launch(
        self, journal: GroupJournal, runner: GroupRunner, *, is_new: bool = True
    ) -> GroupHandle:
        handle = GroupHandle(runner.group_id, journal.folder)
        self._current = runner
        try:
            if is_new:
                journal.announce_opening()
            handle.start(lambda: self._work(handle, runner), lambda _result: self._end())
        except BaseException:
            self._current = None
            journal.close()
            raise
        return handle

    def _work(self, handle: GroupHandle, runner: GroupRunner) -> GroupResult:
        result = runner.work()
        handle.is_backend_out_of_reach = runner.has_lost_server
        return result

    def _end(self) -> None:
        self._current = None
        self._on_end()
