"""Two processes and one group: one goes on with it, and with each of its runs, at a time."""

from __future__ import annotations

import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from stagewright.adapters import EmbeddedBackend
from stagewright.adapters.webui_server import EmbeddedServer
from stagewright.events import CallRequested, RunState, iterate, subscribe
from stagewright.events.groups.log import read_group_log
from stagewright.events.groups.model import GroupEvent, GroupOpened, GroupResumed
from stagewright.events.log.lock import host_name
from stagewright.statemachine import CancelToken, GenerateRequest
from stagewright.statemachine.groups.folder import find_group
from stagewright.statemachine.groups.result import replay_group

from .command_line import SMALL, Start, until, write_config
from .group_runs import start_group
from .real_disks import assert_one_clear_line
from .resuming import cut_before, painter
from .support import controller
from .test_group_logs import claim_of, forge, forget_runs, made, resumed
from .test_two_processes import at_a_gate, ended, let_go

SERVED = SMALL.replace("images = 2", "images = 6").replace(
    "base.safetensors", "sd_xl_base_1.0.safetensors"
)
"""Of this, three variants take four seconds, which is longer than a lock is tried for."""


@pytest.fixture(scope="module")
def slow() -> Iterator[str]:
    """The address of a server that takes 0.2 s for an image."""
    with EmbeddedServer(step_delay_s=0.05) as server:
        yield server.url


def test_of_two_processes_that_resume_a_group_at_once_one_goes_on(
    start: Start, slow: str, tmp_path: Path
) -> None:
    """The other one exits with status 2 and names the first; no image is made twice."""
    config = write_config(tmp_path, SERVED)
    vary = ("--vary", "txt2img.cfg_scale=5,6,7")
    process = start("run", config, "--server", slow, *vary, folder=tmp_path)
    until(lambda: any(tmp_path.glob("runs/*/images/*/*.png")), "the first image")
    process.kill()
    process.communicate()
    both = [at_a_gate("resume", "last-group", "--json", folder=tmp_path) for _ in range(2)]
    let_go(*both)
    done = {process.pid: ended(process) for process in both}
    winner, loser = sorted(done, key=lambda pid: done[pid].returncode)
    runs = tmp_path / "runs"
    group = find_group(runs, "last-group")
    holder = f"process {winner} on {host_name()} (epoch 1)"
    assert_one_clear_line(done[loser], group.name, holder, status=2)
    assert done[winner].returncode == 0
    assert replay_group(group, runs).state == RunState.COMPLETED
    events: list[GroupEvent] = []
    read_group_log(group, events.extend)
    assert [one.pid for one in events if isinstance(one, GroupResumed)] == [winner]
    sent = Counter(
        one.call_id
        for run in runs.glob("2*")
        for one in iterate(run)
        if isinstance(one, CallRequested)
    )
    assert len(sent) <= 3 * 6 + 1
    assert max(sent.values()) == 1


@pytest.fixture
def dead(tmp_path: Path) -> Path:
    """The runs of a group that died while it made the only image of the second of three runs."""
    runs = made(tmp_path / "runs")
    forget_runs(runs, 2)
    cut_before(run_of(runs, 1), CallRequested)
    forge(runs, lambda bodies: bodies[:3])
    return runs


def run_of(runs: Path, variant: int) -> Path:
    """The folder of a variant's run."""
    return next(run for run in runs.glob("2*") if claim_of(run) == variant)


def test_a_run_that_was_resumed_alone_is_not_made_again_by_its_group(dead: Path) -> None:
    """The group begins only the variant that had not begun."""
    run = run_of(dead, 1)
    assert controller(dead, painter()).resume(run.name).wait(30).state == RunState.COMPLETED
    backend = painter()
    result = resumed(dead, backend)
    assert result.state == RunState.COMPLETED
    assert result.variants[1].run_id == run.name
    assert len(backend.requests) == 1


def test_a_run_that_another_process_holds_does_not_stop_its_group(dead: Path) -> None:
    """Its variant has an error that names the holder, the next one is made, and then it is done."""
    begun, go_on = threading.Event(), threading.Event()

    def wait(_request: GenerateRequest, _cancel: CancelToken) -> None:
        begun.set()
        assert go_on.wait(30)

    run = run_of(dead, 1)
    other = controller(dead, painter(wait)).resume(run.name)
    try:
        assert begun.wait(30)
        result = resumed(dead)
        states = [one.state for one in result.variants]
        assert states == [RunState.COMPLETED, RunState.RUNNING, RunState.COMPLETED]
        assert result.state == RunState.ERROR
        error = result.variants[1].error
        assert error is not None
        assert error.kind == "LogLockedError"
        assert f"on {host_name()}" in error.message
    finally:
        go_on.set()
        other.wait(30)
    backend = painter()
    assert resumed(dead, backend).state == RunState.COMPLETED
    assert backend.requests == []
    assert sum(isinstance(one, CallRequested) for one in iterate(run)) == 1


@pytest.mark.posix
def test_ctrl_c_while_a_group_is_announced_leaves_a_group_that_can_go_on(tmp_path: Path) -> None:
    """Its lock is free, and so is the controller."""
    if sys.platform == "win32":
        raise OSError("not on Windows")
    owner = controller(tmp_path, EmbeddedBackend())

    def interrupt(event: GroupEvent) -> None:
        if isinstance(event, GroupOpened):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with (
        subscribe(lambda _event: None, on="publisher", on_group=interrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        start_group(owner, [2, 3])
    assert owner.resume_group("last-group").wait(30).state == RunState.COMPLETED
