"""Several processes share one queue."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from stagewright.events.queue.jobs import JobState
from stagewright.statemachine import JobQueue

from .command_line import ROOT
from .log_format import make_log, split_bodies
from .queueing import LOG, event_types, sqlite_queue


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("processes", "each"), [(2, 5), (8, 25)])
def test_no_job_is_lost_and_none_is_run_twice(processes: int, each: int, tmp_path: Path) -> None:
    """They add, move and work at once, on a backend that costs nothing."""
    tmp_path.joinpath("runs").mkdir()
    command = [sys.executable, "-m", "tests.queue_process", str(tmp_path / "runs")]
    started = [
        subprocess.Popen([*command, f"p{number}", str(each)], cwd=ROOT)
        for number in range(processes)
    ]
    assert [process.wait(500) for process in started] == [0] * processes
    runs = tmp_path / "runs"
    for queue in (sqlite_queue(runs), JobQueue(runs)):
        jobs = queue.jobs(*JobState)
        assert {job.name for job in jobs} == {
            f"p{number}-{place}" for number in range(processes) for place in range(each)
        }
        assert Counter(job.outcome for job in jobs) == {"completed": processes * each}
        assert len({job.run_id for job in jobs}) == processes * each
    types = Counter(event_types(runs))
    assert types["JobAdded"] == types["JobBegun"] == types["JobEnded"] == processes * each
    sent = (runs / "sent.txt").read_text().splitlines()
    assert Counter(sent) == Counter(str(job.run_id) for job in jobs)
    data = (runs / LOG).read_bytes()
    assert make_log(split_bodies(data)) == data
