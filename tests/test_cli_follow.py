"""``follow``: how a run of another process goes on, shown as ``run`` shows it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pexpect
import pytest
from stagewright.events import RunState, replay

from .command_line import SCRIPT, Start, stagewright, until, write_config
from .log_format import split_bodies

SLOW = ("--set", "txt2img.model=sd_xl_base_1.0.safetensors", "--set", "txt2img.steps=40")


@pytest.fixture
def slow_run(tmp_path: Path, start: Start) -> Path:
    """The folder of a run of two images, each of which takes two seconds."""
    server = start("serve-embedded", "--port", "0", "--step-delay", "0.05", folder=tmp_path)
    assert server.stdout is not None
    url = server.stdout.readline().split()[2]
    start("run", write_config(tmp_path), *SLOW, "--server", url, folder=tmp_path)
    until(lambda: any(tmp_path.glob("runs/*/events.jsonl")), "a run")
    log = next(tmp_path.glob("runs/*/events.jsonl"))
    until(lambda: b"StageStart" in log.read_bytes(), "its first stage")
    return log.parent


def test_a_run_is_shown_to_its_end(tmp_path: Path, slow_run: Path, start: Start) -> None:
    """What has been is summed up, what comes is told line by line, and then the result.

    ``--events`` gives one JSON object a line meanwhile, for other programs.
    """
    other = start("follow", "last", "--events", folder=tmp_path)
    done = stagewright("follow", "last", folder=tmp_path)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert lines[0].startswith("Running")
    assert any(line.startswith("00-txt2img: 2 of 2 finished: images/") for line in lines)
    assert f"{slow_run.name}: COMPLETED" in lines
    printed, complaint = other.communicate(timeout=20)
    bodies = [json.loads(body) for body in split_bodies((slow_run / "events.jsonl").read_bytes())]
    assert [json.loads(line) for line in printed.splitlines()] == bodies
    assert (other.returncode, complaint) == (0, "")


@pytest.mark.posix
def test_a_terminal_shows_steps_and_percentage(tmp_path: Path, slow_run: Path) -> None:
    """The same live line as ``run`` has, sampling steps of the other process included."""
    child = pexpect.spawn(
        str(SCRIPT), ["follow", "last"], cwd=tmp_path, encoding="utf-8", dimensions=(24, 160)
    )
    child.expect(r"stage 1 of 1 00-txt2img.*step \d+ of 40", timeout=20)
    child.expect("COMPLETED", timeout=20)
    child.expect(pexpect.EOF, timeout=20)
    child.close()
    assert child.exitstatus == 0
    assert not (slow_run / "steps.live").exists()


def test_leaving_does_not_stop_the_run(tmp_path: Path, slow_run: Path, start: Start) -> None:
    """Ctrl-C ends the following alone, and says so."""
    follower = start("follow", "last", folder=tmp_path)
    assert follower.stdout is not None
    follower.stdout.readline()
    follower.send_signal(signal.SIGINT)
    _, complaint = follower.communicate(timeout=20)
    assert follower.returncode == -signal.SIGINT
    assert complaint == f"stagewright: {slow_run.name}: interrupted; the run itself continues\n"
    until(lambda: replay(slow_run).state is RunState.COMPLETED, "the end of the run")


def test_a_dead_process_is_told_of(tmp_path: Path, start: Start) -> None:
    """Whoever followed a run that was killed hears it, and how it goes on."""
    config = write_config(tmp_path)
    process = start("run", config, "--set", "images=5000", folder=tmp_path)
    until(lambda: any(tmp_path.glob("runs/*/events.jsonl")), "a run")
    follower = start("follow", "last", folder=tmp_path)
    assert follower.stdout is not None
    follower.stdout.readline()
    process.kill()
    _, complaint = follower.communicate(timeout=20)
    assert follower.returncode == 1
    assert "its process died; `resume` continues the run" in complaint


def test_json_is_the_result_of_the_run(tmp_path: Path) -> None:
    """One document, as ``run`` prints it; a run that has ended is told at once."""
    stagewright("run", write_config(tmp_path), folder=tmp_path)
    followed = stagewright("follow", "last", "--json", folder=tmp_path)
    replayed = stagewright("replay", "last", "--json", folder=tmp_path)
    assert followed.returncode == 0
    assert json.loads(followed.stdout) == json.loads(replayed.stdout)
