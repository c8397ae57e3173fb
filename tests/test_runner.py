"""The runner: events of every stage in order, and what becomes of failures and cancels."""

from __future__ import annotations

import threading
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from stagewright.events import (
    CallCompleted,
    CallFailed,
    CallRequested,
    CancelMode,
    LifecycleChanged,
    Outcome,
    PipelineRunResult,
    RunOpened,
    RunState,
    StageEnd,
    StageEvent,
    StageImageProgress,
    StageStart,
    StageType,
    fold,
    replay,
    subscribe,
)
from stagewright.statemachine import (
    BackendError,
    CancelToken,
    GenerateRequest,
    GenerationCancelled,
)
from stagewright.statemachine.resume.verify import verify_run
from stagewright.statemachine.run import dispatcher

from .simulated_pool import GoneError
from .support import ScriptedBackend, controller, document, png

STAGES = [str(stage) for stage in StageType]
COMBINATIONS = [
    chosen
    for size in range(1, 5)
    for chosen in combinations(STAGES, size)
    if "adetailer" not in chosen or {"txt2img", "img2img"} & set(chosen)
]


def run(runs: Path, backend: ScriptedBackend, config: dict[str, Any]) -> PipelineRunResult:
    return controller(runs, backend).start(config).wait(60)


def with_inputs(folder: Path, stages: tuple[str, ...], images: int) -> dict[str, Any]:
    """A configuration that gives ``images`` images in each of ``stages``."""
    if "txt2img" in stages:
        return document(*stages, images=images)
    inputs = folder / "inputs"
    inputs.mkdir()
    for place in range(images):
        (inputs / f"{place:02d}.png").write_bytes(png(place))
    return document(*stages, input_image=str(inputs))


@pytest.mark.parametrize(
    "images", [3, *(pytest.param(count, marks=pytest.mark.sampled(7)) for count in (1, 10))]
)
@pytest.mark.parametrize("stages", COMBINATIONS, ids="+".join)
def test_each_stage_starts_once_gets_the_sources_of_the_one_before_and_ends_once(
    tmp_path: Path, stages: tuple[str, ...], images: int
) -> None:
    """Events of a stage, and what its requests are made from, for every legal combination."""
    backend = ScriptedBackend()
    result = run(tmp_path / "runs", backend, with_inputs(tmp_path, stages, images))
    assert result.state is RunState.COMPLETED
    told = [
        (type(event).__name__, event.stage_id)
        for event in result.events
        if isinstance(event, StageStart | StageImageProgress | StageEnd)
    ]
    expected = []
    for order, stage_type in enumerate(stages):
        stage_id = f"{order:02d}-{stage_type}"
        expected += [
            ("StageStart", stage_id),
            *[("StageImageProgress", stage_id)] * images,
            ("StageEnd", stage_id),
        ]
    assert told == expected
    progressed = [e.image_index for e in result.events if isinstance(e, StageImageProgress)]
    assert progressed == list(range(images)) * len(stages)
    assert [image.image_index for image in result.images] == list(range(images))
    assert {image.stage_id for image in result.images} == {f"{len(stages) - 1:02d}-{stages[-1]}"}
    opened = result.events[0]
    assert isinstance(opened, RunOpened)
    before: list[tuple[str, ...]] = [(record.source_sha256,) for record in opened.inputs]
    before = before or [()] * images
    for stage in result.stages:
        asked = [
            event.inputs
            for event in result.events
            if isinstance(event, CallRequested) and event.stage_id == stage.stage_id
        ]
        assert asked == before
        before = [(image.source_sha256,) for image in stage.images]
    sent = [request.inputs for request in backend.requests if request.inputs]
    assert all(b"stagewright" not in image.data for inputs in sent for image in inputs)


def test_the_result_is_the_fold_of_the_log_and_nothing_else(tmp_path: Path) -> None:
    """What the caller is handed equals what the log alone folds to, with all else deleted."""
    handle = controller(tmp_path, ScriptedBackend()).start(document(*STAGES, images=2))
    result = handle.wait(60)
    assert fold(tuple(result.events)) == result
    assert replay(handle.folder) == result


