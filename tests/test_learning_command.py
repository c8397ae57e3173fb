"""``learning``, and records over the death of processes: real commands, really killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from stagewright.adapters import open_controller
from stagewright.adapters.projections.learning.folder_lock import folder_lock

from .command_line import Start, stagewright, until, write_config
from .crashing import KILLED, voyage
from .forking import ForkServer
from .learning import NAME, bytes_of, rebuilt, records
from .resuming import LOG, ran, small
from .salvaging import spoil

AT_THE_END = [
    'record-synced LifecycleChanged "trigger":"finish"',
    "file-half learning.jsonl",
    "file-synced learning.jsonl",
    "file-renamed learning.jsonl",
    "file-in-place learning.jsonl",
]
IN_AN_APPEND = ["record-before", "record-half", "record-written", "record-synced"]
IMPATIENT = """
import logging
import sys
from stagewright.__main__ import main
from stagewright.adapters.projections.learning import exit_deadline, writer
exit_deadline.EXIT_TIME_S, writer.LOCK_WAIT_S = 0.2, 300.0
logging.basicConfig()
main()
"""
"""The command with less patience at its end, and more before; it shows what is logged."""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Where commands in ``tmp_path`` keep their runs."""
    return tmp_path / "runs"


def run_once_more(runs: Path, *, records_then: int) -> None:
    """The next run; it makes good what was left undone. A busy machine may take its time."""
    assert open_controller(runs).start(small(images=1)).wait(30).state == "COMPLETED"
    until(lambda: len(records(runs)) == records_then, "the records of all runs")
    assert bytes_of(runs) == rebuilt(runs)


def has_finished(runs: Path) -> bool:
    """Whether the only run has come to its end."""
    return any(b'"trigger":"finish"' in log.read_bytes() for log in runs.glob(f"*/{LOG}"))


def test_a_command_does_not_end_before_the_record_of_its_run(
    tmp_path: Path, runs: Path, start: Start
) -> None:
    """Though another process holds the lock for two seconds after the run's end."""
    runs.mkdir()
    with folder_lock(runs, wait_s=1):
        process = start("run", write_config(tmp_path), folder=tmp_path)
        until(lambda: has_finished(runs), "the end of the run")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
    _, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (0, "")
    assert len(records(runs)) == 1
    assert bytes_of(runs) == rebuilt(runs)


def test_a_command_does_not_wait_for_ever_at_its_end(tmp_path: Path, runs: Path) -> None:
    """It logs what was left; the next run makes it good."""
    runs.mkdir()
    command = [sys.executable, "-c", IMPATIENT, "run", str(write_config(tmp_path))]
    with folder_lock(runs, wait_s=1):
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 0
    assert "WARNING:stagewright.learning:" in done.stderr
    assert f"the learning records in {runs} are locked by another process" in done.stderr
    assert "Traceback" not in done.stderr
    assert records(runs) == []
    run_once_more(runs, records_then=2)


def test_it_brings_the_records_up_to_date_and_says_what_there_is(
    tmp_path: Path, runs: Path
) -> None:
    """How many, where, and what is new; a second time nothing is."""
    for _ in range(2):
        ran(runs, small(images=1))
    told = stagewright("learning", folder=tmp_path)
    assert told.stdout == "2 records of 2 runs in runs/learning.jsonl (2 new)\n"
    assert bytes_of(runs) == rebuilt(runs)
    assert stagewright("learning", folder=tmp_path).stdout.endswith("learning.jsonl\n")
    again = stagewright("learning", "--rebuild", "--json", folder=tmp_path)
    assert json.loads(again.stdout) == {
        "path": "runs/learning.jsonl",
        "runs": 2,
        "records": 2,
        "made": 2,
        "removed": 0,
        "unreadable": [],
    }


def test_it_names_the_runs_whose_logs_cannot_be_used(tmp_path: Path, runs: Path) -> None:
    """On standard error; the document on standard output lists them too."""
    folder = ran(runs, small(images=1))
    spoil(folder, 2)
    told = stagewright("learning", "--json", folder=tmp_path)
    assert told.returncode == 0
    assert told.stderr == f"warning: no record for {folder.name}: its log cannot be read\n"
    assert json.loads(told.stdout)["unreadable"] == [folder.name]


def test_it_says_in_one_line_what_stands_in_its_way(tmp_path: Path, runs: Path) -> None:
    """A folder in the file's place, say."""
    ran(runs, small(images=1))
    (runs / NAME).mkdir()
    told = stagewright("learning", folder=tmp_path)
    assert told.returncode == 1
    assert told.stderr.startswith("stagewright: the learning records in runs cannot be updated")
    assert told.stderr.count("\n") == 1


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
        ended = stagewright("run", config, "--set", f"run.learning={value}", folder=tmp_path)
        assert ended.returncode == 0
    assert len(records(runs)) == 1


@pytest.mark.posix
@pytest.mark.parametrize("at", AT_THE_END)
def test_the_next_run_makes_the_record_of_one_that_was_killed_at_its_end(
    forks: ForkServer, tmp_path: Path, runs: Path, at: str
) -> None:
    """Killed between its end and its record, or in the writing of the first record."""
    config = voyage(tmp_path, "txt2img")
    assert forks.command("run", config, folder=tmp_path, failpoint=at).status == KILLED
    run_once_more(runs, records_then=2)


@pytest.mark.posix
def test_a_resume_makes_the_record_of_a_run_that_lacks_only_its_seal(
    forks: ForkServer, tmp_path: Path, runs: Path
) -> None:
    """Nothing is run any more then, and the record is made all the same."""
    config = voyage(tmp_path, "txt2img")
    assert forks.command("run", config, folder=tmp_path, failpoint=AT_THE_END[0]).status == KILLED
    assert records(runs) == []
    assert stagewright("resume", "last", folder=tmp_path).returncode == 0
    assert [one["outcome"] for one in records(runs)] == ["completed"]
    assert bytes_of(runs) == rebuilt(runs)


@pytest.mark.posix
@pytest.mark.parametrize("place", IN_AN_APPEND)
def test_a_run_that_was_killed_while_it_appended_its_record_does_no_harm(
    forks: ForkServer, tmp_path: Path, runs: Path, place: str
) -> None:
    """The torn line is noticed, and the record made anew."""
    config = voyage(tmp_path, "txt2img")
    run_once_more(runs, records_then=1)
    ended = forks.command("run", config, folder=tmp_path, failpoint=f"{place} schema_version")
    assert ended.status == KILLED
    run_once_more(runs, records_then=3)


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
    assert bytes_of(runs) == rebuilt(runs)
