"""When a worker of the queue tells that it is empty."""

from __future__ import annotations

import threading
from pathlib import Path

from stagewright.events.queue.jobs import JobState
from stagewright.statemachine import CancelToken, GenerateRequest, JobQueue, SingleNodeJobRunner

from .command_line import until
from .queueing import new_job, sqlite_queue, work
from .support import ScriptedBackend, controller


def test_an_empty_queue_is_told_once(tmp_path: Path) -> None:
    """When the last job has ended, and not where there was none."""
    queue, told = sqlite_queue(tmp_path), []
    work(queue, on_empty=lambda: told.append(1))
    assert not told
    queue.add([new_job("a"), new_job("b")])
    work(queue, on_empty=lambda: told.append(queue.counts()[JobState.ENDED]))
    assert told == [2]


class WatchedQueue(JobQueue):
    """Counts how often a worker looked whether it is empty."""

    looks = 0

    def counts(self) -> dict[JobState, int]:
        self.looks += 1
        return super().counts()


def test_of_several_workers_the_one_that_ends_the_last_job_tells_that_the_queue_is_empty(
    tmp_path: Path,
) -> None:
    """The other one has ended a job before it, and goes on looking."""
    told: list[str] = []
    released = threading.Event()
    queue, watched = sqlite_queue(tmp_path), WatchedQueue(tmp_path)
    queue.add([new_job("long"), new_job("short")])

    def hold(_request: GenerateRequest, _cancel: CancelToken) -> None:
        assert released.wait(20)

    first = SingleNodeJobRunner(
        sqlite_queue(tmp_path),
        controller(tmp_path, ScriptedBackend(hold)),
        exit_when_empty=True,
        on_empty=lambda: told.append("first"),
    )
    second = SingleNodeJobRunner(
        watched, controller(tmp_path), on_empty=lambda: told.append("second")
    )
    worker = first.start()
    until(lambda: queue.counts()[JobState.RUNNING] == 1, "the first worker has a job")
    other = second.start()
    until(lambda: queue.counts()[JobState.ENDED] == 1, "the second one has ended its job")
    released.set()
    worker.wait()
    looks = watched.looks
    until(lambda: watched.looks > looks + 1, "the second worker looks again")
    second.cancel()
    other.wait()
    assert told == ["first"]
