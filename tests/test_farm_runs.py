"""Runs on a farm of real processes: all its workers work, and any of them may be lost."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from stagewright.adapters import open_controller
from stagewright.events import (
    CallCompleted,
    CallFailed,
    CallRequested,
    CancelMode,
    RunState,
    StageEvent,
    signals,
)
from stagewright.events.model import StepProgress

from .command_line import start_command, until
from .farming import Farm, end, open_farm, work, write_work
from .posix import suspend

STAGES = ("txt2img", "img2img", "upscale", "adetailer")
SLOW = 0.01
"""Seconds of a sampling step on servers whose requests are to be caught in the middle."""


def sources(result: Any) -> list[list[str]]:
    """The digests of the images of each stage, in order."""
    return [[image.source_sha256 for image in stage.images] for stage in result.stages]


def run_on(farm: Farm, runs: Path, config: dict[str, Any]) -> Any:
    """The result of a run on a farm, in this process."""
    handle = open_controller(runs, farm.address).start(config)
    return handle.wait(timeout_s=60)


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """A farm of three workers, restored before each test that kills one."""
    with open_farm(tmp_path_factory.mktemp("farm"), "--worker-timeout", "1") as opened:
        opened.add_workers(*(opened.add_server(step_delay_s=SLOW) for _ in range(3)))
        yield opened


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """The digests of the chain's images, as one backend in this process makes them."""
    handle = open_controller(tmp_path_factory.mktemp("alone")).start(work(*STAGES))
    return sources(handle.wait(timeout_s=60))


def when(
    wanted: Callable[[StageEvent], bool], act: Callable[[StageEvent], None]
) -> Callable[..., None]:
    """A receiver that acts once, on the first event that is wanted."""
    seen: list[StageEvent] = []

    def receive(_sender: object, *, event: StageEvent, **_facts: object) -> None:
        if not seen and wanted(event):
            seen.append(event)
            act(event)

    return receive


def test_a_worker_that_is_killed_costs_no_image_in_any_stage(
    farm: Farm, expected: list[list[str]], tmp_path: Path, connected: Any
) -> None:
    """Its image is made by another worker as the next attempt, and all images are the same."""
    for stages in (("txt2img", "upscale"), ("img2img", "adetailer")):
        farm.restore()

        def kill(event: StageEvent) -> None:
            assert isinstance(event, CallRequested)
            farm.workers[str(event.server)].kill()

        for stage in stages:
            connected(when(partial(asks_for, stage), kill))
        result = run_on(farm, tmp_path, work(*STAGES))
        assert result.state is RunState.COMPLETED
        assert sources(result) == expected
        failed = [one for one in result.events if isinstance(one, CallFailed)]
        assert [one.error.kind for one in failed] == ["WorkerLostError"] * 2
        assert all(one.will_retry for one in failed)
        assert [str(one.error.stage_id)[3:] for one in failed] == list(stages)
        assert [one.attempt for one in calls(result)].count(1) == 2
        assert recorded_twice(result) == []


def asks_for(stage: str, event: StageEvent) -> bool:
    """Whether an event is a request of a stage."""
    return isinstance(event, CallRequested) and event.stage_id.endswith(stage)


def recorded_twice(result: Any) -> list[str]:
    """The files that more than one answer has recorded."""
    completed = [one for one in result.events if isinstance(one, CallCompleted)]
    counted = Counter(artifact.path for one in completed for artifact in one.artifacts)
    assert len(counted) == len(STAGES) * 4
    return [path for path, times in counted.items() if times > 1]


@pytest.mark.posix
def test_a_frozen_worker_is_given_up(
    farm: Farm, expected: list[list[str]], tmp_path: Path, connected: Any
) -> None:
    """A worker that is silent for the scheduler's limit is lost, and its image made elsewhere."""
    farm.restore()
    frozen = sorted(farm.workers)[0]

    def freeze(event: StageEvent) -> None:
        del event
        suspend(farm.workers[frozen].pid)

    connected(when(lambda one: isinstance(one, CallRequested), freeze))
    result = run_on(farm, tmp_path, work(*STAGES))
    end(farm.workers[frozen])
    assert sources(result) == expected
    failed = [one for one in result.events if isinstance(one, CallFailed)]
    assert [one.error.kind for one in failed] == ["WorkerLostError"]


def test_a_run_whose_scheduler_is_killed_fails_and_can_be_resumed(
    farm: Farm, expected: list[list[str]], tmp_path: Path, connected: Any
) -> None:
    """It ends in ERROR with a typed error; the workers join the next scheduler by themselves."""
    farm.restore()

    def kill(event: StageEvent) -> None:
        del event
        end(farm.scheduler)

    connected(when(partial(asks_for, "img2img"), kill))
    result = run_on(farm, tmp_path, work(*STAGES))
    assert result.state is RunState.ERROR
    assert result.error is not None
    assert result.error.kind == "SchedulerLostError"
    farm.start_scheduler("--worker-timeout", "1")
    farm.wait_for_workers()
    handle = open_controller(tmp_path).resume(result.run_id)
    assert sources(handle.wait(timeout_s=60)) == expected


