"""From events to the state of a run: the only place where a result is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import UNSET

from .log.reader import read_log
from .model import (
    BackendDescription,
    CallCompleted,
    CallFailed,
    CallRequested,
    CallReused,
    CancelMode,
    CancelRequested,
    ErrorDetail,
    ImagesRemoved,
    LifecycleChanged,
    Outcome,
    RunOpened,
    RunResumed,
    RunSealed,
    RunState,
    StageEnd,
    StageEvent,
    StageImageProgress,
    StageStart,
)
from .result import FinishedImages, MissingImage, PipelineRunResult, StageResult
from .stage_fold import StageFold

MISSING_IMAGES = "MissingImagesError"
"""The error kind with which a run ends that went on past failed images."""
ABANDONED = "Abandoned"
"""The error kind of a call without an answer, to a server that no longer belongs to the run."""
PROCESS_DIED = "ProcessDied"
"""The error kind of the failure that a resume records for a process that died."""


def is_end(event: StageEvent) -> bool:
    """Whether the process that executed a run has ended it with this event, in any way."""
    return (
        isinstance(event, LifecycleChanged)
        and event.dest.is_end
        and (event.error is None or event.error.kind != PROCESS_DIED)
    )


def recorded_stages(plan: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The stages of a recorded plan, each with a ``stage_id`` and a ``config`` table.

    A foreign log may hold anything in their place; what is not a stage is left out.
    """
    stages = plan.get("stages")
    return [
        {**stage, "config": config if isinstance(config := stage.get("config"), dict) else {}}
        for stage in (stages if isinstance(stages, list | tuple) else ())
        if isinstance(stage, Mapping) and isinstance(stage.get("stage_id"), str)
    ]


