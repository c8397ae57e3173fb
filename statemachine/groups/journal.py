"""The journal of a group: its log and its fold under one lock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypedDict

import msgspec

from ...events import signals
from ...events.groups.fold import GroupFold
from ...events.groups.log import GROUP_LOG_NAME, GroupLog
from ...events.groups.model import (
    GroupEvent,
    GroupOpened,
    GroupRepaired,
    GroupSealed,
    VariantFailure,
)
from ...events.log.lock import LOCK_WAIT_S, FileLock
from ...events.log.storage import Storage
from ...events.model import Durability, ErrorDetail, Outcome
from ...events.subscriptions.dispatcher import Dispatcher
from ..ports import Clock


class GroupEnvelope(TypedDict):
    """The fields that the journal gives to every event."""

    group_id: str
    seq: int
    ts: datetime
    epoch: int


class GroupJournal:
    """Owns the log of a group that is being worked on, and its fold.

    An event is appended, durably; then it changes the fold; then it is announced by the signal
    ``group_changed``. Safe from any thread.
    """

    def __init__(self, log: GroupLog, fold: GroupFold, *, clock: Clock) -> None:
        self.fold = fold
        self._log = log
        self._clock = clock
        self._epoch = fold.epoch
        # Lock order: this one, then the dispatcher's, then a reader's.
        self._lock = threading.RLock()
        self._dispatcher = Dispatcher()

    @classmethod
    def create(
        cls,
        folder: Path,
        opened: GroupOpened,
        lock: FileLock,
        *,
        clock: Clock,
        storage: Storage,
        durability: Durability,
    ) -> GroupJournal:
        """Begin the log of a group. Raises LogWriteError."""
        log = GroupLog.create(folder, opened, storage=storage, durability=durability, lock=lock)
        fold = GroupFold()
        fold.apply(opened)
        return cls(log, fold, clock=clock)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        clock: Clock,
        storage: Storage,
        wait_s: float = LOCK_WAIT_S,
    ) -> GroupJournal:
        """Take the log of a group; nothing is written.

        Raises LogLockedError, LogCorruptError, LogWriteError.
        """
        fold = GroupFold()
        log = GroupLog.open(folder, storage=storage, observe=fold.apply_all, wait_s=wait_s)
        return cls(log, fold, clock=clock)

    @property
    def folder(self) -> Path:
        """The folder of the group."""
        return self._log.path.parent

    @property
    def opened(self) -> GroupOpened:
        """The group's first event."""
        assert self.fold.opened is not None
        return self.fold.opened

    def begin_epoch(self, durability: Durability) -> None:
        """Make the end of the log durable; record what of it had to be cut off.

        Raises LogWriteError, OSError.
        """
        self._epoch = self.fold.epoch + 1
        self._log.begin_epoch(self._epoch, durability)
        cut = self._log.repair(f"{GROUP_LOG_NAME}.torn-{self._epoch}")
        if cut is not None:
            self.record(lambda at: GroupRepaired(**at, **msgspec.structs.asdict(cut)))

    def record(self, make: Callable[[GroupEnvelope], GroupEvent]) -> None:
        """Append the event that ``make`` builds around its envelope, then announce it.

        Returns once the event is durable and its receivers have been called, or were too slow.
        Raises LogWriteError.
        """
        self.append(make)
        self.flush()

    def append(self, make: Callable[[GroupEnvelope], GroupEvent]) -> None:
        """The same, without waiting for the receivers. Raises LogWriteError."""
        with self._lock:
            event = make(
                GroupEnvelope(
                    group_id=self._log.owner,
                    seq=self._log.next_seq,
                    ts=self._clock.now(),
                    epoch=self._epoch,
                )
            )
            self._log.append(event)
            self.fold.apply(event)
            self._announce(event)

    def flush(self) -> None:
        """Wait within bounds until receivers have been called. Never call it with a lock held."""
        self._dispatcher.flush()

    def announce_opening(self) -> None:
        """Announce GroupOpened, which was recorded before there was a journal."""
        self._announce(self.opened)
        self.flush()

    def record_seal(
        self,
        outcome: Outcome,
        failures: Sequence[VariantFailure] = (),
        error: ErrorDetail | None = None,
    ) -> None:
        """Close the epoch. Raises LogWriteError."""
        self.record(
            lambda at: GroupSealed(
                **at,
                count=at["seq"],
                head=self._log.chain,
                outcome=outcome,
                failures=tuple(failures),
                error=error,
            )
        )

    def close(self) -> None:
        """Announce what is waiting and release the log."""
        self._dispatcher.close()
        self._log.close()

    def _announce(self, event: GroupEvent) -> None:
        self._dispatcher.publish(signals.group_changed, event.group_id, group_event=event)
