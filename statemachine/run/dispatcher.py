"""Distributes the requests of a stage over the backends that share the work of a run."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ...events.errors import EventLogError, LogWriteError
from ...events.model import CancelMode
from ..config.schema import OnImageError
from ..errors import BackendError
from ..ports import BackendPool, ImageBackend, RecoveringBackend
from .cancel_token import CancelToken
from .requests import retry_wait_s

if TYPE_CHECKING:
    from .stage_run import StageRun

DEFAULT_WAIT_S = 300.0
"""How long to wait for a backend that cannot be reached (contract, section 8)."""
LONGEST_LOOK_S = 10.0
"""The longest pause between two attempts to reach it."""
POLL_S = 0.2
"""How often an order to cancel from another process is looked for (contract, section 6)."""
_MOST_DOUBLINGS = 16
_logger = logging.getLogger("stagewright.runner")


class StageFailedError(Exception):
    """A stage ended early; ``cause`` says why. ``image_index`` is None if it was no image."""

    def __init__(self, stage_id: str, image_index: int | None, cause: Exception) -> None:
        where = stage_id if image_index is None else f"{stage_id}, image {image_index + 1}"
        super().__init__(f"{where}: {type(cause).__name__}: {cause}")
        self.stage_id = stage_id
        self.image_index = image_index
        self.cause = cause


@dataclass(eq=False)
class _Member:
    """One of the backends, and how it is doing; guarded by the dispatcher's lock."""

    backend: ImageBackend
    is_present: bool = True
    is_aside: bool = False
    is_reached: bool = True
    failures: int = 0
    """Failures in a row."""


@dataclass(eq=False)
class _Item:
    """One request with its tries; ``failed_on`` are the members that failed since the last pause.

    It is in the hand of one thread at a time, or in the queue.
    """

    span: range
    is_new: bool = True
    tried: int = 0
    waits: int = 0
    failed_on: set[_Member] = field(default_factory=set)


class _Verdict(NamedTuple):
    """What follows a failure: another member gets the item, or it is tried again after a pause."""

    is_for_others: bool
    will_retry: bool
    pause_s: float


