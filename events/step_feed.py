"""Sampling steps for subscribers with threads of their own: a few each second, one call for all.

A sampler makes hundreds of steps a second at its quickest, and a run would pay for each with a
call of every subscriber, most of which would only count that it does not want this one.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from . import signals
from .progress import StepProgress

STEPS_EVERY_S = 0.1
"""Of the steps told in this time one is handed on: a run's own thread waits, a moment each time,
for a thread that it wakes."""

Take = Callable[[StepProgress], None]


class StepShare:
    """A subscriber's place at a feed, until it leaves; ``skipped`` counts what it was not told."""

    def __init__(self, feed: StepFeed, take: Take) -> None:
        self.take = take
        self._feed = feed
        self._before = feed.skipped
        self._at_the_end: int | None = None

    @property
    def skipped(self) -> int:
        """How many steps there were in its time that nobody was told of."""
        end = self._feed.skipped if self._at_the_end is None else self._at_the_end
        return end - self._before

    def leave(self) -> None:
        """Take no more."""
        if self._at_the_end is None:
            self._at_the_end = self._feed.skipped
            self._feed.part(self)


class StepFeed:
    """The one receiver of the steps of a run, or of all runs, for those who want some of them."""

    returns_at_once = True
    subscriber_name = "sampling steps"

    def __init__(self, run_id: str | None) -> None:
        self._run_id = run_id
        self._lock = threading.Lock()
        self._due_s = 0.0
        self._shares: tuple[StepShare, ...] = ()
        self.skipped = 0

    def join(self, take: Take) -> StepShare:
        """A place for somebody whose ``take`` returns at once; the lock of all feeds is held."""
        share = StepShare(self, take)
        self._shares += (share,)
        # Last, and each time: a finalizer may have let the only other one leave meanwhile.
        of_run = {} if self._run_id is None else {"sender": self._run_id}
        signals.step_progress.connect(self._hear, weak=False, **of_run)
        _feeds[self._run_id] = self
        return share

    def part(self, share: StepShare) -> None:
        """Forget somebody; the last one ends the feed."""
        with _lock:
            self._shares = tuple(one for one in self._shares if one is not share)
            if not self._shares:
                signals.step_progress.disconnect(self._hear)
                if _feeds.get(self._run_id) is self:
                    del _feeds[self._run_id]

    def renew_lock(self) -> None:
        """Take a new lock, in a process that was forked."""
        self._lock = threading.Lock()

    def _hear(self, _sender: str | None, progress: StepProgress) -> None:
        now = time.monotonic()
        with self._lock:
            if now < self._due_s:
                self.skipped += 1
                return
            self._due_s = now + STEPS_EVERY_S
        for share in self._shares:
            share.take(progress)


_feeds: dict[str | None, StepFeed] = {}
_lock = threading.RLock()
"""Whoever holds it may be interrupted by a finalizer that closes a subscription."""


def join_steps(run_id: str | None, take: Take) -> StepShare:
    """Have ``take`` called with some of the steps of a run, or of all; it must return at once."""
    with _lock:
        return (_feeds.get(run_id) or StepFeed(run_id)).join(take)


def _begin_anew() -> None:
    """In a process that was forked nobody is left who would give a lock back."""
    global _lock  # noqa: PLW0603 - there is one for each process
    _lock = threading.RLock()
    for feed in _feeds.values():
        feed.renew_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