def test_images_per_input_and_seeds_follow_the_index(tmp_path: Path) -> None:
    """Index is input x images + k, its seed is the seed plus the index, in names as well."""
    folder = tmp_path / "in"
    folder.mkdir()
    for place in range(2):
        (folder / f"{place}.png").write_bytes(png(place))
    backend = ScriptedBackend()
    config = document("img2img", images=3, input_image=str(folder), seed=50)
    result = run(tmp_path / "runs", backend, config)
    assert result.seeds == tuple(range(50, 56))
    assert [request.seed for request in backend.requests] == list(range(50, 56))
    sources = [request.inputs[0].source_sha256 for request in backend.requests]
    assert len(set(sources[:3])) == len(set(sources[3:])) == 1
    assert sources[0] != sources[3]
    assert result.images[4].path == "images/00-img2img/00004-54-1.png"


def test_a_batched_stage_is_recorded_whole_and_its_last_request_may_be_smaller(
    tmp_path: Path,
) -> None:
    """Seven images in batches of three are three requests, with consecutive artifacts."""
    config = document("txt2img", "upscale", images=7)
    config["txt2img"]["batch_size"] = 3
    backend = ScriptedBackend()
    result = run(tmp_path, backend, config)
    spans = [(r.image_index, r.count) for r in backend.requests if r.stage_type == "txt2img"]
    assert spans == [(0, 3), (3, 3), (6, 1)]
    completed = [e for e in result.events if isinstance(e, CallCompleted)][:3]
    assert [[a.image_index for a in e.artifacts] for e in completed] == [[0, 1, 2], [3, 4, 5], [6]]
    assert len(result.images) == 7


def test_a_backend_with_slots_keeps_that_many_requests_in_flight(tmp_path: Path) -> None:
    """Three slots meet at a barrier that only three requests at once can pass."""
    barrier = threading.Barrier(3, timeout=20)
    backend = ScriptedBackend(lambda _request, _cancel: void(barrier.wait()), slots=3)
    result = run(tmp_path, backend, document(images=6))
    assert result.state is RunState.COMPLETED
    assert [image.image_index for image in result.images] == list(range(6))


def void(_value: object) -> None:
    """A script gives nothing back."""


def test_one_slot_sends_the_next_request_only_when_the_image_before_is_recorded(
    tmp_path: Path,
) -> None:
    """In the log every CallRequested is answered before the next one stands there."""
    result = run(tmp_path, ScriptedBackend(), document(*STAGES, images=3))
    open_calls = 0
    for event in result.events:
        open_calls += isinstance(event, CallRequested) - isinstance(event, CallCompleted)
        assert open_calls in (0, 1)


def failing(index: int, error: Exception, *, times: int = 10**6, stage: str = "txt2img") -> Any:
    left = [times]

    def script(request: GenerateRequest, _cancel: CancelToken) -> None:
        if request.image_index == index and request.stage_type == stage and left[0]:
            left[0] -= 1
            raise error

    return script


@pytest.mark.sampled(2)
@pytest.mark.parametrize("index", [0, 2, 4])
@pytest.mark.parametrize("stage", STAGES)
def test_an_image_that_fails_for_good_ends_the_run_in_error(
    tmp_path: Path, stage: str, index: int
) -> None:
    """The state is ERROR with stage, image, kind and message; what was finished is kept."""
    backend = ScriptedBackend(failing(index, BackendError("no such model"), stage=stage))
    result = run(tmp_path, backend, document(*STAGES, images=5))
    assert (result.state, result.outcome) == (RunState.ERROR, Outcome.FAILED)
    assert result.error is not None
    stage_id = f"{STAGES.index(stage):02d}-{stage}"
    assert (result.error.kind, result.error.message) == ("BackendError", "no such model")
    assert (result.error.stage_id, result.error.image_index) == (stage_id, index)
    change = [e for e in result.events if isinstance(e, LifecycleChanged)][-1]
    assert change.reason == f"{stage_id}, image {index + 1}: BackendError: no such model"
    assert result.stages[-1].image_count == index
    assert result.stages[-1].outcome is Outcome.FAILED
    assert verify_run(tmp_path / result.run_id).flaws == ()


