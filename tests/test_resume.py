"""Resume from every place at which a run can have stopped: the records, and the same result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stagewright.events import (
    CallCompleted,
    CallRequested,
    LifecycleChanged,
    PipelineRunResult,
    RunResumed,
    RunSealed,
    RunState,
    StageEnd,
    StageImageProgress,
    StageStart,
    iterate,
    replay,
)
from stagewright.statemachine import BackendError, CancelToken, GenerateRequest
from stagewright.statemachine.resume.verify import verify_run

from .log_format import split_bodies, split_lines
from .resuming import (
    FOUR,
    LOG,
    asked,
    check_story,
    check_told_once,
    comparable,
    copied,
    cut,
    cut_before,
    dies_at,
    epoch_of,
    only,
    painter,
    ran,
    resumed,
    small,
    words,
)

WHOLE = {"four stages": 36, "batches": 24}
"""How many records the uninterrupted runs have."""
STARTS = {
    RunState.RUNNING: ["fail", "recover", "RunResumed", "start"],
    RunState.IDLE: ["RunResumed", "start"],
}
CUTS = [(name, records) for name, count in WHOLE.items() for records in range(1, count + 1)]


def configured(name: str) -> dict[str, Any]:
    """The configuration of one of the uninterrupted runs."""
    if name == "batches":
        return small("txt2img", "img2img", images=3, batch=2)
    return small(*FOUR)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of runs that nothing interrupted."""
    return {name: ran(tmp_path_factory.mktemp("whole"), configured(name)) for name in WHOLE}


def finished_in(result: PipelineRunResult) -> set[tuple[str, int]]:
    """Stage and index of each image that a log says is finished."""
    return {
        (event.stage_id, image.image_index)
        for completed in only(result.events, CallCompleted)
        for event in only(result.events, CallRequested)
        if event.call_id == completed.call_id
        for image in completed.artifacts
    }


def check_resumed(result: PipelineRunResult, before: PipelineRunResult, expected: Path) -> None:
    """The run ends as the uninterrupted one, and its log tells a proper story of it."""
    assert comparable(result) == comparable(replay(expected))
    assert result.resumes == before.resumes + 1
    check_story(result.events)
    check_told_once(result.events)
    new = epoch_of(result, before.events[-1].epoch + 1)
    assert list(result.events[: len(before.events)]) == list(before.events)
    assert list(result.events[len(before.events) :]) == new
    assert words(new)[-2:] == ["finish", "RunSealed"]
    started = [event.stage_id for event in only(new, StageStart)]
    assert started == [event.stage_id for event in only(new, StageEnd)]
    worked = {event.stage_id for event in new if isinstance(event, CallRequested)}
    worked |= {event.stage_id for event in new if isinstance(event, StageImageProgress)}
    ended = {event.stage_id for event in only(before.events, StageEnd)}
    planned = {stage["stage_id"] for stage in before.plan["stages"]}
    assert set(started) == worked | (planned - ended)
    (resumption,) = only(new, RunResumed)
    assert resumption.completed_images == len(finished_in(before))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("torn", [False, True], ids=["", "torn"])