class RequestDispatcher:
    """Has the requests of a stage made, with a thread for each slot of each member.

    An item that fails on one member goes to the front of the queue for another one, which uses up
    no retry, and the member is set aside for a while. Once every member that is not set aside has
    failed on it, the thread that holds it tries it again after a pause. So a backend that is no
    pool tries each item until it has used up its retries.
    """

    def __init__(self, work: StageRun, spans: Iterator[range]) -> None:
        self._work = work
        self._stage = work.stage
        self._backend = work.backend
        self._settings = work.open_run.settings
        self._token = work.token
        self._clock = work.clock
        self._over = CancelToken()
        """No further request is begun; members that are set aside are not waited for."""
        # Guards what follows, and the state of the members. No other lock is taken while it is
        # held, except to find the next span.
        self._changed = threading.Condition()
        self._spans = spans
        self._returned: deque[_Item] = deque()
        self._members: dict[int, _Member] = {}
        self._in_hand = 0
        self._active = 0
        self._failures: list[BaseException] = []
        self._out_of_reach_since: float | None = None

    @property
    def is_out_of_reach(self) -> bool:
        """Whether no member could be reached when one was tried last."""
        return self._out_of_reach_since is not None

    def run(self) -> None:
        """Work until no request is left, one ends the stage, or the run stops.

        Looks for a cancel and for new members meanwhile. Raises StageFailedError, LogWriteError.
        """
        threads: list[threading.Thread] = []
        try:
            ended = False
            while not ended:
                if not self._is_closing():
                    self._take_members(threads)
                with self._changed:
                    ended = self._changed.wait_for(self._has_ended, POLL_S)
                self._work.look_for_cancel()
                if self._token.stopping:
                    self._close()
        finally:
            self._close()
            for thread in threads:
                thread.join()
        if self._failures:
            raise min(self._failures, key=_severity)

    def _has_ended(self) -> bool:
        return self._active == 0 and self._is_closing()

    def _is_closing(self) -> bool:
        return self._over.cancelled or self._token.stopping

    def _close(self) -> None:
        with self._changed:
            self._over.request(CancelMode.NOW)
            self._changed.notify_all()

    def _take_members(self, threads: list[threading.Thread]) -> None:
        """Start threads for new members, and note which have gone."""
        backend = self._backend
        present: Sequence[ImageBackend] = (
            backend.members(self._stage) if isinstance(backend, BackendPool) else (backend,)
        )
        with self._changed:
            for key in self._members.keys() - {id(one) for one in present}:
                self._members.pop(key).is_present = False
                self._changed.notify_all()
        for one in present:
            if id(one) not in self._members:
                self._start_slots(one, threads)
        if not present:
            self._note_absence()

    def _start_slots(self, backend: ImageBackend, threads: list[threading.Thread]) -> None:
        member = _Member(backend)
        with self._changed:
            self._members[id(backend)] = member
        for _ in range(max(1, backend.slots)):
            # The first item is taken here: the members are in the order of preference.
            with self._changed:
                item = self._next_for(member)
                self._active += 1
            # No pool: a pool takes no work once the main thread has ended, a run continues then.
            thread = threading.Thread(
                target=self._serve, args=(member, item), name="stagewright-slot", daemon=False
            )
            thread.start()
            threads.append(thread)

    def _note_absence(self) -> None:
        """Raises StageFailedError once there has been no member for too long."""
        with self._changed:
            is_waiting = self._is_waiting()
        if not is_waiting:
            error = BackendError("no server takes part in the run any more", transient=True)
            raise StageFailedError(self._stage.stage_id, None, error)

    def _serve(self, member: _Member, item: _Item | None) -> None:
        """Make one item after the other on a member, until none is left or one ends the stage."""
        try:
            while (item := item or self._take(member)) is not None:
                pause_s = self._hold(member, item)
                item = None
                if pause_s is not None:
                    self._wait_aside(member, pause_s)
        except BaseException as error:  # noqa: BLE001 - raised on the run's own thread
            with self._changed:
                self._failures.append(error)
            self._close()
        finally:
            with self._changed:
                self._active -= 1
                self._changed.notify_all()

    def _take(self, member: _Member) -> _Item | None:
        """The next item for a member; None if there will be none."""
        with self._changed:
            while member.is_present and not self._is_closing():
                item = self._next_for(member)
                if item is not None:
                    return item
                if self._in_hand == 0 and not self._returned:
                    self._close()
                else:
                    self._changed.wait(POLL_S)
        return None

    def _next_for(self, member: _Member) -> _Item | None:
        """Take the next item that a member may make; the caller holds the lock."""
        for item in self._returned:
            is_failed = member in item.failed_on
            if is_failed and self._has_other(item):
                continue
            self._returned.remove(item)
            if is_failed:
                item.failed_on.clear()
            self._in_hand += 1
            return item
        span = next(self._spans, None)
        if span is None:
            return None
        self._in_hand += 1
        return _Item(span)

    def _has_other(self, item: _Item) -> bool:
        """Whether a member can make the item that has not failed on it."""
        others = {*self._members.values()} - item.failed_on
        return any(not one.is_aside for one in others)

    def _is_for_others(self, item: _Item, error: BackendError) -> bool:
        """Whether another member is to make an item; any other, if this one is out of reach.

        An item uses up no try on a member that cannot be reached.
        """
        others = {*self._members.values()} - item.failed_on
        is_reached = error.is_out_of_reach and any(one.is_reached for one in others)
        return is_reached or self._has_other(item)

    def _hold(self, member: _Member, item: _Item) -> float | None:
        """Make an item; where it was given back, how long the member is set aside."""
        try:
            return self._make(member, item)
        except Exception as error:
            raise StageFailedError(self._stage.stage_id, item.span.start, error) from error
        finally:
            with self._changed:
                self._in_hand -= 1
                self._changed.notify_all()

    def _make(self, member: _Member, item: _Item) -> float | None:
        """Try an item until its images or its last failure are recorded, or the stage is to end.

        Every failure of an image is recorded. Raises what ends the stage: that failure, if
        ``on_image_error`` is STOP, and every error of the log.
        """
        is_new, item.is_new = item.is_new, False
        if is_new and not self._is_closing() and self._work.reuse(item.span):
            return None
        while not self._is_closing():
            if not member.is_present:
                self._give_back(item)
                return None
            attempt = self._work.next_attempt(item.span)
            try:
                self._work.attempt(item.span, attempt, member.backend)
                self._note_success(member)
            except EventLogError:
                raise
            except Exception as error:  # noqa: BLE001 - raised by _note_failure, or recorded
                verdict = self._note_failure(member, item, attempt, error)
                if verdict is None:
                    return None
                if verdict.is_for_others:
                    self._give_back(item)
                    return verdict.pause_s
                self._pause(member, item, verdict.pause_s)
            else:
                return None
        return None

    def _note_failure(
        self, member: _Member, item: _Item, attempt: int, error: Exception
    ) -> _Verdict | None:
        """Record a failure; None if the item is not tried again. Raises it if it ends the stage."""
        verdict = self._judge(member, item, error)
        self._work.record_failure(item.span.start, attempt, error, will_retry=verdict.will_retry)
        # What fails while the run is being stopped may have failed because of that.
        is_transient = isinstance(error, BackendError) and error.transient
        if self._token.cancelled or (is_transient and self._token.stopping):
            return None
        if not verdict.will_retry and self._settings.run.on_image_error is OnImageError.STOP:
            raise error
        return verdict if verdict.will_retry else None

    def _judge(self, member: _Member, item: _Item, error: Exception) -> _Verdict:
        """What follows from a failure; counts it as a try or a wait of the item."""
        server = self._settings.server
        known = error if isinstance(error, BackendError) else BackendError("")
        with self._changed:
            item.failed_on.add(member)
            member.is_reached = not known.is_out_of_reach
            is_waiting = (self._is_waiting() and known.is_out_of_reach) or known.is_restarting
            will_retry = not self._is_closing()
            if known.is_of_backend and self._is_for_others(item, known) and not self._failures:
                member.failures += 1
                member.is_aside = True
                pause_s = self._aside_s(member, error)
                return _Verdict(is_for_others=True, will_retry=will_retry, pause_s=pause_s)
            if is_waiting:
                pause_s = min(self._backoff_s(item.waits), LONGEST_LOOK_S)
                item.waits += 1
                return _Verdict(is_for_others=False, will_retry=will_retry, pause_s=pause_s)
            will_retry = will_retry and known.transient and item.tried < server.retries
            pause_s = retry_wait_s(self._backoff_s(item.tried), error)
            item.waits, item.tried = 0, item.tried + 1
            return _Verdict(is_for_others=False, will_retry=will_retry, pause_s=pause_s)

    def _is_waiting(self) -> bool:
        """Whether no member can be reached, and the run still waits for one."""
        if any(one.is_reached for one in self._members.values()):
            self._out_of_reach_since = None
            return False
        now = self._clock.monotonic_ms()
        if self._out_of_reach_since is None:
            self._out_of_reach_since = now
        wait_s = self._settings.server.wait_s
        waited_ms = now - self._out_of_reach_since
        return waited_ms < 1000 * (DEFAULT_WAIT_S if wait_s is None else wait_s)

    def _aside_s(self, member: _Member, error: Exception) -> float:
        """How long a member is set aside after one more failure in a row."""
        return retry_wait_s(min(self._backoff_s(member.failures - 1), LONGEST_LOOK_S), error)

    def _backoff_s(self, times: int) -> float:
        """The pause after so many others; bounded, because no float holds 2**1024."""
        return self._settings.server.backoff_s * float(2 ** min(times, _MOST_DOUBLINGS))

    def _note_success(self, member: _Member) -> None:
        with self._changed:
            member.failures, member.is_aside, member.is_reached = 0, False, True
            self._out_of_reach_since = None

    def _give_back(self, item: _Item) -> None:
        with self._changed:
            self._returned.appendleft(item)
            self._changed.notify_all()

    def _pause(self, member: _Member, item: _Item, pause_s: float) -> None:
        """Wait before the member tries the item again; others make theirs meanwhile."""
        with self._changed:
            member.is_aside = True
            item.failed_on.clear()
            self._changed.wait_for(self._is_closing, pause_s)
            member.is_aside = False

    def _wait_aside(self, member: _Member, pause_s: float) -> None:
        """Wait until a member that has failed can be tried again."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing() or not member.is_present, pause_s)
                if self._is_closing() or not self._is_spared(member):
                    break
            try:
                if isinstance(member.backend, RecoveringBackend):
                    member.backend.recover(self._over)
                break
            except BackendError as error:
                _logger.info("not used yet: %s", error)
                with self._changed:
                    member.failures += 1
                    member.is_reached = not error.is_out_of_reach
                    pause_s = self._aside_s(member, error)
        with self._changed:
            member.is_aside = False
            self._changed.notify_all()

    def _is_spared(self, member: _Member) -> bool:
        """Whether others can make all images without this member, so that it has time."""
        others = (one for one in self._members.values() if one is not member)
        return self._in_hand > 0 or any(not one.is_aside for one in others)


def _severity(failure: BaseException) -> int:
    """Of several failures the smallest is reported: an unwritable disk before failed images."""
    if isinstance(failure, StageFailedError):
        return 1 if isinstance(failure.cause, LogWriteError) else 2
    return 0  # no Exception: it ends the run's thread
