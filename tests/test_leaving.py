"""Leaving a run: signals, a closed terminal, readers that go, clocks that jump, a suspension."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from stagewright.events import CallCompleted, RunState, StageEnd, iterate, replay
from stagewright.events.log.kind import RUN_LOG
from stagewright.events.log.verified_scan import RecordScan
from stagewright.statemachine.files.run_folder import find_run
from stagewright.statemachine.ports import SystemClock
from stagewright.statemachine.resume.verify import verify_run

from .command_line import SCRIPT, SMALL, Start, run_python, stagewright, until, write_config
from .posix import leave_at_once, suspend, wake
from .real_disks import assert_ends_the_same, assert_one_clear_line, only_run, sources, undisturbed
from .support import START, controller, document

assert sys.platform != "win32"  # conftest leaves this file out there

MANY = SMALL.replace("images = 2", "images = 120")
STOPPING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
LEFT_AT_ONCE = b"quit at once"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The images of MANY when nothing goes wrong."""
    return undisturbed(tmp_path_factory.mktemp("images"), MANY)


def finished(folder: Path) -> int:
    """How many image files the runs in ``folder`` have."""
    return len(list(folder.glob("runs/*/images/*/[0-9]*.png")))


def works(folder: Path, more_than: int = 0) -> Path:
    """The run in ``folder``, once it has made some images more."""
    until(lambda: finished(folder) > more_than + 1, "an image")
    return only_run(folder / "runs")


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=30)
    assert "Traceback" not in errors, errors
    assert "internal error" not in errors, errors
    return process.returncode, output, errors


def assert_cancelled(run: Path, status: int, expected: int = 3) -> int:
    """The run was cancelled and sealed, exit 3; how many images it has."""
    assert status == expected
    result = replay(run)
    assert result.state is RunState.CANCELLED
    checked = stagewright("verify", run, folder=run.parent)
    assert (checked.returncode, checked.stdout.endswith("CANCELLED, sealed\n")) == (0, True)
    return len(result.images)


@pytest.mark.parametrize("asked", STOPPING)
def test_a_signal_cancels_a_run_and_a_resume_and_both_can_go_on(
    start: Start, tmp_path: Path, images: list[str], asked: signal.Signals
) -> None:
    """CANCELLED and sealed each time; the last resume ends with the same images.

    The exit status is 3; after Ctrl-C the process dies by SIGINT.
    """
    expected = -signal.SIGINT if asked == signal.SIGINT else 3
    process = start("run", write_config(tmp_path, MANY), folder=tmp_path)
    run = works(tmp_path)
    process.send_signal(asked)
    kept = assert_cancelled(run, ended(process)[0], expected)
    process = start("resume", "last", folder=tmp_path)
    works(tmp_path, more_than=kept)
    process.send_signal(asked)
    assert kept < assert_cancelled(run, ended(process)[0], expected) < len(images)
    assert_ends_the_same(run, images, stagewright("resume", "last", folder=tmp_path))
    assert replay(run).resumes == 2


def on_a_terminal(
    *command: str | Path, folder: Path, log: Path | None = None
) -> tuple[subprocess.Popen[str], Callable[[], None]]:
    """A command on a terminal of its own, and what closes that terminal."""
    master, slave = pty.openpty()
    output = slave if log is None else os.open(log, os.O_WRONLY | os.O_CREAT, 0o666)
    process = subprocess.Popen(
        ["setsid", "--ctty", *map(str, command)],
        cwd=folder,
        stdin=slave,
        stdout=output,
        stderr=output,
        text=True,
        pipesize=-1,
    )
    for descriptor in {slave, output}:
        os.close(descriptor)
    return process, lambda: os.close(master)


