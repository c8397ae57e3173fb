"""``learning``, and records over the death of processes: real commands, really killed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import filelock
import pytest

from .command_line import Start, stagewright, until, write_config
from .crashing import KILLED, voyage
from .forking import ForkServer
from .learning import NAME, bytes_of, rebuilt, records
from .resuming import LOG, ran, small
from .salvaging import spoil

AT_THE_END = [
    'record-synced LifecycleChanged "trigger":"finish"',
    'record-half "log_head"',
    'record-synced "log_head"',
    "file-renamed learning.jsonl",
    "file-in-place learning.jsonl",
]
IN_AN_APPEND = ["record-before", "record-half", "record-written", "record-synced"]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Where commands in ``tmp_path`` keep their runs."""
    return tmp_path / "runs"


def run_once_more(folder: Path, runs: Path, *, records_then: int) -> None:
    """The next run, after which so many runs have their records."""
    assert stagewright("run", write_config(folder), folder=folder).returncode == 0
    assert len(records(runs)) == records_then


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
    assert (process.returncode, complaints) == (0, "")
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


def test_it_names_the_runs_whose_logs_cannot_be_used(tmp_path: Path, runs: Path) -> None:
    """On standard error; the document on standard output lists them too."""
    folder = ran(runs, small(images=1))
    spoil(folder, 2)
    done = stagewright("learning", "--json", folder=tmp_path)
    assert done.returncode == 0
    assert done.stderr == f"warning: no record for {folder.name}: its log cannot be read\n"
    assert json.loads(done.stdout)["unreadable"] == [folder.name]


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


def test_the_configuration_schema_knows_the_opt_out(tmp_path: Path, runs: Path) -> None:
    """``[run] learning``, also by --set; such a run leaves no record."""
    schema = json.loads(stagewright("schema", folder=tmp_path).stdout)
    assert schema["$defs"]["RunTable"]["properties"]["learning"]["default"] is True
    config = write_config(tmp_path)
    for value in ("false", "true"):
        done = stagewright("run", config, "--set", f"run.learning={value}", folder=tmp_path)
        assert done.returncode == 0
    assert len(records(runs)) == 1


@pytest.mark.posix
@pytest.mark.parametrize("at", AT_THE_END)
def test_the_next_run_makes_a_file_of_which_no_line_was_lost(
    forks: ForkServer, tmp_path: Path, runs: Path, at: str
) -> None:
    """Where the first run was killed between its end and its record, or while it wrote it."""
    config = voyage(tmp_path, "txt2img")
    assert forks.command("run", config, folder=tmp_path, failpoint=at).status == KILLED
    run_once_more(tmp_path, runs, records_then=2)
    assert bytes_of(runs) == rebuilt(runs)


@pytest.mark.posix
@pytest.mark.parametrize("place", IN_AN_APPEND)
def test_a_run_that_was_killed_while_it_appended_its_record_does_no_harm(
    forks: ForkServer, tmp_path: Path, runs: Path, place: str
) -> None:
    """A torn line is repaired by the next run, a lost one by ``learning``."""
    ran(runs, small(images=1))
    assert stagewright("learning", folder=tmp_path).returncode == 0
    config = voyage(tmp_path, "txt2img")
    at = f'{place} "log_head"'
    assert forks.command("run", config, folder=tmp_path, failpoint=at).status == KILLED
    run_once_more(tmp_path, runs, records_then=2 if place == "record-before" else 3)
    assert stagewright("learning", folder=tmp_path).returncode == 0
    assert len(records(runs)) == 3
    assert bytes_of(runs) == rebuilt(runs)


@pytest.mark.posix
def test_a_resume_makes_the_record_of_a_run_that_lacks_only_its_seal(
    forks: ForkServer, tmp_path: Path, runs: Path
) -> None:
    """Nothing is left to do for the run, and the record is made all the same."""
    config = voyage(tmp_path, "txt2img")
    assert forks.command("run", config, folder=tmp_path, failpoint=AT_THE_END[0]).status == KILLED
    assert records(runs) == []
    assert stagewright("resume", "last", folder=tmp_path).returncode == 0
    assert [one["outcome"] for one in records(runs)] == ["completed"]
    assert bytes_of(runs) == rebuilt(runs)


@pytest.mark.posix
def test_a_killed_run_has_its_record_once_it_has_been_resumed(
    forks: ForkServer, tmp_path: Path, runs: Path
) -> None:
    """Killed in its middle there is none; the resume's end makes it."""
    config = voyage(tmp_path, "txt2img", "upscale")
    at = "record-synced CallCompleted 01-upscale.00001"
    assert forks.command("run", config, folder=tmp_path, failpoint=at).status == KILLED
    assert forks.command("learning", folder=tmp_path).status == 0
    assert records(runs) == []
    assert stagewright("resume", "last", folder=tmp_path).returncode == 0
    (record,) = records(runs)
    assert (record["outcome"], record["resumes"]) == ("completed", 1)
    assert bytes_of(runs) == rebuilt(runs)


def test_processes_beside_each_other_make_one_sound_file(
    tmp_path: Path, runs: Path, start: Start
) -> None:
    """Two that run and two that rebuild, all at once."""
    ran(runs, small(images=1))
    config = write_config(tmp_path)
    processes = [
        start(*command, folder=tmp_path)
        for command in (("run", config), ("learning", "--rebuild")) * 2
    ]
    for process in processes:
        _, complaints = process.communicate(timeout=60)
        assert (process.returncode, complaints) == (0, "")
    assert len(records(runs)) == 3
    assert sorted(bytes_of(runs).splitlines()) == sorted(rebuilt(runs).splitlines())