def test_a_transient_failure_is_tried_again_with_the_same_request(tmp_path: Path) -> None:
    """The second attempt has its own call id, the same digest, and the first to settle."""
    backend = ScriptedBackend(failing(1, BackendError("busy", transient=True), times=1))
    result = run(tmp_path, backend, document(images=2, server={"retries": 1}))
    assert result.state is RunState.COMPLETED
    asked = [e for e in result.events if isinstance(e, CallRequested) and e.image_index == 1]
    assert [event.attempt for event in asked] == [0, 1]
    assert asked[0].request_sha256 == asked[1].request_sha256
    assert asked[0].call_id != asked[1].call_id
    assert backend.requests[-1].unanswered == (asked[0].call_id,)
    (failed,) = [e for e in result.events if isinstance(e, CallFailed)]
    assert failed.will_retry


def test_retries_are_bounded(tmp_path: Path) -> None:
    """With one retry a request is sent twice, and the last failure says it is for good."""
    backend = ScriptedBackend(failing(0, BackendError("busy", transient=True)))
    result = run(tmp_path, backend, document(server={"retries": 1}))
    assert result.state is RunState.ERROR
    assert len(backend.requests) == 2
    assert [e.will_retry for e in result.events if isinstance(e, CallFailed)] == [True, False]


