"""Runs the variants of a group one after the other, from its start or resume to its seal."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from ...events.errors import LogWriteError, RunNotFoundError, StagewrightError
from ...events.groups.model import GroupCancelled, Variant, VariantBegun, VariantFailure
from ...events.model import CancelMode, Outcome, RunState
from ..errors import BackendError, InvalidTransitionError, PreflightError
from ..files.run_folder import CancelOrder, RunFolder, unused_id
from ..groups.folder import check_new_run, variant_folders
from ..groups.journal import GroupJournal
from ..groups.result import REMOVED, GroupResult, group_result, read_variant_run
from ..groups.variant_config import VariantConfigs, VariantOrigin
from .creation import PlannedRun
from .dispatcher import DEFAULT_WAIT_S, LONGEST_LOOK_S, POLL_S
from .handle import RunHandle
from .journal import error_detail
from .launcher import RunLauncher

_logger = logging.getLogger("stagewright.groups")


class GroupRunner:
    """Runs one epoch of one group: ``work`` returns when its log is sealed.

    ``force`` and ``preflight`` are as for ``PipelineController.resume``. Without ``cancelled``,
    runs that were cancelled alone are left as they are. Only ``cancel`` may be called meanwhile,
    from any thread.
    """

    def __init__(
        self,
        folder: RunFolder,
        journal: GroupJournal,
        launcher: RunLauncher,
        *,
        force: bool = False,
        preflight: bool = True,
        cancelled: bool = True,
    ) -> None:
        self.group_id = journal.opened.group_id
        self._folder = folder
        self._journal = journal
        self._configs = VariantConfigs(journal.opened, folder.path)
        self._launcher = launcher
        self._runs = launcher.runs
        self._force = force
        self._preflight = preflight
        self._resumes_cancelled = cancelled
        self._current: RunHandle | None = None
        self._order: CancelOrder | None = None
        self._ends: Counter[str] = Counter()
        self._lost_server_in: Variant | None = None
        self._failures: list[VariantFailure] = []
        # Held while a cancel is recorded, so that the seal comes after it.
        self._cancelling = threading.Lock()
        self._is_over = False
        self._has_begun = False

    @property
    def has_lost_server(self) -> bool:
        """Whether a run has ended because the backend could not be reached any more."""
        return self._lost_server_in is not None

    def cancel(self, mode: CancelMode, reason: str) -> None:
        """Stop the run in progress and begin no other.

        Raises InvalidTransitionError once the group has ended, LogWriteError.
        """
        order = CancelOrder(mode=mode, reason=reason)
        with self._cancelling:
            if self._is_over:
                raise InvalidTransitionError("cancel", self._journal.fold.state)
            self._order = order
            self._journal.append(lambda at: GroupCancelled(**at, mode=mode, reason=reason))
        self._stop_current()
        self._journal.flush()

    def work(self) -> GroupResult:
        """Run what is missing of each variant, in order; the result.

        Raises LogWriteError where the end could not be recorded.
        """
        error: StagewrightError | None = None
        try:
            try:
                self._run_variants()
            except StagewrightError as failure:
                error = failure
            with self._cancelling:
                self._is_over = True
            detail = None if error is None else error_detail(error)
            self._journal.record_seal(self._outcome(), self._failures, detail)
        finally:
            self._journal.close()
        folders = variant_folders(self._runs, self.group_id, self._journal.fold.run_ids)
        return group_result(self._journal.fold, folders)

    def _run_variants(self) -> None:
        """Raises what keeps all further variants from running."""
        opened = self._journal.opened
        folders = variant_folders(self._runs, self.group_id, self._journal.fold.run_ids)
        for variant in opened.variants:
            self._look_for_cancel()
            if self._order is not None:
                return
            end = self._run_variant(variant, folders.get(variant.variant_index))
            self._ends[end] += 1
            if opened.fail_fast and end not in (RunState.COMPLETED, REMOVED):
                return

    def _run_variant(self, variant: Variant, folder: Path | None) -> str:
        """How the variant's run ended."""
        if (state := self._state_to_keep(variant, folder)) is not None:
            return state
        if self._lost_server_in is not None:
            # That run has waited for the server: another one would wait as long, and fail too.
            raise BackendError(
                f"variant {self._lost_server_in.variant_index + 1} could not reach the server any "
                "more, so no other begins; resume the group once the server runs"
            )
        try:
            run = self._start(variant, folder)
        except StagewrightError as error:
            if isinstance(error, LogWriteError) or is_server_out_of_reach(error):
                raise
            self._note_failure(variant, error)
            return RunState.ERROR
        if run is None:
            return RunState.IDLE
        self._has_begun = True
        try:
            with self._as_current(run):
                while not run.wait_ended(POLL_S):
                    self._look_for_cancel()
        finally:
            # A cancel that cannot be recorded ends the group, but not before its run.
            run.wait_ended()
        end = run.wait()
        if run.is_backend_out_of_reach and end.state == RunState.ERROR:
            self._lost_server_in = variant
        return end.state

    def _state_to_keep(self, variant: Variant, folder: Path | None) -> str | None:
        """The state of a variant of which nothing is to be made; else None."""
        if folder is None:
            return REMOVED if variant.variant_index in self._journal.fold.removed else None
        found = read_variant_run(folder)
        if found.is_finished:
            return RunState.COMPLETED
        is_left = not self._resumes_cancelled and found.fold.cancel_requested
        return RunState.CANCELLED if is_left else None

    def _start(self, variant: Variant, folder: Path | None) -> RunHandle | None:
        """Begin or resume the variant's run; None where the group is to stop.

        A server that cannot be reached is waited for, as within a run: at the start only where
        the configuration says so.
        """
        stated = self._configs.wait_s
        wait_s = DEFAULT_WAIT_S if stated is None and self._has_begun else stated or 0.0
        end, pause_s = time.monotonic() + wait_s, POLL_S
        while self._order is None:
            try:
                return self._resume(folder) if folder else self._begin(variant)
            except StagewrightError as error:
                if not is_server_out_of_reach(error) or time.monotonic() >= end:
                    raise
                _logger.warning("waiting for the server, at most %.0f s: %s", wait_s, error)
            self._pause(pause_s)
            pause_s = min(2 * pause_s, LONGEST_LOOK_S)
        return None

    def _pause(self, pause_s: float) -> None:
        """Wait; an order to stop ends the pause."""
        end = time.monotonic() + pause_s
        while self._order is None and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, POLL_S))
            self._look_for_cancel()

    def _resume(self, folder: Path) -> RunHandle:
        return self._launcher.reopen(folder, force=self._force, preflight=self._preflight)

    def _begin(self, variant: Variant) -> RunHandle:
        index, opened = variant.variant_index, self._journal.opened
        config = self._configs.config_of(variant)
        if not self._preflight:
            table = msgspec.structs.replace(config.run, preflight=False)
            config = msgspec.structs.replace(config, run=table)
        known_id = self._journal.fold.run_ids.get(index)
        if known_id is not None:
            check_new_run(self._runs, self.group_id, known_id)
        clock, random_below = self._launcher.clock, self._launcher.random_below
        run_id = known_id or unused_id(self._runs, config.name or "run", clock.now(), random_below)

        def record() -> None:
            if known_id is None:
                self._journal.record(
                    lambda at: VariantBegun(**at, variant_index=index, run_id=run_id)
                )

        run = PlannedRun(
            config,
            run_id,
            opened.seed,
            VariantOrigin(self.group_id, index, variant.values),
            msgspec.structs.replace(opened.backend, options=opened.options),
        )
        return self._launcher.begin(run, before_folder=record)

    @contextmanager
    def _as_current(self, run: RunHandle) -> Iterator[None]:
        self._current = run
        try:
            if self._order is not None:  # it came while the run was being started
                self._stop_current()
            yield
        finally:
            self._current = None

    def _stop_current(self) -> None:
        run, order = self._current, self._order
        if run is not None and order is not None:
            # The run may have just ended by itself.
            with suppress(RunNotFoundError, InvalidTransitionError):
                self._launcher.cancel(run.run_id, order.mode, order.reason)

    def _look_for_cancel(self) -> None:
        """Obey the order of another process to stop, if there is a new one."""
        self._folder.take_cancel_order(self._obey)

    def _obey(self, order: CancelOrder) -> None:
        if order != self._order:
            self.cancel(order.mode, order.reason)

    def _outcome(self) -> Outcome:
        expected = len(self._journal.opened.variants)
        finished = self._ends[RunState.COMPLETED]
        if finished + self._ends[REMOVED] == expected:
            return Outcome.COMPLETED
        if self._order is not None:
            return Outcome.CANCELLED
        return Outcome.PARTIAL if finished else Outcome.FAILED

    def _note_failure(self, variant: Variant, error: StagewrightError) -> None:
        """The variant could not begin, or continue; the others are not affected."""
        failure = VariantFailure(variant_index=variant.variant_index, error=error_detail(error))
        self._failures.append(failure)
        _logger.info("group %s: variant %s: %s", self.group_id, variant.variant_index + 1, error)


def is_server_out_of_reach(error: StagewrightError) -> bool:
    """Whether nothing was begun because the server cannot be reached, which may change."""
    return isinstance(error, PreflightError) and isinstance(error.__cause__, BackendError)