@pytest.mark.parametrize(("name", "records"), CUTS)
def test_a_log_cut_after_any_record_is_resumed_to_the_same_end(
    whole: dict[str, Path], tmp_path: Path, name: str, records: int, *, torn: bool
) -> None:
    """Nothing that is recorded is made again, and the result is that of the whole run."""
    folder = copied(whole[name], tmp_path)
    lines = split_lines((folder / LOG).read_bytes())
    assert len(lines) == WHOLE[name]
    following = lines[records : records + 1]
    tail = following[0][: len(following[0]) // 2] if torn and following else b""
    cut(folder, records, torn=tail)
    before, backend = replay(folder), painter()
    result = resumed(folder, backend)
    new = epoch_of(result, 1)
    repairs = ["LogRepaired"] if tail else []
    if before.state is RunState.COMPLETED:
        sealing = [] if records == WHOLE[name] else ["RunSealed"]
        assert words(new) == (repairs or []) + sealing
        assert backend.requests == []
        return
    assert words(new)[: len(repairs) + len(STARTS[before.state])] == repairs + STARTS[before.state]
    check_resumed(result, before, whole[name])
    unfinished = finished_in(replay(whole[name])) - finished_in(before)
    made = {(one.stage_id, one.image_index + k) for one in backend.requests
            for k in range(one.count)}  # fmt: skip
    assert made == unfinished
    assert sum(one.count for one in backend.requests) == len(unfinished)
    verified = verify_run(folder)
    assert verified.sound
    assert verified.finished
    if before.state is RunState.RUNNING:
        fail = only(new, LifecycleChanged)[0]
        assert (fail.reason, fail.error is None) == ("process died", False)


def test_a_run_with_two_slots_is_resumed_from_any_record(tmp_path: Path) -> None:
    """Requests that were in flight side by side are each sent again, no other one."""
    config = small("txt2img", "img2img", images=4, run={"durability": "process"})
    finished = ran(tmp_path / "whole", config, painter(slots=2))
    count = len(split_lines((finished / LOG).read_bytes()))
    for records in range(1, count):
        folder = copied(finished, tmp_path / str(records))
        cut(folder, records)
        before, backend = replay(folder), painter(slots=2)
        result = resumed(folder, backend)
        assert comparable(result) == comparable(replay(finished)), records
        assert len(backend.requests) == 8 - len(finished_in(before)), records
        check_story(result.events)
        check_told_once(result.events)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("stage_id", ["00-txt2img", "01-img2img", "02-upscale", "03-adetailer"])
@pytest.mark.parametrize("index", [0, 1])
def test_a_run_that_failed_goes_on_at_the_image_that_failed(
    whole: dict[str, Path], tmp_path: Path, stage_id: str, index: int
) -> None:
    """``recover``, ``RunResumed``, ``start``; the failed request is sent again as attempt 1."""
    folder = ran(tmp_path, configured("four stages"), painter(dies_at((stage_id, index))))
    before = replay(folder)
    assert before.state is RunState.ERROR
    backend = painter()
    result = resumed(folder, backend)
    assert words(epoch_of(result, 1))[:4] == ["recover", "RunResumed", "start", "StageStart"]
    assert comparable(result) == comparable(replay(whole["four stages"]))
    check_story(result.events)
    assert asked(backend)[0] == (stage_id, index)
    assert backend.requests[0].attempt == 1
    again = [one.request_sha256 for one in only(result.events, CallRequested)
             if (one.stage_id, one.image_index) == (stage_id, index)]  # fmt: skip
    assert len(again) == 2
    assert len(set(again)) == 1


def test_retries_count_anew_and_attempts_go_on(tmp_path: Path) -> None:
    """Two retries in each of three epochs make attempts 0 to 8."""

    def script(_request: GenerateRequest, _cancel: CancelToken) -> None:
        raise BackendError("busy", transient=True)

    config = small(images=1, server={"retries": 2, "backoff_s": 0.001})
    folder = ran(tmp_path, config, painter(script))
    resumed(folder, painter(script))
    result = resumed(folder, painter(script))
    requests = only(result.events, CallRequested)
    assert [(one.epoch, one.attempt) for one in requests] == [(k // 3, k) for k in range(9)]
    check_story(result.events)
    assert len({one.request_sha256 for one in requests}) == 1


def test_what_the_dead_process_sent_is_told_to_the_backend(
    whole: dict[str, Path], tmp_path: Path
) -> None:
    """The request without an answer is sent again with its seed, naming the call before it."""
    folder = copied(whole["four stages"], tmp_path)
    cut_before(folder, CallCompleted, 1)
    lost = only(list(iterate(folder)), CallRequested)[-1]
    backend = painter()
    resumed(folder, backend)
    first, *others = backend.requests
    assert first.unanswered == (lost.call_id,)
    assert (first.attempt, first.seed, first.image_index) == (1, 101, 1)
    assert first.request_sha256 == lost.request_sha256
    assert all(one.unanswered == () for one in others)


def test_the_lock_file_names_the_epoch_that_is_written(
    whole: dict[str, Path], tmp_path: Path
) -> None:
    """While the second epoch works, after it, and after a resume that finds nothing to do."""
    folder = copied(whole["four stages"], tmp_path)
    seen: list[int] = []

    def script(_request: GenerateRequest, _cancel: CancelToken) -> None:
        seen.append(json.loads((folder / "run.lock").read_text())["epoch"])

    cut(folder, 20)
    resumed(folder, painter(script))
    assert set(seen) == {1}
    resumed(folder)
    assert json.loads((folder / "run.lock").read_text())["epoch"] == 1


def test_seals_of_several_epochs_all_hold(tmp_path: Path) -> None:
    """Each covers every record before it; earlier seals stay where they are."""
    script = dies_at(("00-txt2img", 1))
    folder = ran(tmp_path, small("txt2img", "img2img"), painter(script))
    resumed(folder, painter(script))
    result = resumed(folder)
    seals = only(result.events, RunSealed)
    assert [(one.epoch, one.outcome) for one in seals] == [
        (0, "failed"), (1, "failed"), (2, "completed"),
    ]  # fmt: skip
    assert [one.count for one in seals] == [one.seq for one in seals]
    assert len(split_bodies((folder / LOG).read_bytes())) == len(result.events)