def test_a_backend_out_of_reach_is_waited_for_however_often_it_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a thousand looks, as over a night, end in no number that is too large."""
    monkeypatch.setattr(dispatcher, "LONGEST_LOOK_S", 0.0)
    backend = ScriptedBackend(failing(0, GoneError("nobody answers", transient=True), times=1030))
    result = run(tmp_path, backend, document(run={"durability": "process"}))
    assert (result.state, len(backend.requests)) == (RunState.COMPLETED, 1031)


def test_continue_passes_over_a_failed_image_and_never_succeeds_silently(tmp_path: Path) -> None:
    """All other images finish every stage; the outcome is partial and names what is missing."""
    backend = ScriptedBackend(failing(1, BackendError("nan"), stage="img2img"))
    config = document(*STAGES, images=3, run={"on_image_error": "continue"})
    result = run(tmp_path, backend, config)
    assert (result.state, result.outcome) == (RunState.ERROR, Outcome.PARTIAL)
    (gap,) = result.missing
    assert (gap.stage_id, gap.image_index) == ("01-img2img", 1)
    assert gap.error is not None
    assert gap.error.message == "nan"
    assert [image.stage_id for image in result.images] == [
        "03-adetailer",
        "00-txt2img",
        "03-adetailer",
    ]
    assert [stage.image_count for stage in result.stages] == [3, 2, 2, 2]
    assert {e.total_images for e in result.events if isinstance(e, StageStart)} == {3}


@pytest.mark.parametrize("policy", ["continue", "stop"])
def test_an_image_whose_source_was_altered_fails_with_the_reason(
    tmp_path: Path, policy: str
) -> None:
    """No request is sent for it; the log and the missing image say why."""
    backend = ScriptedBackend()

    def alter(event: StageEvent) -> None:
        if isinstance(event, StageEnd) and event.stage_type == StageType.TXT2IMG:
            folder = tmp_path / event.run_id / "images/00-txt2img"
            (source,) = folder.glob("00001-*")
            source.write_bytes(b"altered")

    with subscribe(alter, StageEnd, on="publisher"):
        result = run(
            tmp_path,
            backend,
            document("txt2img", "upscale", images=3, run={"on_image_error": policy}),
        )
    assert result.state is RunState.ERROR
    gap = result.missing[0]
    assert (gap.stage_id, gap.image_index) == ("01-upscale", 1)
    assert gap.error is not None
    assert gap.error.kind == "InputImageError"
    assert "not the file that was recorded" in gap.error.message
    (failure,) = [event for event in result.events if isinstance(event, CallFailed)]
    assert failure.error == gap.error
    asked = [(request.stage_id, request.image_index) for request in backend.requests]
    assert ("01-upscale", 1) not in asked
    assert replay(tmp_path / result.run_id) == result
    resumed = controller(tmp_path, backend).resume(result.run_id).wait(60)
    assert resumed.state is RunState.COMPLETED
    calls = [event.call_id for event in resumed.events if isinstance(event, CallRequested)]
    assert failure.call_id not in calls


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([b"not an image"], "not a PNG"),
        ([png(1)[:-20]], "PNG ends"),
        ([], "0 images instead of 1"),
        ([png(1), png(2)], "2 images instead of 1"),
        ([png(1)[:60] + b"\xff" + png(1)[61:]], "checksum"),
    ],
)
def test_an_answer_that_is_not_the_image_asked_for_is_a_typed_error(
    tmp_path: Path, answer: list[bytes], words: str
) -> None:
    """Nothing half-written is kept, and the error names stage and image."""
    backend = ScriptedBackend(images=lambda _request: answer)
    result = run(tmp_path, backend, document())
    assert result.state is RunState.ERROR
    assert result.error is not None
    assert result.error.kind == "BackendAnswerError"
    assert words in result.error.message
    assert list((tmp_path / result.run_id / "images" / "00-txt2img").iterdir()) == []


def test_an_unexpected_exception_of_a_backend_is_recorded_with_its_traceback(
    tmp_path: Path,
) -> None:
    """A bug in a plug-in ends in ERROR, not in a lost thread."""
    backend = ScriptedBackend(failing(0, ZeroDivisionError("by nought")))
    result = run(tmp_path, backend, document())
    assert result.error is not None
    assert result.error.kind == "ZeroDivisionError"
    assert "Traceback" in result.error.detail


def cancelling(index: int, mode: CancelMode, holder: list[Any]) -> Any:
    """Cancels the run when image ``index`` is being made, and stops as a backend should."""

    def script(request: GenerateRequest, cancel: CancelToken) -> None:
        if request.image_index != index:
            return
        holder[0].cancel(request.run_id, mode=mode, reason="by hand")
        if cancel.cancelled:
            raise GenerationCancelled("stopped half way")

    return script


def test_cancel_during_the_second_of_four_images_keeps_one(tmp_path: Path) -> None:
    """CANCELLED with one image listed; CancelRequested stands before the one transition."""
    holder: list[Any] = []
    backend = ScriptedBackend(cancelling(1, CancelMode.NOW, holder))
    holder.append(controller(tmp_path, backend))
    handle = holder[0].start(document(images=4))
    result = handle.wait(60)
    assert (result.state, result.outcome) == (RunState.CANCELLED, Outcome.CANCELLED)
    assert [image.image_index for image in result.images] == [0]
    assert [gap.image_index for gap in result.missing] == [1, 2, 3]
    names = Counter(type(event).__name__ for event in result.events)
    assert names["CancelRequested"] == 1
    assert [type(event).__name__ for event in result.events][-3:] == [
        "StageEnd",
        "LifecycleChanged",
        "RunSealed",
    ]
    assert len(backend.requests) == 2


def test_cancel_after_image_lets_the_image_finish(tmp_path: Path) -> None:
    """The image being made is kept, and no further one is begun."""
    holder: list[Any] = []
    backend = ScriptedBackend(cancelling(1, CancelMode.AFTER_IMAGE, holder))
    holder.append(controller(tmp_path, backend))
    result = holder[0].start(document(images=4)).wait(60)
    assert result.state is RunState.CANCELLED
    assert [image.image_index for image in result.images] == [0, 1]
    assert len(backend.requests) == 2


def test_a_conflict_ends_the_run_in_error_before_any_request(tmp_path: Path) -> None:
    """Flat and nested keys that disagree load, are listed, and fail the run."""
    backend = ScriptedBackend()
    config = document("txt2img", "upscale", upscale_factor=4.0)
    plan = controller(tmp_path, backend).validate(config)
    assert [conflict.flat_key for conflict in plan.conflicts] == ["upscale_factor"]
    result = run(tmp_path, backend, config)
    assert result.state is RunState.ERROR
    assert result.error is not None
    assert result.error.kind == "StageConflictError"
    assert "upscale_factor = 4.0" in result.error.message
    assert backend.requests == []
