"""Two processes and one run: exactly one goes on, and everybody else is told the truth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters.webui_server import EmbeddedServer
from stagewright.events import CallRequested, RunResumed, RunState, iterate, replay
from stagewright.events.log.lock import boot_id, host_name

from .command_line import SCRIPT, SMALL, Start, stagewright, until, write_config
from .posix import KILLED
from .real_disks import (
    FEW,
    assert_ends_the_same,
    assert_one_clear_line,
    only_run,
    sources,
    undisturbed,
)

SERVED = SMALL.replace("images = 2", "images = 15").replace(
    "base.safetensors", "sd_xl_base_1.0.safetensors"
)
"""A run that takes three seconds on the slow server, which is longer than a lock is tried for."""
ROUNDS = 8

CONTENDER = """
import json, os, sys
from pathlib import Path
from stagewright.events import LogLockedError
from stagewright.statemachine.run.journal import RunJournal
from stagewright.statemachine.ports import SystemClock
from stagewright.statemachine.resume.reopen import reopen_run

print("ready", flush=True)
for _ in sys.stdin:
    try:
        run = reopen_run(Path(sys.argv[1]), wait_s=0.2)
    except LogLockedError as error:
        print(json.dumps({"holder": error.holder}), flush=True)
        sys.stdin.readline()
        continue
    journal = RunJournal(run.log, run.fold, epoch=run.epoch, clock=SystemClock())
    run.begin(journal, run.backend)
    journal.move("start")
    print(json.dumps({"epoch": run.epoch}), flush=True)
    sys.stdin.readline()
    journal.close()
"""
"""In each round takes up the run, if it can, and lets go of it without a word, as if it died."""


@pytest.fixture(scope="module")
def slow() -> Iterator[str]:
    """The address of a server that takes 0.2 s for an image."""
    with EmbeddedServer(step_delay_s=0.05) as server:
        yield server.url


@pytest.fixture(scope="module")
def fast() -> Iterator[str]:
    """The address of a server that makes the same images at once."""
    with EmbeddedServer() as server:
        yield server.url


@pytest.fixture(scope="module")
def images(fast: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The images of SERVED when nothing goes wrong."""
    text = f'{SERVED}\n[server]\nurl = "{fast}"\n'
    return undisturbed(tmp_path_factory.mktemp("images"), text)


def begun(start: Start, slow: str, folder: Path) -> tuple[subprocess.Popen[str], Path]:
    """A run on the slow server that has finished its first image, and goes on."""
    process = start("run", write_config(folder, SERVED), "--server", slow, folder=folder)
    until(lambda: any(folder.glob("runs/*/images/*/*.png")), "the first image")
    return process, only_run(folder / "runs")


@pytest.fixture
def died(start: Start, slow: str, tmp_path: Path) -> Path:
    """A run that was killed after its first image."""
    process, run = begun(start, slow, tmp_path)
    process.kill()
    process.communicate()
    return run


def resumes_of(run: Path) -> list[RunResumed]:
    return [event for event in iterate(run) if isinstance(event, RunResumed)]