class Fold:
    """The state of a run, event by event. ``apply`` never fails on what a sound log holds."""

    def __init__(self) -> None:
        self.opened: RunOpened | None = None
        self.run_id = ""
        self.state = RunState.IDLE
        self.error: ErrorDetail | None = None
        self.outcome: Outcome | None = None
        self.sealed = False
        self.resumes = 0
        self.epoch = 0
        self.backend: BackendDescription | None = None
        """The backend of the last epoch that recorded one."""
        self.epochs_without_progress = 0
        """Epochs in a row, up to now, that sent a request and finished no image."""
        self._sending_epoch: int | None = None
        self.cancel_requested = False
        """Whether the last epoch was asked to stop."""
        self.stages: dict[str, StageFold] = {}
        self._pending: dict[str, CallRequested] = {}
        self._handlers: dict[type[StageEvent], Callable[[Any], None]] = {
            RunOpened: self._run_opened,
            LifecycleChanged: self._lifecycle_changed,
            StageStart: self._stage_start,
            CallRequested: self._call_requested,
            CallCompleted: self._call_completed,
            CallReused: self._call_reused,
            CallFailed: self._call_failed,
            CancelRequested: self._cancel_requested,
            StageImageProgress: self._image_progress,
            StageEnd: self._stage_end,
            RunResumed: self._run_resumed,
            ImagesRemoved: self._images_removed,
            RunSealed: self._run_sealed,
        }

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each image index."""
        return self.opened.seeds if self.opened else ()

    @property
    def plan(self) -> Mapping[str, Any]:
        """The resolved plan as it was recorded."""
        return self.opened.plan if self.opened else {}

    def apply(self, event: StageEvent) -> None:
        """Take one more event into account."""
        self.apply_all((event,))

    def apply_all(self, events: Sequence[StageEvent]) -> None:
        """Take more events into account, in order; there is at least one."""
        handler_of = self._handlers.get
        for event in events:
            handler = handler_of(type(event))
            if handler is not None:
                handler(event)
        last = events[-1]
        self.run_id, self.epoch = last.run_id, last.epoch
        self.sealed = isinstance(last, RunSealed)

    def _run_opened(self, event: RunOpened) -> None:
        self.opened = event
        self.backend = event.backend

    def _lifecycle_changed(self, event: LifecycleChanged) -> None:
        self.state = event.dest
        self.error = None
        if event.dest == RunState.ERROR:
            self.error = event.error or ErrorDetail(kind="Error", message=event.reason)
        self.outcome = self._derived_outcome()

    def _derived_outcome(self) -> Outcome | None:
        if self.error is not None:
            partial = self.error.kind == MISSING_IMAGES
            return Outcome.PARTIAL if partial else Outcome.FAILED
        ends = {RunState.COMPLETED: Outcome.COMPLETED, RunState.CANCELLED: Outcome.CANCELLED}
        return ends.get(self.state)

    def _stage_start(self, event: StageStart) -> None:
        stage = self.stages.get(event.stage_id)
        if stage is None:
            self.stages[event.stage_id] = StageFold(event)
        else:
            stage.outcome = None
            stage.metadata = event.metadata
            # The process that began it before died within it.
            stage.duration_ms += stage.open_ms
            stage.open_ms = 0.0

    def _call_requested(self, event: CallRequested) -> None:
        self._pending[event.call_id] = event
        if event.epoch != self._sending_epoch:
            self._sending_epoch = event.epoch
            self.epochs_without_progress += 1
        stage = self.stages.get(event.stage_id)
        if stage is not None:
            server = self._server_of(event)
            stage.attempts[event.image_index] = event.attempt + 1
            stage.unsettled.setdefault(event.image_index, {})[event.call_id] = server
            # Before it accepts another image, a backend may have to interrupt the old ones.
            left = {index for index, at in stage.abandoned.items() if at == server}
            stage.interrupted |= left - {event.image_index}
            for index in left:
                del stage.abandoned[index]

    def _server_of(self, event: CallRequested) -> str | None:
        """The server of a call; logs of older releases name that of the epoch alone."""
        if event.server is not UNSET:
            return event.server
        return self.backend.url if self.backend else None

    def _call_completed(self, event: CallCompleted) -> None:
        request = self._pending.pop(event.call_id, None)
        stage = self.stages.get(request.stage_id) if request else None
        if request is None or stage is None:
            return
        self.epochs_without_progress = 0
        server = self._server_of(request)
        stage.open_ms += event.duration_ms
        calls = stage.unsettled.pop(request.image_index, {})
        # Other servers may still work on this image.
        if left := {call_id: at for call_id, at in calls.items() if at != server}:
            stage.unsettled[request.image_index] = left
        stage.abandoned.pop(request.image_index, None)
        stage.interrupted.discard(request.image_index)
        stage.maybe_interrupted.discard(request.image_index)
        stage.first_answers.setdefault(server, (request.image_index, event.info))
        stage.finish_all(event)
        # A server settles what was left behind on it before it gets other work.
        for one in self.stages.values():
            one.settle(server, self._is_over)

    def _is_over(self, call_id: str) -> bool:
        """Whether the answer of a call is waited for no more."""
        request = self._pending.get(call_id)
        return request is None or request.epoch != self._sending_epoch

    def _call_reused(self, event: CallReused) -> None:
        stage = self.stages.get(event.stage_id)
        if stage is not None:
            self.epochs_without_progress = 0
            stage.finish_all(event)
            stage.reused.update(one.image_index for one in event.artifacts)

    def _call_failed(self, event: CallFailed) -> None:
        request = self._pending.pop(event.call_id, None)
        if event.error.kind == ABANDONED:
            self._abandon(event.call_id)
            return
        if request is None:
            self._note_unsent(event.error)
            return
        stage = self.stages.get(request.stage_id)
        if stage is None:
            return
        stage.maybe_interrupted.discard(request.image_index)
        if event.interrupted is True:
            stage.interrupted.add(request.image_index)
        if event.settled is not True:
            stage.abandoned[request.image_index] = self._server_of(request)
        else:
            stage.unsettled.get(request.image_index, {}).pop(event.call_id, None)
        end = min(request.image_index + request.count, len(self.seeds))
        for index in range(request.image_index, end):
            stage.failures[index] = event.error
            # A finished image is requested again because its source has changed. In a batch that
            # is repeated for the sake of another image it remains valid.
            if request.count == 1 and index in stage.finished:
                stage.invalidate(index)

    def _abandon(self, call_id: str) -> None:
        """Forget a call to a server that no longer belongs to the run; its image did not fail."""
        for stage in self.stages.values():
            for calls in stage.unsettled.values():
                calls.pop(call_id, None)

    def _note_unsent(self, error: ErrorDetail) -> None:
        """Note why an image failed for which no request could be made; it counts as an attempt."""
        stage, index = self.stages.get(error.stage_id or ""), error.image_index
        if stage is not None and index is not None and 0 <= index < len(self.seeds):
            stage.failures[index] = error
            stage.attempts[index] = stage.attempts.get(index, 0) + 1

    def _cancel_requested(self, event: CancelRequested) -> None:
        """Note the requests in progress: a process that dies now may have interrupted them."""
        self.cancel_requested = True
        if event.mode != CancelMode.NOW:
            return
        for request in self._pending.values():
            stage = self.stages.get(request.stage_id)
            if stage is not None:
                stage.maybe_interrupted.add(request.image_index)

    def _image_progress(self, event: StageImageProgress) -> None:
        stage = self.stages.get(event.stage_id)
        if stage is None:
            return
        stage.unannounced.discard(event.image_index)
        # A salvaged log may have lost the CallCompleted.
        stage.finished.setdefault(event.image_index, event.seq)

    def _stage_end(self, event: StageEnd) -> None:
        stage = self.stages.get(event.stage_id)
        if stage is not None:
            stage.outcome = event.outcome
            stage.duration_ms += event.duration_ms
            stage.open_ms = 0.0

    def _run_resumed(self, event: RunResumed) -> None:
        self.resumes += 1
        self.cancel_requested = False
        self.backend = event.backend
        present = event.backend.urls
        for one in self.stages.values():
            kept = one.first_answers.items()
            one.first_answers = {server: it for server, it in kept if server in present}
            one.abandoned = {index: at for index, at in one.abandoned.items() if at in present}
        for stage_id, rows in (event.lost or {}).items():
            stage = self.stages.get(stage_id)
            if stage is not None and stage.finished:
                begin = 0
                for first, last in sorted(rows):
                    # Rows of a foreign log may overlap: no index is visited twice.
                    end = min(last + 1, len(self.seeds))
                    for index in range(max(first, begin), end):
                        stage.invalidate(index)
                    begin = max(begin, end)

    def _images_removed(self, event: ImagesRemoved) -> None:
        for artifact in event.artifacts:
            folder, _, stage_id = artifact.path.rpartition("/")[0].partition("/")
            stage = self.stages.get(stage_id) if folder == "images" else None
            if stage is not None and artifact.image_index in stage.finished:
                stage.removed.add(artifact.image_index)

    def _run_sealed(self, event: RunSealed) -> None:
        self.outcome = event.outcome

    def planned_stage_ids(self) -> list[str]:
        """The stages of the plan in order; those that started, for a plan without any."""
        planned = [str(stage["stage_id"]) for stage in recorded_stages(self.plan)]
        return planned or list(self.stages)

    def _in_order(self) -> list[StageFold]:
        """The stages as the plan has them; in a damaged log a later one may have begun first."""
        places = {stage_id: place for place, stage_id in enumerate(self.planned_stage_ids())}
        return sorted(self.stages.values(), key=lambda one: places.get(one.stage_id, len(places)))

    def missing(self) -> tuple[MissingImage, ...]:
        """What was planned and is not finished, by index."""
        stage_ids = self.planned_stage_ids()
        return tuple(
            gap
            for index in range(len(self.seeds))
            if (gap := self._gap(index, stage_ids)) is not None
        )

    def _gap(self, index: int, stage_ids: Sequence[str]) -> MissingImage | None:
        for stage_id in stage_ids:
            stage = self.stages.get(stage_id)
            if stage is None or index not in stage.finished:
                error = stage.failures.get(index) if stage else None
                return MissingImage(stage_id=stage_id, image_index=index, error=error)
        return None

    def result(self, events: Sequence[StageEvent]) -> PipelineRunResult:
        """The run's result; ``events`` are those that were applied, and stay readable."""
        return PipelineRunResult(
            run_id=self.run_id,
            state=self.state,
            outcome=self.outcome,
            plan=self.plan,
            stages=tuple(self._stage_result(stage, events) for stage in self._in_order()),
            images=self._furthest_images(events),
            missing=self.missing(),
            seeds=self.seeds,
            error=self.error,
            resumes=self.resumes,
            events=events,
        )

    def _stage_result(self, stage: StageFold, events: Sequence[StageEvent]) -> StageResult:
        finished = [(stage.stage_id, *image) for image in stage.finished_in_order()]
        return StageResult(
            stage_id=stage.stage_id,
            stage_type=stage.stage_type,
            outcome=stage.outcome,
            image_count=len(finished),
            images=FinishedImages(events, finished),
            duration_ms=stage.duration_ms + stage.open_ms,
            metadata=stage.shown_metadata(),
        )

    def _furthest_images(self, events: Sequence[StageEvent]) -> FinishedImages:
        furthest = {
            index: (stage.stage_id, index, seq)
            for stage in self._in_order()
            for index, seq in stage.finished.items()
        }
        return FinishedImages(events, [furthest[index] for index in sorted(furthest)])


def fold(events: Iterable[StageEvent]) -> PipelineRunResult:
    """The result of a run from its events, in order and from the first on.

    A pure function; the same events give an equal result. A sequence is kept as the
    result's ``events`` as it is, so a log on disk is not drawn into memory.
    """
    timeline = events if isinstance(events, Sequence) else tuple(events)
    state = Fold()
    for event in timeline:
        state.apply(event)
    return state.result(timeline)


def replay(run: Path | str, *, until: int | None = None) -> PipelineRunResult:
    """The result of a run from its folder or log alone, after event ``until`` if given.

    Sends no signals. Raises RunNotFoundError, LogCorruptError, and ValueError for a negative
    ``until``.
    """
    if until is not None and until < 0:
        raise ValueError(
            f"until = {until}: events are numbered from 0; a number beyond the last event gives "
            "the whole log"
        )
    state = Fold()
    timeline = read_log(run, state.apply_all, until=until)
    return state.result(timeline)


def replay_many(runs: Iterable[Path | str]) -> Iterator[PipelineRunResult]:
    """The results of several runs, one at a time."""
    return map(replay, runs)
