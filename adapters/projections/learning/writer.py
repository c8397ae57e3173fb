"""Adds the record of each run of this process to the learning records when it ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Set
from pathlib import Path

from ....events.errors import StagewrightError
from ....events.log.open_log_registry import path_of_run
from ....events.log.storage import Storage
from ....events.model import RunSealed, StageEvent
from ....events.subscriptions.subscription import Subscription, subscribe
from .record_file import LearningUpdate, RecordFile

LOCK_WAIT_S = 30.0
"""How long to wait for another writer; a rebuild of 10,000 runs takes 15 s."""
END_WAIT_S = 0.8
"""How long the end of a run waits for its record; subscribers have one second."""

_logger = logging.getLogger("stagewright.learning")


class LearningRecordsError(StagewrightError):
    """The records could not be rebuilt."""


class LearningRecordWriter:
    """Writes ``runs/learning.jsonl``: one line for each run below ``runs`` that has ended.

    Between ``start`` and ``close``, or as a context manager, it adds the record of each run of
    this process when the run ends, before ``wait`` of that run returns. It delays a run by less
    than a second; a record that takes longer is completed before the process ends. Errors are
    logged and never reach the run. ``rebuild`` makes all records anew from the logs.

    Safe for threads and processes.
    """

    def __init__(self, runs: Path | str, *, storage: Storage | None = None) -> None:
        self.runs = Path(runs)
        self._file = RecordFile(self.runs, storage or Storage())
        self._subscription: Subscription | None = None

    def start(self) -> LearningRecordWriter:
        """Listen to the runs of this process until ``close``; a second call does nothing."""
        if self._subscription is None:
            # The seal follows every end, also where an earlier process died between the two.
            # On the publisher's thread, so that the end of a run waits for its record.
            self._subscription = subscribe(self._take_seal, RunSealed, on="publisher")
        return self

    def close(self, timeout_s: float = 2.0) -> None:
        """Stop listening; wait this long for a record that is being written."""
        if self._subscription is not None:
            self._subscription.close(timeout_s)
            self._subscription = None

    def __enter__(self) -> LearningRecordWriter:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.close()

    def rebuild(self, *, wait_s: float = LOCK_WAIT_S) -> LearningUpdate:
        """Read all logs and rewrite the file. Waits ``wait_s`` for other writers.

        Raises LearningRecordsError; the file is unchanged then.
        """
        if not self.runs.is_dir():
            return LearningUpdate(path=str(self._file.path))
        try:
            return self._file.rebuild(wait_s=wait_s)
        except OSError as error:
            raise LearningRecordsError(
                f"the learning records in {self.runs} cannot be rebuilt: {error}"
            ) from error

    def renew(self, sources: Set[str], *, wait_s: float = LOCK_WAIT_S) -> None:
        """Bring the records up to date whose images were rated, by the digests of their sources.

        Errors are logged: the next rebuild makes up for it.
        """
        try:
            self._file.renew(sources, wait_s=wait_s)
        except (StagewrightError, OSError) as error:
            _logger.warning(
                "the learning records lack ratings (`stagewright learning` adds them): %s", error
            )

    def _take_seal(self, event: StageEvent) -> None:
        log = path_of_run(event.run_id)
        if log is None or not self._is_ours(log.parent):
            return
        # Not a daemon, so that the process does not end before the record is written.
        thread = threading.Thread(
            target=self._add, args=(log.parent,), name="stagewright-learning", daemon=False
        )
        thread.start()
        thread.join(END_WAIT_S)

    def _is_ours(self, run: Path) -> bool:
        """Whether the run is in this folder of runs."""
        try:
            return run.parent.samefile(self.runs)
        except OSError:
            return False

    def _add(self, run: Path) -> None:
        try:
            self._file.add(run, wait_s=LOCK_WAIT_S)
        except Exception as error:  # no error here may affect a run
            _logger.warning(
                "%s has no learning record (`stagewright learning` makes it): %s",
                run,
                error,
                exc_info=not isinstance(error, StagewrightError | OSError),
            )