def resuming(start: Start, run: Path) -> subprocess.Popen[str]:
    """A process that has taken up the run."""
    before = len(resumes_of(run))
    process = start("resume", run, folder=run.parent)
    until(
        lambda: len(resumes_of(run)) > before and replay(run).state is RunState.RUNNING,
        "the run is taken up",
    )
    return process


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    output, errors = process.communicate(timeout=30)
    assert "Traceback" not in errors, errors
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def at_a_gate(*arguments: str | Path, folder: Path) -> subprocess.Popen[str]:
    """A command that is begun once a line is written to its standard input."""
    command = ["sh", "-c", 'echo ready; read gate; exec "$@"', "sh", str(SCRIPT)]
    process = subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def let_go(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def heard(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def test_of_two_processes_that_race_for_a_run_exactly_one_goes_on_each_time(died: Path) -> None:
    """Each round is one epoch, written by the one that won; the other names it."""
    command = [sys.executable, "-c", CONTENDER, str(died)]
    pipe: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    contenders = [subprocess.Popen(command, **pipe) for _ in range(2)]
    try:
        for contender in contenders:
            assert contender.stdout is not None
            assert contender.stdout.readline() == "ready\n"
        winners = []
        for epoch in range(1, ROUNDS + 1):
            let_go(*contenders)
            said = {contender.pid: heard(contender) for contender in contenders}
            (winner,) = [pid for pid in said if "epoch" in said[pid]]
            (loser,) = [pid for pid in said if "holder" in said[pid]]
            assert said[winner]["epoch"] == epoch
            assert said[loser]["holder"] == f"process {winner} on {host_name()} (epoch {epoch})"
            winners.append(winner)
            let_go(*contenders)
    finally:
        for contender in contenders:
            contender.communicate(timeout=30)
    assert [event.pid for event in resumes_of(died)] == winners
    assert [event.epoch for event in resumes_of(died)] == list(range(1, ROUNDS + 1))


def test_two_resumes_at_once_end_in_one_run_and_one_refusal(died: Path, images: list[str]) -> None:
    """One goes on to COMPLETED, exit 0; the other exits 2 and names process and host."""
    both = [at_a_gate("resume", died, folder=died.parent) for _ in range(2)]
    let_go(*both)
    done = {process.pid: ended(process) for process in both}
    winner, loser = sorted(done, key=lambda pid: done[pid].returncode)
    assert_one_clear_line(
        done[loser], died.name, f"process {winner} on {host_name()} (epoch 1)", status=2
    )
    assert_ends_the_same(died, images, done[winner])
    assert [event.pid for event in resumes_of(died)] == [winner]


def test_a_resume_of_a_run_that_still_works_is_refused_and_does_it_no_harm(
    start: Start, slow: str, tmp_path: Path, images: list[str]
) -> None:
    """Exit 2 naming the process that runs it, which goes on to its end."""
    process, run = begun(start, slow, tmp_path)
    refused = stagewright("resume", "last", folder=tmp_path)
    assert_one_clear_line(refused, run.name, f"process {process.pid} on {host_name()}", status=2)
    assert "can be resumed" not in stagewright("list", folder=tmp_path).stdout
    assert_ends_the_same(run, images, ended(process))
    assert replay(run).resumes == 0


@pytest.mark.linux
def test_a_process_that_waits_for_a_run_gets_it_when_its_holder_is_killed(
    start: Start, died: Path, fast: str, images: list[str]
) -> None:
    """Killed while another process tries for the lock: that one goes on, to the same images."""
    holder = resuming(start, died)
    second = start("resume", died, "--server", fast, folder=died.parent)
    lock = (died / "run.lock").stat().st_ino
    descriptors = Path(f"/proc/{second.pid}/fd")
    until(lambda: lock in inodes(descriptors), "the second process waits")
    holder.kill()
    assert_ends_the_same(died, images, ended(second))
    assert [event.pid for event in resumes_of(died)] == [holder.pid, second.pid]


def inodes(descriptors: Path) -> set[int]:
    """What a process has open."""
    found = set()
    for descriptor in descriptors.iterdir():
        try:
            found.add(descriptor.stat().st_ino)
        except FileNotFoundError:
            continue
    return found


def test_a_third_process_cancels_a_resumed_run(
    start: Start, died: Path, fast: str, images: list[str]
) -> None:
    """`cancel` exits 0, the resumed run 3; it is sealed, and can be resumed again."""
    holder = resuming(start, died)
    done = stagewright("cancel", died, folder=died.parent)
    assert done.returncode == 0, done.stderr
    assert ended(holder).returncode == 3
    assert replay(died).state is RunState.CANCELLED
    assert not (died / "cancel.request").exists()
    assert stagewright("verify", died, folder=died.parent).returncode == 0
    resumed = stagewright("resume", died, "--server", fast, folder=died.parent)
    assert_ends_the_same(died, images, resumed)


def test_readers_tell_the_truth_while_a_run_is_resumed(
    start: Start, died: Path, images: list[str]
) -> None:
    """Before: died and resumable. Meanwhile: RUNNING, alive and held. After: COMPLETED."""
    folder = died.parents[1]

    def listed() -> tuple[str, bool, bool]:
        (entry,) = json.loads(stagewright("list", "--json", folder=folder).stdout)
        return entry["state"], entry["alive"], entry["resumable"]

    assert listed() == ("RUNNING", False, True)
    checked = stagewright("verify", "last", folder=folder)
    assert checked.returncode == 1
    assert "resume would" in checked.stdout
    holder = resuming(start, died)
    assert listed() == ("RUNNING", True, False)
    checked = stagewright("verify", "last", folder=folder)
    assert checked.returncode == 1
    assert f"process {holder.pid} on {host_name()} (epoch 1) is running it" in checked.stdout
    assert "resume would" not in checked.stdout
    seen = json.loads(stagewright("replay", "last", "--json", folder=folder).stdout)
    assert (seen["state"], seen["resumes"]) == ("RUNNING", 1)
    assert len(seen["images"]) < len(images)
    assert_ends_the_same(died, images, ended(holder))
    assert listed() == ("COMPLETED", False, False)


def test_two_processes_that_resume_all_end_every_run_once(tmp_path: Path) -> None:
    """Each run is taken up by one of them, and no image is made twice."""
    config = write_config(tmp_path, FEW)
    expected = undisturbed(tmp_path, FEW)
    for _ in range(4):
        killed_after_the_first_image(config)
    runs = sorted(path.parent for path in tmp_path.glob("runs/*/events.jsonl"))
    assert len(runs) == 4
    both = [at_a_gate("resume", "--all", folder=tmp_path) for _ in range(2)]
    let_go(*both)
    for process in both:
        done = ended(process)
        assert done.returncode == 0, done.stderr
    for run in runs:
        result = replay(run)
        assert (result.state, result.resumes) == (RunState.COMPLETED, 1)
        assert sources(run) == expected
        asked = [event for event in result.events if isinstance(event, CallRequested)]
        assert [event.image_index for event in asked] == [0, 1, 2]
    assert stagewright("verify", "--all", folder=tmp_path).returncode == 0


def killed_after_the_first_image(config: Path) -> None:
    """A run whose process dies right behind its first StageImageProgress."""
    order = {"STAGEWRIGHT_FAILPOINT": "record-written StageImageProgress"}
    done = stagewright("run", config, folder=config.parent, env={**os.environ, **order})
    assert done.returncode == KILLED


def test_a_lock_file_that_was_left_behind_stops_nobody(tmp_path: Path) -> None:
    """Whatever living process the file names, nobody holds the lock: the run goes on."""
    config = write_config(tmp_path, FEW)
    expected = undisturbed(tmp_path, FEW)
    killed_after_the_first_image(config)
    run = only_run(tmp_path / "runs")
    holder = {"pid": os.getpid(), "host": host_name(), "boot_id": boot_id(), "epoch": 0}
    (run / "run.lock").write_text(json.dumps(holder), encoding="ascii")
    assert_ends_the_same(run, expected, stagewright("resume", run, folder=tmp_path))