def test_a_run_whose_controller_was_killed_is_resumed_while_its_old_tasks_run(
    farm: Farm, tmp_path: Path
) -> None:
    """The late answers of the old tasks are dropped, and no image is recorded twice."""
    farm.restore()
    config = write_work(tmp_path, *STAGES, steps=120)
    process = start_command("run", config, "--farm", farm.address, folder=tmp_path)
    runs = tmp_path / "runs"
    until(lambda: jobs(farm) > 0, "a task on a worker")
    process.kill()
    process.communicate()
    assert jobs(farm) > 0
    result = open_controller(runs).resume("last").wait(timeout_s=60)
    alone = open_controller(tmp_path / "alone").start(config).wait(timeout_s=60)
    assert sources(result) == sources(alone)
    assert recorded_twice(result) == []


def test_a_large_input_goes_to_its_worker_directly(farm: Farm, tmp_path: Path) -> None:
    """An input image that is too large for the scheduler's messages gives the same images."""
    farm.restore()
    picture = tmp_path / "noise.png"
    Image.frombytes("RGB", (192, 192), random.Random(1).randbytes(192 * 192 * 3)).save(picture)
    config = work("img2img", input_image=str(picture), images=3)
    result = run_on(farm, tmp_path / "farm", config)
    assert result.state is RunState.COMPLETED
    assert not [one for one in result.events if isinstance(one, CallFailed)]
    alone = open_controller(tmp_path / "alone").start(config).wait(timeout_s=60)
    assert sources(result) == sources(alone)


@pytest.mark.posix
def test_a_worker_may_join_and_leave(farm: Farm, tmp_path: Path, connected: Any) -> None:
    """One that is started meanwhile makes images; at SIGTERM its image is left to the others."""
    farm.restore()
    controller = open_controller(tmp_path, farm.address)
    handle = controller.start(work("txt2img", images=2000, steps=20))
    (name,) = farm.add_workers(farm.add_server(step_delay_s=SLOW))
    joined = farm.workers.pop(name)
    is_made_elsewhere = threading.Event()
    connected(
        when(
            lambda one: isinstance(one, CallRequested) and one.server == name,
            lambda _event: joined.terminate(),
        )
    )
    connected(
        when(
            lambda one: isinstance(one, CallRequested) and one.attempt == 1,
            lambda _event: is_made_elsewhere.set(),
        )
    )
    assert is_made_elsewhere.wait(30)
    controller.cancel(handle.run_id, mode=CancelMode.AFTER_IMAGE)
    result = handle.wait(timeout_s=60)
    assert joined.wait(30) == 0
    end(joined)
    assert result.state is RunState.CANCELLED
    (failed,) = (one for one in result.events if isinstance(one, CallFailed))
    assert (failed.error.kind, failed.will_retry) == ("WorkerLostError", True)
    (asked,) = (one for one in calls(result) if one.server == name)
    assert asked.call_id == failed.call_id
    again = next(one for one in calls(result) if one.image_index == asked.image_index
                 and one.attempt == 1)  # fmt: skip
    assert again.call_id in {one.call_id for one in result.events if isinstance(one, CallCompleted)}


def calls(result: Any) -> list[CallRequested]:
    """The requests of a run."""
    return [one for one in result.events if isinstance(one, CallRequested)]


def test_a_cancel_interrupts_the_servers_of_all_workers(farm: Farm, tmp_path: Path) -> None:
    """The steps of every worker are announced, and a cancel stops their servers at once."""
    farm.restore()
    controller = open_controller(tmp_path, farm.address)
    seen: set[int] = set()
    all_work = threading.Event()

    def note(_sender: object, *, progress: StepProgress, **_facts: object) -> None:
        seen.add(progress.image_index)
        if len(seen) == 3:
            all_work.set()

    signals.step_progress.connect(note)
    handle = controller.start(work("txt2img", images=3, steps=10_000))
    assert all_work.wait(30)
    controller.cancel(handle.run_id, mode=CancelMode.NOW)
    result = handle.wait(timeout_s=30)
    assert result.state is RunState.CANCELLED
    kinds = [one.error.kind for one in result.events if isinstance(one, CallFailed)]
    assert kinds == ["GenerationInterrupted"] * 3
    assert jobs(farm) == 0


def jobs(farm: Farm) -> int:
    """How many jobs the servers of the workers have."""
    states = (
        requests.get(f"{server.url}/sdapi/v1/progress", timeout=10).json()["state"]
        for server in farm.servers
    )
    return sum(abs(state["job_count"]) for state in states)
