"""A queue of 100,000 jobs beside one of 1,000: adding, listing, taking the next, moving."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from stagewright.adapters import PillowInputReader
from stagewright.adapters.projections.queue_table import SqliteJobTable
from stagewright.events.log.storage import Storage
from stagewright.events.queue.jobs import JobState
from stagewright.statemachine import JobQueue, NewJob, Place, plan_job

from .configuration import configuration
from .measuring import Ratio, alternately
from .startup_speed import startup_ratio

MANY, FEW = 100_000, 1_000
CONFIG = configuration(4, 1024, upscale={"upscaler": "Lanczos", "factor": 1.5})
_LIMIT = "2"


def main() -> None:
    """Print the table's rows."""
    with tempfile.TemporaryDirectory() as place:
        many, few = Path(place) / "many", Path(place) / "few"
        for runs, count in ((many, MANY), (few, FEW)):
            fill(runs, count)
        for what, act in DEEDS.items():
            queues = JobQueue(many, table=SqliteJobTable(many)), open_queue(few)
            best = alternately(lambda: act(queues[0]), lambda: act(queues[1]), rounds=15)  # noqa: B023 - called at once
            print(Ratio(f"{what}, {MANY:,} jobs", f"the same of {FEW:,}", *best, _LIMIT).line())
        for words in (["queue", "list"], ["queue", "list", "--json"]):
            what = f"stagewright {' '.join(words)}, {MANY:,} jobs"
            ratio = startup_ratio(what, [*words, "--runs", str(many)], "1 s", rounds=3)
            print(ratio.line())
        (many / "queue.sqlite").unlink()
        began = time.perf_counter()
        open_queue(many).refresh()
        print(f"making the projection of {MANY:,} jobs anew: {time.perf_counter() - began:.1f} s")


def open_queue(runs: Path) -> JobQueue:
    """A queue as the command line has it."""
    return JobQueue(runs, table=SqliteJobTable(runs))


def new_job() -> NewJob:
    """A run of two stages."""
    return plan_job(
        CONFIG, inputs=PillowInputReader(), runs=Path("runs"), random_below=secrets.randbelow
    )


def fill(runs: Path, count: int) -> None:
    """A queue with so many jobs."""
    runs.mkdir()
    storage = Storage()
    storage.syncs = False
    JobQueue(runs, table=SqliteJobTable(runs), storage=storage).add([new_job()] * count)


def _add(queue: JobQueue) -> None:
    queue.add([_JOB])


def _take(queue: JobQueue) -> None:
    taken = queue.take("other")
    assert taken is not None
    queue.stop(taken, "measured")


def _move(queue: JobQueue) -> None:
    last = queue.jobs(JobState.WAITING, most=3)[-1]
    queue.move(last.job_id, Place.TOP)


def _list(queue: JobQueue) -> None:
    queue.jobs(JobState.RUNNING, JobState.WAITING, most=20)
    queue.counts()


_JOB = new_job()
DEEDS: dict[str, Callable[[JobQueue], None]] = {
    "add a job": _add,
    "list the next 20 jobs, and count all": _list,
    "take the next job, and give it back": _take,
    "move a job to the top": _move,
}


if __name__ == "__main__":
    main()