@pytest.mark.linux
@pytest.mark.parametrize(("command", "terminal"), [("run", "dumb"), ("resume", "xterm")])
def test_closing_the_terminal_cancels(
    start: Start,
    tmp_path: Path,
    images: list[str],
    command: str,
    terminal: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run and a resume on a terminal that goes away end in CANCELLED, sealed, exit 3."""
    monkeypatch.setenv("TERM", terminal)
    arguments = ["run", str(write_config(tmp_path, MANY))]
    kept = 0
    if command == "resume":
        first = start(*arguments, folder=tmp_path)
        works(tmp_path)
        first.kill()
        first.wait(30)
        arguments, kept = ["resume", "last"], finished(tmp_path)
    process, close_terminal = on_a_terminal(SCRIPT, *arguments, folder=tmp_path)
    run = works(tmp_path, more_than=kept)
    close_terminal()
    assert_cancelled(run, process.wait(30))
    assert_ends_the_same(run, images, stagewright("resume", "last", folder=tmp_path))


@pytest.mark.linux
def test_a_run_under_nohup_outlives_its_terminal(tmp_path: Path, images: list[str]) -> None:
    """SIGHUP stays ignored: the run ends in COMPLETED, exit 0."""
    config = write_config(tmp_path, MANY)
    process, close_terminal = on_a_terminal(
        "nohup", SCRIPT, "run", config, folder=tmp_path, log=tmp_path / "output"
    )
    run = works(tmp_path)
    close_terminal()
    process.send_signal(signal.SIGHUP)
    assert process.wait(30) == 0
    assert sources(run) == images
    assert "COMPLETED" in (tmp_path / "output").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["run", "resume"])
def test_who_leaves_at_once_can_go_on(
    start: Start, tmp_path: Path, images: list[str], command: str
) -> None:
    """Twice Ctrl-C: death by SIGINT and a word on how to go on; then the same images."""
    process = start("run", write_config(tmp_path, MANY), folder=tmp_path)
    run = works(tmp_path)
    leave_at_once(process)
    status, _, errors = ended(process)
    if command == "resume":
        kept = finished(tmp_path)
        process = start("resume", "last", folder=tmp_path)
        works(tmp_path, more_than=kept)
        leave_at_once(process)
        status, _, errors = ended(process)
    assert status == -signal.SIGINT
    assert "the run can be resumed" in errors
    assert_ends_the_same(run, images, stagewright("resume", "last", folder=tmp_path))


def in_shell(line: str, *arguments: str | Path, folder: Path) -> subprocess.Popen[str]:
    """A command of ours in a line of bash, where it is ``"$@"``."""
    return subprocess.Popen(
        ["bash", "-c", line, "bash", str(SCRIPT), *map(str, arguments)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_reader_that_leaves_does_not_end_the_run(
    tmp_path: Path, images: list[str], flags: list[str]
) -> None:
    """`run | head -c 1` makes all images and exits 0, without a complaint."""
    config = write_config(tmp_path, MANY)
    line = '"$@" | head -c 1 >/dev/null; exit ${PIPESTATUS[0]}'
    status, _, errors = ended(in_shell(line, "run", config, *flags, folder=tmp_path))
    assert status == 0, errors
    assert "stagewright:" not in errors
    assert sources(only_run(tmp_path / "runs")) == images


CLOSED = ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full"]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("closed", "flags"),
    [*((closed, ()) for closed in CLOSED), (">&-", ("--json",)), ("2>&-", ("--json",))],
)
def test_a_run_and_a_resume_need_no_open_standard_streams(
    tmp_path: Path, closed: str, flags: tuple[str, ...]
) -> None:
    """Closed or full, input, output or both: the run and the resume end in COMPLETED, exit 0."""
    config = write_config(tmp_path, SMALL)
    status, _, errors = ended(in_shell(f'"$@" {closed}', "run", config, *flags, folder=tmp_path))
    assert status == 0, errors
    run = only_run(tmp_path / "runs")
    next(run.glob("images/*/00001-*.png")).unlink()
    again = in_shell(f'"$@" {closed}', "resume", "last", *flags, folder=tmp_path)
    status, _, errors = ended(again)
    assert status == 0, errors
    assert replay(run).resumes == 1
    assert verify_run(run).sound
    assert verify_run(run).finished


def test_output_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """The run has ended as it has; that its result is nowhere to be read is told beside."""
    config = write_config(tmp_path, SMALL)
    status, _, errors = ended(in_shell('"$@" >/dev/full', "run", config, "--json", folder=tmp_path))
    assert status == 0
    assert "stagewright: standard output cannot be written: No space left on device" in errors


@pytest.mark.sampled(3)
@pytest.mark.parametrize("closed", CLOSED[1:4])
def test_verify_tells_the_truth_by_its_status_without_open_standard_streams(
    tmp_path: Path, closed: str
) -> None:
    """A sound run is exit 0, whoever listens."""
    assert stagewright("run", write_config(tmp_path, SMALL), folder=tmp_path).returncode == 0
    status, _, errors = ended(in_shell(f'"$@" {closed}', "verify", "last", folder=tmp_path))
    assert status == 0, errors


@pytest.mark.parametrize("closed", ["2>&-", "<&- 2>&-"])
def test_words_for_a_closed_stream_never_get_into_a_file_of_the_run(
    tmp_path: Path, images: list[str], closed: str
) -> None:
    """The number of a closed stream may be the log's: leaving at once writes nothing there."""
    config = write_config(tmp_path, MANY)
    process = in_shell(f'exec "$@" {closed}', "run", config, folder=tmp_path)
    run = works(tmp_path)
    leave_at_once(process)
    assert ended(process)[0] == -signal.SIGINT
    for name in ("events.jsonl", "run.lock"):
        assert LEFT_AT_ONCE not in (run / name).read_bytes()
    assert_ends_the_same(run, images, stagewright("resume", "last", folder=tmp_path))


def test_a_suspended_run_keeps_its_lock_and_goes_on(
    start: Start, tmp_path: Path, images: list[str]
) -> None:
    """While it is stopped nobody else may take it up; continued, it ends as ever."""
    process = start("run", write_config(tmp_path, MANY), folder=tmp_path)
    run = works(tmp_path)
    suspend(process.pid)
    refused = stagewright("resume", "last", folder=tmp_path)
    assert_one_clear_line(refused, f"process {process.pid} on ", status=2)
    (entry,) = json.loads(stagewright("list", "--json", folder=tmp_path).stdout)
    assert (entry["state"], entry["alive"], entry["resumable"]) == ("RUNNING", True, False)
    wake(process.pid)
    assert ended(process)[0] == 0
    assert sources(run) == images
    assert replay(run).resumes == 0


class JumpingClock(SystemClock):
    """A time of day that jumps, at each look, to the next of its moments."""

    def __init__(self, *hours: int) -> None:
        self._hours = hours
        self._looks = 0

    def now(self) -> datetime:
        self._looks += 1
        return START + timedelta(hours=self._hours[(self._looks - 1) % len(self._hours)])


def test_a_clock_that_jumps_changes_neither_order_nor_durations(tmp_path: Path) -> None:
    """Days back and forth within a run and its resume: order by seq, no duration below 0."""
    first = (
        controller(tmp_path, clock=JumpingClock(0, -48, 72, -7)).start(document(images=3)).wait(30)
    )
    run = tmp_path / first.run_id
    next(run.glob("images/*/00001-*.png")).unlink()
    result = controller(tmp_path, clock=JumpingClock(-500, 9)).resume(first.run_id).wait(30)
    assert (result.state, result.resumes) == (RunState.COMPLETED, 1)
    assert [image.source_sha256 for image in result.images] == [
        image.source_sha256 for image in first.images
    ]
    events = list(iterate(run))
    assert [event.seq for event in events] == list(range(len(events)))
    moments = [event.ts for event in events]
    assert moments != sorted(moments)
    durations = [
        event.duration_ms for event in events if isinstance(event, CallCompleted | StageEnd)
    ]
    assert len(durations) == 4 + 2
    assert all(0 <= duration < 30_000 for duration in durations)
    with (run / "events.jsonl").open("rb") as stream:
        assert sum(len(batch) for batch in RecordScan(RUN_LOG, stream).batches()) == len(events)
    assert stagewright("verify", run, folder=tmp_path).returncode == 0


def test_last_is_the_run_that_was_opened_last_whatever_its_clock_showed_later(
    tmp_path: Path,
) -> None:
    """Later events of an earlier run, a resume of it included, do not make it the last."""
    runs = tmp_path / "runs"
    earlier = controller(runs, clock=JumpingClock(0, 900, 500)).start(document()).wait(30)
    later = controller(runs, clock=JumpingClock(1, -900)).start(document()).wait(30)
    next((runs / earlier.run_id).glob("images/*/*.png")).unlink()
    controller(runs, clock=JumpingClock(1000)).resume(earlier.run_id).wait(30)
    assert find_run(runs, "last").name == later.run_id
    listed = json.loads(stagewright("list", "--json", folder=tmp_path).stdout)
    assert [entry["run_id"] for entry in listed] == [later.run_id, earlier.run_id]


FORGETFUL = """
from stagewright.adapters import open_controller

SIZE = {"width": 64, "height": 64}
BASE = {"model": "base", "sampler": "Euler a", "steps": 4, "cfg_scale": 7.0, **SIZE}
LATER = {"upscaler": "Lanczos", "factor": 2.0}
open_controller("runs").start({"prompt": "x", "images": 20, "txt2img": BASE, "upscale": LATER})
"""


BY_A_WORKER = """
import threading, time

def work():
{program}

worker = threading.Thread(target=work, daemon=True)
worker.start()
worker.join()
"""


@pytest.mark.parametrize("worker", [False, True])
def test_a_program_that_does_not_wait_leaves_a_whole_run(tmp_path: Path, worker: bool) -> None:
    """Its main thread ends in the first stage; the process stays until the run has ended."""
    program = FORGETFUL
    if worker:
        program = BY_A_WORKER.format(program=textwrap.indent(FORGETFUL, "    "))
    done = run_python("-c", program, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    result = replay(only_run(tmp_path / "runs"))
    assert (result.state, len(result.images)) == (RunState.COMPLETED, 20)
    assert (tmp_path / "runs" / "learning.jsonl").read_text().count("\n") == 1
