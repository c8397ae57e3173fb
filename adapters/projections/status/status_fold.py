"""Folds events, live steps and the clock into the status of one run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....events.model import (
    CallCompleted,
    CallFailed,
    CallRequested,
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
from .estimate import EpochTime, Pace
from .status import RunStatus, shown
from .weights import pass_of
from .work import CallUnderWay, PlanWork, StageWork

_UNFINISHED = 99.9
"""The highest percentage before the run has completed."""


class StatusFold:
    """The status of one run, from all its events in order.

    Equal events give an equal status. Live steps refine it between events; the progress that
    they have shown is kept until the events have caught up.
    """

    def __init__(self, event: StageEvent, monotonic: Callable[[], float]) -> None:
        self.run_id = event.run_id
        self._monotonic = monotonic
        self._name = ""
        self._state = RunState.IDLE
        self._work = PlanWork({}, 0)
        self._errors = ErrorTracker()
        self._time = EpochTime(event, monotonic)
        self._pace = Pace()
        self._held = 0.0
        self._stage: StageWork | None = None
        self._stage_began_s = 0.0
        self._calls: dict[str, CallUnderWay] = {}
        self._calls_with_steps: list[CallUnderWay] = []
        """Calls with live steps, until their images are finished."""
        self._has_steps = False
        self._call: CallUnderWay | None = None
        self._image_number = 0
        self._stopping: CancelMode | None = None
        self._reason = ""
        self._handlers: dict[type[StageEvent], Callable[[Any], None]] = {
            RunOpened: self._run_opened,
            LifecycleChanged: self._lifecycle_changed,
            StageStart: self._stage_start,
            CallRequested: self._call_requested,
            CallCompleted: self._call_completed,
            CallFailed: self._call_failed,
            StageImageProgress: self._image_progress,
            StageEnd: self._stage_end,
            CancelRequested: self._cancel_requested,
            RunResumed: self._run_resumed,
        }

    def take_event(self, event: StageEvent) -> None:
        """Add one more event."""
        self._time.take(event)
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    def take_step(self, progress: StepProgress) -> None:
        """Add the step of a request that is under way; steps of others are ignored."""
        for call in self._calls.values():
            if (call.stage.stage_id, call.first) == (progress.stage_id, progress.image_index):
                self._has_steps = True
                if call.pass_step is None:
                    self._calls_with_steps.append(call)
                fraction = min(1.0, max(0.0, progress.fraction))
                call.pass_step = pass_of(
                    call.stage.planned, progress.step, progress.steps, fraction
                )
                self._note_advance(self._time.now_s)
                return

    def status(self, *, expects_steps: bool) -> RunStatus:
        """The status now."""
        stage, call = self._stage, self._call
        step = call.pass_step if call is not None else None
        return RunStatus(
            run_id=self.run_id,
            name=self._name,
            state=self._state,
            stage_id=stage.stage_id if stage else "",
            stage_type=stage.planned.stage_type if stage else "",
            stage_number=stage.number if stage else 0,
            stage_count=self._work.stage_count,
            image_number=self._image_number,
            images_at_once=max(1, call.count) if call else 1,
            image_count=stage.image_count if stage else self._work.images,
            images_done=len(stage.finished) if stage else 0,
            step=step.step if step else 0,
            steps=step.steps if step else 0,
            pass_number=step.number if step else 0,
            pass_count=step.total if step else 0,
            percentage=self._percentage(),
            elapsed_s=self._time.shown_s(),
            remaining_s=self._remaining_s(),
            waiting_s=self._waiting_s() if expects_steps or self._has_steps else None,
            attempt=self._errors.attempt(call.stage.stage_id, call.first) if call else 0,
            will_retry=self._errors.will_retry,
            stopping=self._stopping,
            reason=self._reason,
            last_error=self._errors.error,
            warnings=self._errors.warnings(self._work),
        )

    def _run_opened(self, event: RunOpened) -> None:
        name = event.config.get("name")
        self._name = shown(name) if isinstance(name, str) else ""
        self._work = PlanWork(event.plan, len(event.seeds))
        self._errors = ErrorTracker(tuple(planned_warnings(event.plan)))

    def _lifecycle_changed(self, event: LifecycleChanged) -> None:
        self._state = event.dest
        self._time.is_running = event.dest == RunState.RUNNING
        if event.dest != RunState.RUNNING:
            self._forget_calls()
        if event.dest == RunState.CANCELLED:
            self._reason = shown(event.reason)
        elif event.dest == RunState.ERROR:
            self._errors.end(event, self._work.images)
        elif event.dest == RunState.COMPLETED:
            self._errors.error = ""

    def _stage_start(self, event: StageStart) -> None:
        stage = self._work.stage(event.stage_id, str(event.stage_type), event.total_images)
        self._stage = stage
        self._stage_began_s = self._time.at_last_event_s
        self._forget_calls()
        self._image_number = min(len(stage.finished) + 1, stage.image_count)
        self._pace.begin_stage(self._stage_began_s, self._amount())

    def _call_requested(self, event: CallRequested) -> None:
        stage = self._work.stage(event.stage_id)
        call = CallUnderWay(event, stage, self._time.at_last_event_s)
        self._calls[event.call_id] = call
        self._show_call(call)
        self._errors.will_retry = False

    def _call_completed(self, event: CallCompleted) -> None:
        call = self._calls.pop(event.call_id, None)
        if call is None:
            return
        call.has_ended = True
        self._time.make_up(call.sent_s, event.duration_ms)
        unchanged = event.info.get("changed") is False
        for artifact in event.artifacts:
            call.stage.note_unchanged(artifact.image_index, unchanged=unchanged)

    def _call_failed(self, event: CallFailed) -> None:
        call = self._calls.pop(event.call_id, None)
        if call is None:
            self._fail_unsent(event)
        else:
            self._errors.fail(call.stage, call.first, call.count, event)
            call.has_ended, call.pass_step = True, None
            self._calls_with_steps = [one for one in self._calls_with_steps if one is not call]
            self._show_call(call)
            if call.count == 1:
                # It had been finished, and was requested again because its source changed.
                self._work.unfinish(call.stage, call.first)
        self._note_advance(self._time.at_last_event_s)

    def _fail_unsent(self, event: CallFailed) -> None:
        """A failure without a request; the error names the image."""
        stage = self._work.stages.get(event.error.stage_id or "")
        index = event.error.image_index
        if stage is None or index is None or not 0 <= index < stage.image_count:
            self._errors.fail(None, 0, 0, event)
        else:
            self._errors.fail(stage, index, 1, event)

    def _image_progress(self, event: StageImageProgress) -> None:
        stage = self._work.stage(event.stage_id, str(event.stage_type), event.total_images)
        self._work.finish(stage, event.image_index)
        self._errors.correct(event.stage_id, event.image_index)
        if self._calls_with_steps:
            self._calls_with_steps = [
                call for call in self._calls_with_steps if call.has_open_images
            ]
        self._note_advance(self._time.at_last_event_s)

    def _stage_end(self, event: StageEnd) -> None:
        self._time.make_up(self._stage_began_s, event.duration_ms)

    def _cancel_requested(self, event: CancelRequested) -> None:
        self._stopping = event.mode
        self._reason = shown(event.reason)

    def _run_resumed(self, event: RunResumed) -> None:
        lost = self._work.lose(event.lost or {})
        self._errors = ErrorTracker(self._errors.planned, lost)
        self._time = EpochTime(event, self._monotonic)
        self._pace.begin_epoch(self._work.done)
        self._stopping, self._reason = None, ""
        if lost:
            self._held = self._fraction()

    def _show_call(self, call: CallUnderWay) -> None:
        """Show this request, not the others under way."""
        self._call = call
        self._image_number = min(call.first + 1, call.stage.image_count)

    def _forget_calls(self) -> None:
        self._calls.clear()
        self._calls_with_steps.clear()
        self._call = None

    def _note_advance(self, at_s: float) -> None:
        """Raise the shown progress; it never decreases."""
        self._held = max(self._held, self._fraction())
        self._pace.mark(at_s, self._amount())

    def _amount(self) -> float:
        return self._work.done + self._parts()

    def _parts(self) -> float:
        return sum(call.part() for call in self._calls_with_steps)

    def _fraction(self) -> float:
        return self._amount() / self._work.whole if self._work.whole else 0.0

    def _percentage(self) -> float | None:
        if self._state == RunState.COMPLETED:
            return 100.0
        return min(_UNFINISHED, self._held * 100.0) if self._work.whole else None

    def _waiting_s(self) -> float | None:
        """The time since the last request was sent, if a step is still to come."""
        call = self._call
        waits = call is not None and call.pass_step is None and not call.has_ended
        if call is None or not waits or not call.stage.planned.passes:
            return None
        return max(0.0, self._time.now_s - call.sent_s)

    def _remaining_s(self) -> float | None:
        stage, work, trouble = self._stage, self._work, self._errors
        if self._state != RunState.RUNNING or stage is None or not work.whole:
            return None
        left = max(0.0, work.whole - self._amount() - trouble.weight_given_up)
        open_here = max(0, stage.open_images - trouble.images_given_up) * stage.weight
        in_stage = min(left, max(0.0, open_here - self._parts()))
        under_way = sum(call.weight_under_way() for call in self._calls.values())
        return self._pace.remaining_s(
            self._time.now_s, in_stage=in_stage, in_later=left - in_stage, under_way=under_way
        )
