"""Folds events, live steps and the clock into the status of one run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....events.folds import ABANDONED, Fold
from ....events.model import (
    CallCompleted,
    CallFailed,
    CallRequested,
    CallReused,
    CancelMode,
    CancelRequested,
    LifecycleChanged,
    RunOpened,
    RunResumed,
    RunState,
    StageEnd,
    StageEvent,
    StageImageProgress,
    StageStart,
    StepProgress,
)
from .error_tracker import ErrorTracker, planned_warnings
from .estimate import EpochTime, Pace, RunProgress
from .server_speeds import ServerSpeeds
from .status import UNFINISHED, RunStatus, shown
from .weights import pass_of
from .work import CallUnderWay, PlanWork


class StatusFold:
    """The status of one run, from all its events in order.

    Equal events give an equal status. Live steps refine it between events; the progress that
    they have shown is kept until the events have caught up.
    """

    def __init__(self, event: StageEvent, monotonic: Callable[[], float]) -> None:
        self.run_id = event.run_id
        self._monotonic = monotonic
        self._fold = Fold()
        self._name = ""
        self._work = PlanWork(self._fold)
        self._errors = ErrorTracker()
        self._time = EpochTime(event, monotonic)
        self._pace = Pace()
        self._servers = ServerSpeeds()
        self._at_once = 1
        """The most requests of this stage that were under way at once."""
        self._held = 0.0
        """The highest finished part of the plan that was shown."""
        self._stage_id = ""
        self._stage_type = ""
        self._stage_began_s = 0.0
        self._calls: dict[str, CallUnderWay] = {}
        self._has_steps = False
        self._call: CallUnderWay | None = None
        """The call that is shown: the last one that was sent or failed."""
        self._image_number = 0
        self._stopping: CancelMode | None = None
        self._reason = ""
        self._handlers: dict[type[StageEvent], Callable[[Any], None]] = {
            RunOpened: self._open,
            LifecycleChanged: self._change_state,
            StageStart: self._begin_stage,
            CallRequested: self._send,
            CallCompleted: self._complete,
            CallReused: self._reuse,
            CallFailed: self._fail,
            StageImageProgress: self._announce,
            StageEnd: lambda end: self._time.make_up(self._stage_began_s, end.duration_ms),
            CancelRequested: self._stop,
        }

    def take_event(self, event: StageEvent) -> None:
        """Add one more event."""
        self._time.take(event)
        finished = self._work.finished_images() if isinstance(event, RunResumed) else 0
        self._fold.apply(event)
        if isinstance(event, RunResumed):
            self._resume(event, lost=finished - self._work.finished_images())
        elif (handler := self._handlers.get(type(event))) is not None:
            handler(event)

    def take_step(self, progress: StepProgress) -> None:
        """Add the step of a request that is under way; steps of others are ignored."""
        for call in self._calls.values():
            if (call.stage_id, call.first) == (progress.stage_id, progress.image_index):
                self._has_steps = True
                fraction = min(1.0, max(0.0, progress.fraction))
                planned = self._work.planned(call.stage_id)
                call.pass_step = pass_of(planned, progress.step, progress.steps, fraction)
                call.marked_s = self._time.now_s
                self._note_advance(self._time.now_s)
                return

    def status(self, *, expects_steps: bool) -> RunStatus:
        """The status now."""
        call = self._call
        step = call.pass_step if call else None
        return RunStatus(
            run_id=self.run_id,
            name=self._name,
            state=self._fold.state,
            stage_id=self._stage_id,
            stage_type=self._stage_type,
            stage_number=self._work.number_of(self._stage_id),
            stage_count=self._work.stage_count,
            image_number=self._image_number,
            images_at_once=max(1, call.count) if call else 1,
            requests_at_once=self._at_once,
            image_count=self._work.images,
            images_done=self._work.finished_in(self._stage_id),
            step=step.step if step else 0,
            steps=step.steps if step else 0,
            pass_number=step.number if step else 0,
            pass_count=step.total if step else 0,
            percentage=self._percentage(),
            elapsed_s=self._time.shown_s(),
            remaining_s=self._remaining_s(),
            waiting_s=self._waiting_s() if expects_steps or self._has_steps else None,
            attempt=call.attempt if call else 0,
            will_retry=self._errors.will_retry,
            stopping=self._stopping,
            reason=self._reason,
            last_error=self._errors.error,
            warnings=tuple(self._errors.warnings(self._work)),
        )

    def progress(self) -> RunProgress | None:
        """How far the run is, and the pace of its own work; None without a plan."""
        whole, tally = self._work.whole, self._pace.tally
        if not whole:
            return None
        is_complete = self._fold.state == RunState.COMPLETED
        return RunProgress(
            state=self._fold.state,
            fraction=1.0 if is_complete else min(1.0, self._amount() / whole),
            seconds=tally.seconds,
            worked=tally.amount / whole,
        )

    def _open(self, event: RunOpened) -> None:
        name = event.config.get("name")
        self._name = shown(name) if isinstance(name, str) else ""
        self._work = PlanWork(self._fold)
        self._errors = ErrorTracker(tuple(planned_warnings(event.plan)))

    def _change_state(self, event: LifecycleChanged) -> None:
        self._time.is_running = event.dest == RunState.RUNNING
        if event.dest != RunState.RUNNING:
            self._forget_calls()
        if event.dest == RunState.CANCELLED:
            self._reason = shown(event.reason)
        elif event.dest == RunState.ERROR:
            self._errors.end(event, self._work.images)
        elif event.dest == RunState.COMPLETED:
            self._errors.error = ""

    def _begin_stage(self, event: StageStart) -> None:
        self._stage_id, self._stage_type = event.stage_id, str(event.stage_type)
        self._stage_began_s = self._time.at_last_event_s
        self._forget_calls()
        self._at_once = 1
        self._show_image(self._work.finished_in(event.stage_id))
        self._pace.mark(self._stage_began_s, self._amount())
        self._pace.begin_stage()

    def _send(self, event: CallRequested) -> None:
        call = CallUnderWay(event, self._work.images, self._time.at_last_event_s)
        self._calls[event.call_id] = self._call = call
        self._servers.send(call)
        self._at_once = max(self._at_once, len(self._calls))
        self._show_image(call.first)
        self._errors.will_retry = False

    def _complete(self, event: CallCompleted) -> None:
        call = self._calls.pop(event.call_id, None)
        if call is not None:
            call.has_ended = True
            self._time.make_up(call.sent_s, event.duration_ms)
            weight = self._work.planned(call.stage_id).weight * call.count
            self._servers.complete(call, self._time.at_last_event_s, weight)
            self._errors.correct(call.stage_id, event.artifacts)
            self._note_advance(self._time.at_last_event_s)

    def _reuse(self, event: CallReused) -> None:
        self._errors.correct(event.stage_id, event.artifacts)
        if not self._calls:
            self._call, self._errors.will_retry = None, False
            self._show_image(event.image_index)
        self._note_reuse()

    def _announce(self, event: StageImageProgress) -> None:
        stage = self._fold.stages.get(event.stage_id)
        if stage is not None and event.image_index in stage.reused:
            self._note_reuse()
        else:
            self._note_advance(self._time.at_last_event_s)

    def _fail(self, event: CallFailed) -> None:
        if event.error.kind == ABANDONED:
            return  # its image did not fail: another server makes it
        call, error, total = self._calls.pop(event.call_id, None), event.error, self._work.images
        if call is not None:
            self._errors.fail(event, call.stage_id, call.first, call.count, total)
            call.has_ended, call.pass_step = True, None
            self._servers.fail(call)
            self._call = call
            self._show_image(call.first)
        elif error.stage_id in self._fold.stages and error.image_index in range(total):
            # No request was sent; the error names the image.
            self._errors.fail(event, error.stage_id or "", error.image_index or 0, 1, total)
        else:
            self._errors.fail(event, "", 0, 0, total)
        self._note_advance(self._time.at_last_event_s)

    def _stop(self, event: CancelRequested) -> None:
        self._stopping, self._reason = event.mode, shown(event.reason)

    def _resume(self, event: RunResumed, *, lost: int) -> None:
        self._errors = ErrorTracker(self._errors.planned, lost)
        self._time = EpochTime(event, self._monotonic)
        self._pace.begin_epoch(self._work.done)
        self._servers, self._at_once = ServerSpeeds(), 1
        self._stopping, self._reason = None, ""
        if lost:
            self._held = self._fraction(self._work.done)

    def _show_image(self, index: int) -> None:
        self._image_number = min(index + 1, self._work.images)

    def _forget_calls(self) -> None:
        self._calls.clear()
        self._call = None

    def _note_advance(self, at_s: float) -> None:
        """Raise the shown progress; it never decreases."""
        amount = self._amount()
        self._held = max(self._held, self._fraction(amount))
        self._pace.mark(at_s, amount)

    def _note_reuse(self) -> None:
        """Raise the shown progress by images that took no work: they tell no pace."""
        amount = self._amount()
        self._held = max(self._held, self._fraction(amount))
        self._pace.skip(self._time.at_last_event_s, amount, idle=not self._calls)

    def _amount(self) -> float:
        return self._work.done + self._parts()

    def _parts(self) -> float:
        return sum(map(self._work.part_of, self._calls.values()))

    def _fraction(self, amount: float) -> float:
        return amount / self._work.whole if self._work.whole else 0.0

    def _percentage(self) -> float | None:
        if self._fold.state == RunState.COMPLETED:
            return 100.0
        return min(UNFINISHED, self._held * 100.0) if self._work.whole else None

    def _waiting_s(self) -> float | None:
        """The time since the last request was sent, if the first step is still to come."""
        call = self._call
        if any(one.pass_step for one in self._calls.values()):
            return None
        waits = call is not None and call.pass_step is None and not call.has_ended
        if call is None or not waits or not self._work.planned(call.stage_id).passes:
            return None
        return max(0.0, self._time.now_s - call.sent_s)

    def _remaining_s(self) -> float | None:
        work, given_up = self._work, self._errors.given_up
        if self._fold.state != RunState.RUNNING or not self._stage_id or not work.whole:
            return None
        lost = sum(images * work.weight_from(stage_id) for stage_id, images in given_up.items())
        left = max(0.0, work.whole - self._amount() - lost)
        images = work.images - work.finished_in(self._stage_id) - sum(given_up.values())
        open_here = max(0, images) * work.planned(self._stage_id).weight
        in_stage = min(left, max(0.0, open_here - self._parts()))
        now_s, in_later, calls = self._time.now_s, left - in_stage, self._calls.values()
        of_servers = self._servers.remaining_s(
            now_s, calls, work, self._stage_id, in_stage=in_stage, in_later=in_later
        )
        if of_servers is not None:
            return of_servers
        under_way = sum(map(work.weight_under_way, calls))
        return self._pace.remaining_s(
            now_s, in_stage=in_stage, in_later=in_later, under_way=under_way
        )
