"""A worker of the queue: what it runs, in which order, and how it stops and goes on."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from stagewright.adapters import PillowInputReader
from stagewright.events import LogCorruptError, Outcome, RunState, replay
from stagewright.events.queue.jobs import Job, JobState
from stagewright.events.queue.model import PauseMode
from stagewright.statemachine import (
    BackendError,
    CancelToken,
    GenerateRequest,
    JobQueue,
    JobRefusedError,
    SingleNodeJobRunner,
    plan_job,
    plan_rerun_job,
    plan_resume_job,
)
from stagewright.statemachine.queue.job_runner import WorkEnd
from stagewright.statemachine.queue.job_start import JobStarter

from .command_line import until
from .log_format import make_log
from .queueing import LOG, event_types, names, new_job, queue_events, sqlite_queue, work
from .support import ScriptedBackend, controller, document, png


def job_of(queue: JobQueue, name: str = "job") -> Job:
    """The job of this name."""
    return queue.find(name)


def test_every_kind_of_job_is_run_to_its_end(tmp_path: Path) -> None:
    """A run, a sweep, a rerun of the run, and the resume of what failed."""
    queue = sqlite_queue(tmp_path)
    backend = ScriptedBackend()
    queue.add([new_job("one", images=2), new_job("sweep", vary=["txt2img.steps=2,3"])])
    work(queue, backend)
    assert [job.outcome for job in queue.jobs(JobState.ENDED)] == [Outcome.COMPLETED] * 2
    failed = controller(tmp_path, ScriptedBackend(fail)).start(document(name="failed")).wait()
    assert failed.state == RunState.ERROR
    rerun = plan_rerun_job(
        "one",
        overrides=["txt2img.steps=7"],
        inputs=PillowInputReader(),
        runs=tmp_path,
        random_below=lambda _end: 5,
    )
    resumes = [plan_resume_job(name, runs=tmp_path) for name in ("failed", "last-group")]
    queue.add([rerun, *resumes])
    work(queue, backend)
    ended = queue.jobs(JobState.ENDED)
    assert [(job.job, job.outcome) for job in reversed(ended)] == [
        (kind, "completed") for kind in ("run", "sweep", "rerun", "resume", "resume")
    ]
    again = replay(tmp_path / str(ended[2].run_id))
    assert again.seeds == replay(tmp_path / str(ended[4].run_id)).seeds
    assert job_of(queue, "failed").run_id == failed.run_id
    steps = [request.config.steps for request in backend.requests if request.stage_id]  # type: ignore[attr-defined]  # a txt2img
    assert sorted(steps) == [2, 3, 3, 3, 3, 7, 7]


def fail(_request: GenerateRequest, _cancel: CancelToken) -> None:
    raise BackendError("it is broken")


def test_what_a_job_makes_is_decided_when_it_is_added(tmp_path: Path) -> None:
    """Prompt file, wildcards and input image may change, or go, at midnight."""
    runs = tmp_path / "runs"
    (tmp_path / "in.png").write_bytes(png(3))
    (tmp_path / "wildcards").mkdir()
    (tmp_path / "wildcards" / "colour.txt").write_text("red\n")
    content = {**document("img2img"), "input_image": "in.png", "dynamic_prompts": True}
    content["prompt"] = "a __colour__ boat"
    content["seed"] = -1
    config = tmp_path / "night.json"
    config.write_text(json.dumps(content))
    queue = sqlite_queue(runs)
    job = plan_job(config, inputs=PillowInputReader(), runs=runs, random_below=lambda _end: 77)
    (added,) = queue.add([job])
    config.write_text("{}")
    (tmp_path / "in.png").write_bytes(png(4))
    (tmp_path / "wildcards" / "colour.txt").write_text("blue\n")
    backend = ScriptedBackend()
    work(queue, backend)
    (request,) = backend.requests
    assert request.inputs[0].data == png(3)
    assert request.config.prompt == "a red boat"  # type: ignore[attr-defined]  # a txt2img
    assert request.seed == 77
    assert not (runs / "queue" / added.job_id).exists(), "the run has copies of its own"


def test_a_job_that_fails_does_not_stop_the_others_and_can_be_retried(tmp_path: Path) -> None:
    """Its run is resumed: the finished image is kept."""
    queue = sqlite_queue(tmp_path)
    queue.add([new_job("bad", images=2), new_job("good")])
    broken = ScriptedBackend(lambda request, _: fail_second(request))
    work(queue, broken)
    assert [(job.name, job.outcome) for job in reversed(queue.jobs(JobState.ENDED))] == [
        ("bad", Outcome.FAILED),
        ("good", Outcome.COMPLETED),
    ]
    assert "it is broken" in job_of(queue, "bad").reason
    queue.retry(job_of(queue, "bad").job_id)
    backend = ScriptedBackend()
    work(queue, backend)
    assert job_of(queue, "bad").outcome is Outcome.COMPLETED
    assert [request.image_index for request in backend.requests] == [1]


def fail_second(request: GenerateRequest) -> None:
    if request.image_index == 1:
        raise BackendError("it is broken")


def test_a_run_that_cannot_begin_ends_its_job_with_the_reason(tmp_path: Path) -> None:
    """The parent of a rerun is gone; the next job begins."""
    controller(tmp_path).start(document(name="parent")).wait()
    queue = sqlite_queue(tmp_path)
    rerun = plan_rerun_job(
        "parent", inputs=PillowInputReader(), runs=tmp_path, random_below=lambda _end: 5
    )
    queue.add([rerun, new_job("next")])
    for path in tmp_path.glob("*-parent-*/events.jsonl"):
        path.unlink()
    work(queue)
    ended = {job.name: job for job in queue.jobs(JobState.ENDED)}
    assert ended["next"].outcome is Outcome.COMPLETED
    assert ended["parent"].outcome is Outcome.FAILED
    assert "no run" in ended["parent"].reason


@pytest.mark.parametrize(
    ("mode", "images"), [(PauseMode.NOW, 1), (PauseMode.AFTER_IMAGE, 2), (PauseMode.AFTER_RUN, 3)]
)
def test_a_pause_stops_the_job_in_progress_as_it_says(
    mode: PauseMode, images: int, tmp_path: Path
) -> None:
    """While the second of three images is made; once resumed, the job goes on from there."""
    queue, paused = sqlite_queue(tmp_path), threading.Event()

    def pause(request: GenerateRequest, cancel: CancelToken) -> None:
        if request.image_index == 1 and not paused.is_set():
            sqlite_queue(tmp_path).pause(mode)
            paused.set()
            if mode is not PauseMode.AFTER_RUN:
                log = tmp_path / request.run_id / "events.jsonl"
                until(lambda: b"CancelRequested" in log.read_bytes(), "the worker looks")
            if mode is PauseMode.NOW:
                assert cancel.wait(20)
                raise BackendError("interrupted", interrupted=True)

    queue.add([new_job("first", images=3), new_job("second")])
    work(queue, ScriptedBackend(pause))
    assert paused.is_set()
    first = job_of(queue, "first")
    assert len(replay(tmp_path / str(first.run_id)).images) == images
    assert first.state is (JobState.ENDED if images == 3 else JobState.WAITING)
    assert names(queue)[-1] == "second"
    queue.resume()
    backend = ScriptedBackend()
    work(queue, backend)
    made = [request.image_index for request in backend.requests]
    assert made == [*range(images, 3), 0], "nothing is made twice"
    assert queue.counts()[JobState.ENDED] == 2


def test_a_sweep_that_is_stopped_goes_on_in_its_group(tmp_path: Path) -> None:
    """The variant in progress is resumed, and the others begin."""
    queue, paused = sqlite_queue(tmp_path), threading.Event()

    def pause(request: GenerateRequest, cancel: CancelToken) -> None:
        if request.config.steps == 3 and not paused.is_set():  # type: ignore[attr-defined]  # a txt2img
            paused.set()
            sqlite_queue(tmp_path).pause(PauseMode.NOW)
            assert cancel.wait(20)
            raise BackendError("interrupted", interrupted=True)

    queue.add([new_job("sweep", vary=["txt2img.steps=2,3,4"])])
    work(queue, ScriptedBackend(pause))
    stopped = job_of(queue, "sweep")
    assert (stopped.state, stopped.reason) == (JobState.WAITING, "the queue is paused")
    queue.resume()
    backend = ScriptedBackend()
    work(queue, backend)
    steps = [request.config.steps for request in backend.requests]  # type: ignore[attr-defined]  # a txt2img
    assert steps == [3, 4], "nothing is made twice"
    ended = job_of(queue, "sweep")
    assert (ended.outcome, ended.group_id) == (Outcome.COMPLETED, stopped.group_id)


def test_a_worker_stops_at_its_time_after_the_present_image(tmp_path: Path) -> None:
    """And its job waits to be continued."""
    queue = sqlite_queue(tmp_path)
    end = datetime.now(UTC) + timedelta(seconds=0.4)

    def wait(request: GenerateRequest, cancel: CancelToken) -> None:
        if request.image_index == 0:
            while datetime.now(UTC) < end:
                cancel.wait(0.01)

    queue.add([new_job(images=50)])
    backend = ScriptedBackend(wait)
    result = SingleNodeJobRunner(queue, controller(tmp_path, backend), until=end).work()
    assert result.end is WorkEnd.TIME
    job = job_of(queue)
    assert (job.state, job.reason) == (JobState.WAITING, "the worker's end time was reached")
    assert 1 <= len(replay(tmp_path / str(job.run_id)).images) < 50


def test_a_worker_that_is_stopped_leaves_its_job_to_the_next_one(tmp_path: Path) -> None:
    """By Ctrl-C or SIGTERM; no image is lost, and none made twice."""
    queue = sqlite_queue(tmp_path)
    reached = threading.Event()

    def wait(request: GenerateRequest, cancel: CancelToken) -> None:
        if request.image_index == 1:
            reached.set()
            assert cancel.wait(20)
            raise BackendError("interrupted", interrupted=True)

    queue.add([new_job(images=3)])
    runner = SingleNodeJobRunner(queue, controller(tmp_path, ScriptedBackend(wait)))
    handle = runner.start()
    assert reached.wait(20)
    runner.cancel(reason="SIGTERM")
    assert handle.wait(20).end is WorkEnd.STOPPED
    assert job_of(queue).reason == "SIGTERM"
    backend = ScriptedBackend()
    work(queue, backend)
    assert [request.image_index for request in backend.requests] == [1, 2]
    assert job_of(queue).outcome is Outcome.COMPLETED


def test_a_run_that_a_person_cancels_ends_its_job(tmp_path: Path) -> None:
    """`cancel RUN` is about the run; the worker goes on with the next job."""
    queue = sqlite_queue(tmp_path)

    def cancel(request: GenerateRequest, token: CancelToken) -> None:
        if "first" in request.run_id:
            parts.cancel(request.run_id, reason="a person")
            assert token.wait(20)
            raise BackendError("interrupted", interrupted=True)

    parts = controller(tmp_path, ScriptedBackend(cancel))
    queue.add([new_job("first"), new_job("second")])
    result = SingleNodeJobRunner(queue, parts, exit_when_empty=True).work()
    assert [job.outcome for job in result.jobs] == [Outcome.CANCELLED, Outcome.COMPLETED]


class UnreachableError(BackendError):
    """The server is switched off."""

    @property
    def is_out_of_reach(self) -> bool:
        return True


def test_a_server_that_is_switched_off_costs_no_job(tmp_path: Path) -> None:
    """All jobs wait; a worker that ends when the queue is empty gives up with the reason."""
    queue = sqlite_queue(tmp_path)
    queue.add([new_job("a", server={"wait_s": 0.0}), new_job("b", server={"wait_s": 0.0})])

    def unreachable(_request: GenerateRequest, _cancel: CancelToken) -> None:
        raise UnreachableError("connection refused")

    runner = SingleNodeJobRunner(
        queue, controller(tmp_path, ScriptedBackend(unreachable)), exit_when_empty=True
    )
    assert runner.work().end is WorkEnd.SERVER
    assert names(queue) == ["a", "b"]
    assert "connection refused" in job_of(queue, "a").reason
    work(queue)
    assert queue.counts()[JobState.ENDED] == 2


def test_a_sweep_that_loses_its_server_in_the_last_variant_waits(tmp_path: Path) -> None:
    """Like a run: it is no failure of the job."""
    queue = sqlite_queue(tmp_path)

    def lose(request: GenerateRequest, _cancel: CancelToken) -> None:
        if request.config.steps == 3:  # type: ignore[attr-defined]  # a txt2img
            raise UnreachableError("connection refused")

    queue.add([new_job("sweep", vary=["txt2img.steps=2,3"], server={"wait_s": 0.0})])
    runner = SingleNodeJobRunner(
        queue, controller(tmp_path, ScriptedBackend(lose)), exit_when_empty=True
    )
    assert runner.work().end is WorkEnd.SERVER
    assert names(queue) == ["sweep"]
    work(queue)
    assert job_of(queue, "sweep").outcome is Outcome.COMPLETED


def test_a_job_whose_worker_died_three_times_without_an_image_is_set_aside(tmp_path: Path) -> None:
    """A death after a finished image does not count, and the next job begins."""
    queue = sqlite_queue(tmp_path)
    queue.add([new_job("deadly", images=9), new_job("next")])

    def die() -> str:
        """Take a job and lose its lock, as a process that dies."""
        taken = queue.take()
        assert taken is not None
        taken.lock.release()
        return taken.job.name

    assert [die() for _ in range(2)] == ["deadly"] * 2
    run = job_of(queue, "deadly").run_id
    assert job_of(queue, "deadly").deaths == 1
    stopped = ScriptedBackend(lambda request, _: fail_second(request))
    taken = queue.take()
    assert taken is not None
    JobStarter(controller(tmp_path, stopped), queue.files).start(taken).wait()
    taken.lock.release()
    assert die() == "deadly", "it had finished an image"
    assert job_of(queue, "deadly").deaths == 0
    assert [die() for _ in range(2)] == ["deadly"] * 2
    assert die() == "next"
    deadly = job_of(queue, "deadly")
    assert (deadly.state, deadly.run_id) == (JobState.SET_ASIDE, run)
    assert "3 times without a finished image" in deadly.reason
    queue.retry(deadly.job_id)
    work(queue)
    assert job_of(queue, "deadly").outcome is Outcome.COMPLETED


def test_the_worker_keeps_to_the_checkpoint_that_its_server_has_loaded(tmp_path: Path) -> None:
    """Jobs of one model run in a row."""
    queue, begun = sqlite_queue(tmp_path), []
    for name, model in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("b2", "b")):
        table = {**document()["txt2img"], "model": model}
        queue.add([new_job(name, txt2img=table)])
    work(
        queue, on_job=lambda job: begun.append(job.name) if job.state is JobState.RUNNING else None
    )
    assert begun == ["a1", "a2", "b1", "b2"]


IMAGE = {"media_type": "image/png", "width": 64, "height": 64, "sha256": sha256(png(1)).hexdigest()}
NO_RUN = "20261120T225226.123456Z-x-aaaaaa"
ELSEWHERE = {**document("img2img"), "input_image": "/etc/hostname"}


@pytest.mark.parametrize(
    "forged",
    [
        {"config": ELSEWHERE},
        {"config": {**document(), "prompts": "/etc/passwd"}},
        {"config": {**document(), "prompt": "__a__", "dynamic_prompts": True, "wildcards": "/etc"}},
        {"config": ELSEWHERE, "found": [{"inputs": [{**IMAGE, "path": "gone.png"}]}]},
        {"config": ELSEWHERE, "found": [{"inputs": [{**IMAGE, "sha256": "", "path": "a.png"}]}]},
        {"config": ELSEWHERE, "found": [{"inputs": [{**IMAGE, "path": "../../../secret.png"}]}]},
        {"variants": []},
        {"variants": [{"variant_index": 0, "values": {}, "found": 7}]},
        {"job": "rerun", "rerun": {"run_id": NO_RUN, "images": [0]}},
        {"job": "resume", "resumes": NO_RUN},
    ],
)  # fmt: skip
def test_a_hostile_queue_reads_and_writes_nothing_outside(
    forged: dict[str, object], tmp_path: Path
) -> None:
    """Its job names files elsewhere: it ends with an error, and nothing is sent."""
    (tmp_path / "secret.png").write_bytes(png(1))
    runs = tmp_path / "runs"
    JobQueue(runs).add([new_job("evil")])
    opened, added = queue_events(runs)
    bodies = [json.dumps(event).encode() for event in (opened, added | forged)]
    (runs / LOG).write_bytes(make_log(bodies))
    backend = ScriptedBackend()
    queue = sqlite_queue(runs)
    work(queue, backend)
    (ended,) = queue.jobs(JobState.ENDED)
    assert (ended.outcome, bool(ended.reason)) == (Outcome.FAILED, True)
    assert not backend.requests
    assert {path.name for path in tmp_path.iterdir()} == {"secret.png", "runs"}
    assert event_types(runs)[-1] == "JobEnded"


@pytest.mark.parametrize(
    "job_id", ["../../evil", "evil", f"{'2' * 8}T{'2' * 6}.{'2' * 6}Z-/-aaaaaa"]
)
def test_a_job_with_a_hostile_id_makes_the_queue_corrupt(job_id: str, tmp_path: Path) -> None:
    """No folder is looked for under such a name."""
    JobQueue(tmp_path).add([new_job("evil")])
    opened, added = queue_events(tmp_path)
    bodies = [json.dumps(event).encode() for event in (opened, added | {"job_id": job_id})]
    (tmp_path / LOG).write_bytes(make_log(bodies))
    with pytest.raises(LogCorruptError, match="record 1"):
        sqlite_queue(tmp_path).take()


def test_a_foreign_queue_fills_no_memory_with_servers_and_names(tmp_path: Path) -> None:
    """Its servers are bounded, and a name that is too long is no name; our own are cut."""
    queue = sqlite_queue(tmp_path)
    queue.add([new_job("n" * 5000)])
    for number in range(100):
        queue.add_server(f"http://host{number}:7860")
    with pytest.raises(JobRefusedError, match="100 servers at most"):
        queue.add_server("http://one-more:7860")
    opened, added, server, *_ = queue_events(tmp_path)
    assert len(added["name"]) == 1000
    servers = [{**server, "seq": seq, "url": f"http://{seq}"} for seq in range(2, 400)]
    bodies = [json.dumps(event).encode() for event in (opened, added, *servers)]
    (tmp_path / LOG).write_bytes(make_log(bodies))
    assert len(sqlite_queue(tmp_path).refresh().servers) == 100
    bodies = [json.dumps(one).encode() for one in (opened, added | {"name": "n" * 1001})]
    (tmp_path / LOG).write_bytes(make_log(bodies))
    with pytest.raises(LogCorruptError, match="record 1"):
        sqlite_queue(tmp_path).refresh()
