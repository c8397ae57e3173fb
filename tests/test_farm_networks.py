"""A farm over a real network: namespaces stand in for three machines."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from stagewright.adapters import open_controller
from stagewright.events import CallFailed, CallRequested, RunState, replay
from stagewright.events.log.reader import iterate

from .command_line import SCRIPT, until
from .farming import write_work

pytestmark = pytest.mark.linux

MASTER, FIRST, SECOND = "stagewright-a", "stagewright-b", "stagewright-c"
Process = subprocess.Popen[str]


def command(*arguments: str) -> None:
    """Run a command of the system; it must succeed."""
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"


@pytest.fixture
def networks() -> Iterator[None]:
    """Three namespaces: the first has a slow line to each of the others."""
    if sys.platform == "win32" or os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if not (shutil.which("ip") and shutil.which("tc")):
        pytest.skip("ip or tc is missing (Debian package iproute2)")
    names = (MASTER, FIRST, SECOND)
    try:
        for name in names:
            command("ip", "netns", "add", name)
            command("ip", "-n", name, "link", "set", "lo", "up")
        for number, name in enumerate(names[1:], 1):
            _join(number, name)
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _join(number: int, other: str) -> None:
    here, there = f"to-{number}", f"from-{number}"
    peer = ("type", "veth", "peer", "name", there, "netns", other)
    command("ip", "-n", MASTER, "link", "add", here, *peer)
    for name, link, host in ((MASTER, here, 1), (other, there, 2)):
        command("ip", "-n", name, "addr", "add", f"10.77.{number}.{host}/24", "dev", link)
        command("ip", "-n", name, "link", "set", link, "up")
        _delay(name, link)


def _delay(name: str, link: str) -> None:
    """Delay each packet by 10 ms; a kernel without netem has a line of 4 Mbit/s instead."""
    queue = ("tc", "-n", name, "qdisc", "add", "dev", link, "root")
    done = subprocess.run([*queue, "netem", "delay", "10ms"], capture_output=True, check=False)
    if done.returncode:
        command(*queue, "tbf", "rate", "4mbit", "burst", "4kb", "latency", "1s")


@contextmanager
def started(name: str, folder: Path, *arguments: str) -> Iterator[Process]:
    """A command in a namespace, whose first line has been printed unless it prints none."""
    process = subprocess.Popen(
        ["ip", "netns", "exec", name, str(SCRIPT), *arguments],
        cwd=folder,
        env={**os.environ, "DASK_TEMPORARY_DIRECTORY": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@contextmanager
def machine(name: str, number: int, folder: Path) -> Iterator[None]:
    """A machine with a server and its worker, which has joined."""
    worker = ("farm", "worker", "--scheduler", f"tcp://10.77.{number}.1:8786", "--insecure")
    with (
        started(name, folder, "serve-embedded", "--step-delay", "0.02") as server,
        started(name, folder, *worker, "--server", "127.0.0.1:7860", "--name", name) as process,
    ):
        assert server.stdout is not None
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        assert " joined " in lines[1], lines
        yield


def asked(runs: Path) -> set[str]:
    """The workers that have been sent a request of the one run in a folder."""
    logs = runs.glob("2*/events.jsonl")
    events = (event for log in logs for event in iterate(log))
    return {str(event.server) for event in events if isinstance(event, CallRequested)}


def test_a_machine_whose_network_is_cut_costs_no_image(networks: None, tmp_path: Path) -> None:
    """Over slow lines, a run ends with the same images although one machine is cut off."""
    del networks
    config = write_work(tmp_path, "txt2img", "upscale", steps=8)
    scheduler = ("farm", "scheduler", "--host", "0.0.0.0", "--insecure")
    limits = ("--worker-timeout", "1", "--dashboard-port", "0")
    run = ("run", str(config), "--farm", "tcp://10.77.1.1:8786", "--insecure", "--runs", "runs")
    with started(MASTER, tmp_path, *scheduler, *limits) as scheduling:
        assert scheduling.stdout is not None
        assert scheduling.stdout.readline().startswith("scheduler at ")
        with machine(FIRST, 1, tmp_path), machine(SECOND, 2, tmp_path):
            with started(MASTER, tmp_path, *run) as running:
                until(lambda: asked(tmp_path / "runs") == {FIRST, SECOND}, "requests to both")
                command("ip", "-n", SECOND, "link", "set", "from-2", "down")
                output, _ = running.communicate(timeout=60)
            assert running.returncode == 0, output
    (folder,) = (tmp_path / "runs").glob("2*")
    result = replay(folder)
    assert result.state is RunState.COMPLETED
    lost = [one for one in result.events if isinstance(one, CallFailed)]
    assert {one.error.kind for one in lost} == {"WorkerLostError"}
    alone = open_controller(tmp_path / "alone").start(config).wait(timeout_s=60)
    assert [one.source_sha256 for one in result.images] == [
        one.source_sha256 for one in alone.images
    ]
