"""kill -9 of adders, movers and workers of a queue; the next worker makes what is left."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from stagewright.events import CallCompleted, CallRequested, RunState, iterate, replay
from stagewright.events.queue.jobs import JobState

from .command_line import write_config
from .crashing import Counts, sent_calls
from .forking import Ended, ForkServer
from .queueing import event_types, sqlite_queue
from .support import document, png
from .test_kill_matrix import BARRIER, FILE, at_each

TITLE = "kills of queues"
pytestmark = pytest.mark.posix

WORK = ("queue", "work", "--exit-when-empty")


class Wreck:
    """A queue in a folder of its own, whose commands are killed."""

    def __init__(self, forks: ForkServer, folder: Path, counts: Counts) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self._forks = forks
        self._counts = counts
        (folder / "in.png").write_bytes(png(5))

    def config(self, name: str, *stages: str, **top: Any) -> Path:
        """A configuration file."""
        content = document(*stages, **{"name": name, "images": 2, **top})
        return write_config(self.folder, json.dumps(content), f"{name}.json")

    def command(self, *arguments: str | Path, at: str | None = None) -> Ended:
        """One command, which may be killed at a failpoint."""
        return self._forks.command(*arguments, folder=self.folder, failpoint=at)

    def kill(self, *arguments: str | Path, at: str) -> None:
        """Kill a command at a failpoint, and see that it died there."""
        self._counts.note_kill(self.command(*arguments, at=at), at)

    def do(self, *arguments: str | Path) -> str:
        """A command that succeeds; what it prints."""
        ended = self.command(*arguments)
        assert ended.status == 0, ended.stderr
        return ended.stdout

    def check(self, jobs: int, *, images: int, again: int = 0) -> None:
        """Every job has ended with its own run, and nothing was made twice.

        ``again`` is how many requests were sent once more, because a worker died meanwhile.
        """
        queue = sqlite_queue(self.runs)
        assert [job.outcome for job in queue.jobs(JobState.ENDED)] == ["completed"] * jobs
        assert queue.counts()[JobState.ENDED] == sum(queue.counts().values())
        results = [replay(log.parent) for log in self.runs.glob("*/events.jsonl")]
        assert {result.state for result in results} == {RunState.COMPLETED}
        events = [one for result in results for one in iterate(self.runs / result.run_id)]
        made = Counter(
            (one.run_id, one.stage_id, one.image_index)
            for call in events
            if isinstance(call, CallCompleted)
            for one in [call_of(events, call)]
        )
        assert len(made) == images
        assert set(made.values()) == {1}
        assert len(sent_calls(self.folder)) <= images + again
        self.do("queue", "verify")
        self.do("verify", "--all")


def call_of(events: list[Any], call: CallCompleted) -> CallRequested:
    """The request of an answer."""
    return next(
        one for one in events if isinstance(one, CallRequested) and one.call_id == call.call_id
    )


@pytest.fixture
def wreck(forks: ForkServer, tmp_path: Path, counts: Counts) -> Wreck:
    """A queue with nothing in it."""
    return Wreck(forks, tmp_path, counts)


def test_thirty_jobs_survive_a_killed_worker_and_a_reboot(wreck: Wreck) -> None:
    """Job 7 continues from its last image, everything ends, and nothing is done twice."""
    wreck.do("queue", "add", *(wreck.config(f"job{number:02}") for number in range(1, 31)))
    # The second image of the seventh job: its request is recorded, and no answer.
    wreck.kill(*WORK, at="record-synced CallRequested #14")
    queue = sqlite_queue(wreck.runs)
    (seventh,) = queue.jobs(JobState.RUNNING)
    assert seventh.name == "job07"
    assert "the next worker continues it" in wreck.do("queue", "list")
    # After a reboot the lock is gone, its process's number is that of another one, and the
    # boot has another id.
    lock = wreck.runs / "queue" / f"{seventh.job_id}.lock"
    holder = json.loads(lock.read_text()) | {"pid": os.getpid(), "boot_id": "of another boot"}
    lock.write_text(json.dumps(holder))
    wreck.do(*WORK)
    wreck.check(30, images=60, again=1)
    run = next(iter(sqlite_queue(wreck.runs).jobs(JobState.ENDED)[-7:-6])).run_id
    assert run == seventh.run_id
    assert replay(wreck.runs / str(run)).resumes == 1
    assert event_types(wreck.runs).count("JobBegun") == 31
    assert not list((wreck.runs / "queue").iterdir())


ADDING = [
    "folder-made runs/queue/2",
    *at_each(FILE, "inputs/00000.png"),
    *at_each(FILE[:3], "queue.jsonl"),
    "file-linked queue.jsonl",
    "file-in-place queue.jsonl",
    *at_each(BARRIER, "JobAdded"),
]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("at", ADDING)
def test_a_killed_adder_leaves_a_job_or_none(at: str, wreck: Wreck) -> None:
    """What it has added is done, once; the next adder repairs what it left."""
    config = wreck.config("boat", "img2img", images=1, input_image="in.png")
    wreck.kill("queue", "add", config, at=at)
    wreck.do("queue", "add", config)
    jobs = len(sqlite_queue(wreck.runs).jobs(JobState.WAITING))
    # A record that was written counts even if the process died before its sync.
    assert jobs == 1 + (at.split()[0] in ("record-written", "record-synced"))
    (wreck.folder / "in.png").write_bytes(png(6))
    wreck.do(*WORK)
    wreck.check(jobs, images=jobs)


CHANGES = [
    (words, at)
    for words, event in (
        (("queue", "move", "two", "top"), "JobMoved"),
        (("queue", "remove", "three"), "JobRemoved"),
        (("queue", "pause"), "QueuePaused"),
    )
    for at in at_each(BARRIER, event)
]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("words", "at"), CHANGES)
def test_a_killed_change_is_made_or_not(words: tuple[str, ...], at: str, wreck: Wreck) -> None:
    """And can be repeated."""
    wreck.do("queue", "add", *map(wreck.config, ("one", "two", "three")))
    wreck.kill(*words, at=at)
    is_made = at.split()[0] in ("record-written", "record-synced")
    assert (wreck.command(*words).status == 0) or is_made
    wreck.do("queue", "resume")
    assert wreck.do("queue", "verify").startswith("queue: sound")
    types = event_types(wreck.runs)
    assert types.count("LogRepaired") == (at.split()[0] == "record-half")
    state = {job.name: job.state for job in sqlite_queue(wreck.runs).jobs(*JobState)}
    assert state["three"] is (JobState.REMOVED if words[1] == "remove" else JobState.WAITING)


WORKING = [
    *at_each(BARRIER, "JobBegun"),
    "folder-made runs/2",
    *at_each(FILE, "events.jsonl"),
    *at_each(BARRIER, 'LifecycleChanged "trigger":"start"'),
    "record-synced CallRequested #2",
    "record-synced CallCompleted #2",
    *at_each(BARRIER, "RunSealed"),
    *at_each(BARRIER, "JobEnded"),
    "file-removed .lock",
    "file-removed inputs/00000.png",
    "record-synced JobBegun #2",
]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("at", WORKING)
def test_a_killed_worker_is_followed_by_another_that_makes_the_rest(at: str, wreck: Wreck) -> None:
    """Under the same run, which the queue recorded before its folder was made."""
    first = wreck.config("boat", "img2img", input_image="in.png")
    wreck.do("queue", "add", first, wreck.config("next", images=1))
    wreck.kill(*WORK, at=at)
    wreck.do(*WORK)
    wreck.check(2, images=3, again=1)
    begun = event_types(wreck.runs).count("JobBegun")
    assert begun in (2, 3)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "at",
    [
        "folder-made runs/groups/2",
        *at_each(FILE[:3], "group.jsonl"),
        *at_each(BARRIER, "VariantBegun"),
        "record-synced CallCompleted #2",
        *at_each(BARRIER, "GroupSealed"),
    ],
)
def test_a_killed_worker_of_a_sweep_is_followed_by_another(at: str, wreck: Wreck) -> None:
    """Under the same group, in which each variant has one run."""
    wreck.do("queue", "add", wreck.config("night", images=1), "--vary", "txt2img.steps=2,3,4")
    wreck.kill(*WORK, at=at)
    wreck.do(*WORK)
    wreck.check(1, images=3, again=1)


def test_a_worker_that_dies_three_times_without_an_image_is_followed_by_the_next_job(
    wreck: Wreck,
) -> None:
    """The job is set aside with the reason; the status says so, and a retry makes it."""
    wreck.do("queue", "add", wreck.config("deadly", images=1), wreck.config("next", images=1))
    for _ in range(3):
        wreck.kill(*WORK, at="record-synced CallRequested")
    wreck.do(*WORK)
    listed = wreck.do("queue", "list")
    assert "set-aside" in listed
    assert "its worker died 3 times without a finished image" in listed
    assert "1 ended, 1 set-aside" in listed
    wreck.do("queue", "retry", "deadly")
    wreck.do(*WORK)
    wreck.check(2, images=2, again=3)
