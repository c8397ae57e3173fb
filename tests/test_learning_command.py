"""``learning``, and records over the death of processes: real commands, really killed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import filelock
import pytest
from stagewright.adapters import LearningRecordWriter

from .command_line import Start, stagewright, until, write_config
from .crashing import KILLED, voyage
from .forking import ForkServer
from .learning import NAME, bytes_of, rebuilt, records
from .resuming import LOG, ran, small

FINISHED = 'record-synced LifecycleChanged "trigger":"finish"'
KILLED_AT = [
    (0, FINISHED, 2),
    (0, "file-renamed learning.jsonl", 2),
    (1, 'record-half "log_head"', 3),
]
"""Earlier runs, the place of the death, and the records after the next run."""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Where commands in ``tmp_path`` keep their runs."""
    return tmp_path / "runs"


def has_finished(runs: Path) -> bool:
    """Whether the only run has come to its end."""
    return any(b'"trigger":"finish"' in log.read_bytes() for log in runs.glob(f"*/{LOG}"))


def test_a_command_does_not_end_before_the_record_of_its_run(
    tmp_path: Path, runs: Path, start: Start
) -> None:
    """Though another process holds the lock for two seconds after the run's end."""
    runs.mkdir()
    with filelock.FileLock(runs / "learning.lock"):
        process = start("run", write_config(tmp_path), folder=tmp_path)
        until(lambda: has_finished(runs), "the end of the run")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
    _, complaints = process.communicate(timeout=60)
    assert (process.returncode, "stagewright: " in complaints) == (0, False)
    assert len(records(runs)) == 1
    assert bytes_of(runs) == rebuilt(runs)


def test_it_rebuilds_the_records_and_says_what_has_changed(tmp_path: Path, runs: Path) -> None:
    """How many there are, where, and what is new; a second time nothing is."""
    for _ in range(2):
        ran(runs, small(images=1))
    done = stagewright("learning", folder=tmp_path)
    assert done.stdout == "2 records of 2 runs in runs/learning.jsonl (2 new)\n"
    assert bytes_of(runs) == rebuilt(runs)
    assert stagewright("learning", folder=tmp_path).stdout.endswith("learning.jsonl\n")
    again = stagewright("learning", "--rebuild", "--json", folder=tmp_path)
    assert json.loads(again.stdout) == {
        "path": "runs/learning.jsonl",
        "runs": 2,
        "records": 2,
        "made": 0,
        "removed": 0,
        "unreadable": [],
    }


def test_it_says_in_one_line_why_the_file_cannot_be_written(tmp_path: Path, runs: Path) -> None:
    """A folder in the file's place, say."""
    ran(runs, small(images=1))
    (runs / NAME).mkdir()
    done = stagewright("learning", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("stagewright: the learning records in runs cannot be rebuilt")
    assert done.stderr.count("\n") == 1


def test_it_prints_the_schema(tmp_path: Path) -> None:
    """A JSON Schema in which every field is required and described."""
    schema = json.loads(stagewright("learning", "--schema", folder=tmp_path).stdout)
    record = schema["$defs"]["LearningRecord"]
    assert record["required"] == list(record["properties"])
    assert all("description" in field for field in record["properties"].values())
    assert not (tmp_path / "runs").exists()


@pytest.mark.posix
@pytest.mark.parametrize(("earlier", "at", "then"), KILLED_AT)
def test_a_run_that_was_killed_at_its_end_loses_no_other_record(
    forks: ForkServer, tmp_path: Path, runs: Path, earlier: int, at: str, then: int
) -> None:
    """A torn line and a missing file are repaired by the next run, a lost line by ``learning``."""
    with LearningRecordWriter(runs):
        for _ in range(earlier):
            ran(runs, small(images=1))
    config = voyage(tmp_path, "txt2img")
    assert forks.command("run", config, folder=tmp_path, failpoint=at).status == KILLED
    assert stagewright("run", config, folder=tmp_path).returncode == 0
    assert len(records(runs)) == then
    assert stagewright("learning", folder=tmp_path).returncode == 0
    assert len(records(runs)) == earlier + 2
    assert bytes_of(runs) == rebuilt(runs)


@pytest.mark.posix
def test_a_resume_makes_the_record_of_a_run_that_lacks_only_its_seal(
    forks: ForkServer, tmp_path: Path, runs: Path
) -> None:
    """Nothing is left to do for the run, and the record is made all the same."""
    config = voyage(tmp_path, "txt2img")
    assert forks.command("run", config, folder=tmp_path, failpoint=FINISHED).status == KILLED
    assert records(runs) == []
    assert stagewright("resume", "last", folder=tmp_path).returncode == 0
    assert [one["outcome"] for one in records(runs)] == ["completed"]
    assert bytes_of(runs) == rebuilt(runs)
