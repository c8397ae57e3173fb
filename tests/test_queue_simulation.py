"""The queue's file, simulated from seeds: processes add, move, work, end and die; power is lost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import count
from pathlib import Path
from random import Random

import filelock
import msgspec
import pytest
from stagewright.events import LogCorruptError, LogWriteError, Outcome
from stagewright.events.queue.jobs import Job, JobState
from stagewright.statemachine import JobQueue, JobRefusedError, Place
from stagewright.statemachine.config.schema import InputImage
from stagewright.statemachine.groups.found_files import FoundFiles
from stagewright.statemachine.queue.job_queue import TakenJob
from stagewright.statemachine.queue.verify import verify_queue

from .faulty_storage import Deed, Fault, FaultyStorage, SimulatedCrash
from .queueing import LOG, planned_job
from .simulated_disk import SimulatedDisk, Sync
from .support import png

STEPS = 9


class Process:
    """One process: its view of the queue, and the jobs that it works on."""

    def __init__(self, runs: Path, storage: FaultyStorage) -> None:
        self.storage = storage
        self.queue = JobQueue(runs, storage=storage)
        self.taken: list[TakenJob] = []

    def end(self) -> None:
        """The locks of a process end with it."""
        for one in self.taken:
            with contextlib.suppress(OSError):
                one.lock.release()
        self.taken.clear()


class Story:
    """Two processes share a queue, and faults befall them; ``broken`` is what went wrong.

    What a call has reported as done is a promise: jobs that were added, the runs that they got,
    how they ended, what was removed, and the copies of their files.
    """

    def __init__(
        self,
        folder: Path,
        random: Random,
        faults: Sequence[Fault | None],
        ignored: frozenset[Sync] = frozenset(),
        ignored_paths: str = "*",
    ) -> None:
        folder.mkdir()
        self._runs = folder / "runs"
        self._random = random
        self._input = folder / "in.png"
        self._input.write_bytes(png(1))
        self._disk = SimulatedDisk(folder, random, ignored=ignored, ignored_paths=ignored_paths)
        self._storages = [FaultyStorage(self._disk, fault) for fault in faults]
        self._added: set[str] = set()
        self._runs_of: dict[str, str | None] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._removed: set[str] = set()
        self._doubtful: set[str] = set()
        self.broken = ""
        try:
            self._tell()
            self.broken = self.broken or self._what_is_wrong()
        except LogCorruptError as error:
            self.broken = str(error)
        self.met = any(storage.fault_met for storage in self._storages)

    def _tell(self) -> None:
        random = self._random
        processes = [Process(self._runs, storage) for storage in self._storages]
        for step in range(STEPS):
            place = random.randrange(len(processes))
            try:
                self._act(processes[place], step, processes)
            except SimulatedCrash:
                processes[place].end()
                if random.random() < 0.6:
                    for process in processes:
                        process.end()
                    self._disk.lose_power()
                    processes = [self._process() for _ in processes]
                else:
                    processes[place] = self._process()
        for process in processes:
            process.end()
        self._disk.lose_power()

    def _process(self) -> Process:
        return Process(self._runs, FaultyStorage(self._disk))

    def _act(self, process: Process, step: int, all_processes: Sequence[Process]) -> None:
        deeds: list[Callable[[Process], None]] = [
            self._add, self._add, self._move, self._take, self._take, self._end, self._remove,
        ]  # fmt: skip
        deed = self._add if step == 0 else self._random.choice(deeds)
        with contextlib.suppress(LogWriteError, JobRefusedError):
            deed(process)
        working = [one.job.job_id for each in all_processes for one in each.taken]
        if len(working) != len(set(working)):
            self.broken = "two workers have one job"

    def _add(self, process: Process) -> None:
        data = self._input.read_bytes()
        image = InputImage(
            path=str(self._input),
            media_type="image/png",
            width=64,
            height=64,
            sha256=sha256(data).hexdigest(),
        )
        # A record ends in another page than it begins in.
        job = planned_job()
        assert job.plan is not None
        plan = msgspec.structs.replace(
            job.plan, document={"prompt": "n" * 3000}, found=(FoundFiles(inputs=(image,)),)
        )
        job = msgspec.structs.replace(job, plan=plan)
        (added,) = process.queue.add([job])
        self._added.add(added.job_id)

    def _move(self, process: Process) -> None:
        if jobs := process.queue.jobs(JobState.WAITING):
            process.queue.move(self._random.choice(jobs).job_id, self._random.choice(list(Place)))

    def _take(self, process: Process) -> None:
        taken = process.queue.take()
        if taken is not None:
            process.taken.append(taken)
            job_id = taken.job.job_id
            known = self._runs_of.setdefault(job_id, taken.job.run_id)
            if known != taken.job.run_id:
                self.broken = "a job has two runs"
            if job_id in self._outcomes or job_id in self._removed:
                self.broken = "a job that is over begins again"

    def _end(self, process: Process) -> None:
        if process.taken:
            taken = process.taken.pop()
            self._doubtful.add(taken.job.job_id)
            process.queue.end(taken, Outcome.FAILED)
            self._outcomes[taken.job.job_id] = Outcome.FAILED

    def _remove(self, process: Process) -> None:
        if jobs := process.queue.jobs(JobState.WAITING, JobState.ENDED):
            job_id = self._random.choice(jobs).job_id
            self._doubtful.add(job_id)
            process.queue.remove([job_id])
            self._removed.add(job_id)

    def _what_is_wrong(self) -> str:
        last = self._process()
        self._add(last)
        self._disk.lose_power()
        if not (self._runs / LOG).exists():
            return "the log is lost"
        jobs = {job.job_id: job for job in JobQueue(self._runs).jobs(*JobState)}
        if self._added - jobs.keys():
            return "jobs are lost"
        for job_id, job in jobs.items():
            if wrong := self._wrong_with(job_id, job):
                return wrong
        found = verify_queue(self._runs)
        needed = (*found.wrong_files, found.corrupt)
        lost = [one for one in needed if one and not any(job in one for job in self._doubtful)]
        return lost[0] if lost else ""

    def _wrong_with(self, job_id: str, job: Job) -> str:
        known = self._runs_of.get(job_id)
        if known is not None and job.run_id != known:
            return f"the run of a job is lost: it is {job.state}"
        if job_id in self._removed and job.state is not JobState.REMOVED:
            return "a job that was removed is back"
        ended = self._outcomes.get(job_id)
        if ended is not None and job_id not in self._removed and job.outcome is not ended:
            return "the outcome of a job is lost"
        return ""


@pytest.mark.sampled(14)
@pytest.mark.parametrize("deed", list(Deed))
@pytest.mark.parametrize("seed", range(1, 5))
def test_no_promise_is_broken_wherever_a_process_dies(
    deed: Deed, seed: int, tmp_path: Path
) -> None:
    """At each operation of a process that adds, moves, works or ends; then power may be lost."""
    for at in count(1):
        story = Story(tmp_path / str(at), Random(seed), (Fault(at=at, deed=deed), None))
        assert not story.broken, f"operation {at}: {story.broken}"
        if not story.met:
            assert at > 5
            return


def random_story(
    folder: Path, seed: int, ignored: frozenset[Sync] = frozenset(), paths: str = "*"
) -> Story:
    """A story in which something befalls both processes."""
    random = Random(seed)
    deeds = (Deed.DIE_BEFORE, Deed.DIE_WITHIN, Deed.DIE_AFTER, Deed.FAIL, Deed.TAKE_LESS)
    faults = [Fault(at=random.randint(1, 40), deed=random.choice(deeds)) for _ in range(2)]
    return Story(folder / str(seed), random, faults, ignored, paths)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("first", range(0, 200, 25))
def test_no_promise_is_broken_where_both_processes_die(first: int, tmp_path: Path) -> None:
    """Whatever befalls them: each seed is another story."""
    seeds = range(first, first + 25)
    broken = {seed: random_story(tmp_path, seed).broken for seed in seeds}
    assert {seed: what for seed, what in broken.items() if what} == {}


@pytest.mark.parametrize(
    ("sync", "paths", "first"),
    [
        pytest.param(Sync.LOG, "*/queue.jsonl", 0, id="record"),
        pytest.param(Sync.REWRITE, "*/queue.jsonl", 280, id="last-record-of-a-dead-writer"),
        pytest.param(Sync.FILE, "*queue.jsonl*", 41, id="first-record"),
        pytest.param(Sync.FOLDER, "*/runs", 0, id="folder-of-runs"),
        pytest.param(Sync.FILE, "*/inputs/*", 0, id="copy"),
        pytest.param(Sync.FOLDER, "*/inputs", 0, id="folder-of-copies"),
        pytest.param(Sync.FOLDER, "*/runs/queue*", 0, id="folders-of-jobs"),
    ],
)
def test_without_any_one_barrier_a_promise_is_broken(
    sync: Sync, paths: str, first: int, tmp_path: Path
) -> None:
    """A disk that ignores one kind of sync loses something, so each kind is needed.

    The search begins at ``first``, the seed that was found when this was written.
    """
    (tmp_path / "sound").mkdir()
    for seed in range(first, first + 300):
        if random_story(tmp_path, seed, frozenset({sync}), paths).broken:
            assert not random_story(tmp_path / "sound", seed).broken
            return
    pytest.fail(f"nothing went wrong without the sync of {paths}")


def test_without_the_locks_two_workers_have_one_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the story notices it."""
    monkeypatch.setattr(filelock, "lock_descriptor", lambda *_, **_how: True)
    stories = (Story(tmp_path / str(seed), Random(seed), (None, None)) for seed in range(60))
    assert any(story.broken == "two workers have one job" for story in stories)
