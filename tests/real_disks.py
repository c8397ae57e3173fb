"""Real faults of real disks: small or read-only file systems, and what must hold after a fault."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from stagewright.events import RunState, replay

from .command_line import SCRIPT, SMALL, stagewright, write_config

FEW = SMALL.replace("images = 2", "images = 3")
"""Enough images that a first, a middle and a last one can be told apart."""

Done = subprocess.CompletedProcess[str]


def sources(run: Path) -> list[str]:
    """The images of a run, by index, as the backend gave them."""
    return [image.source_sha256 for image in replay(run).images]


def undisturbed(folder: Path, text: str) -> list[str]:
    """The images of ``text`` when nothing goes wrong."""
    config = write_config(folder, text)
    done = stagewright("run", config, "--runs", folder / "undisturbed", folder=folder)
    assert done.returncode == 0, done.stderr
    (run,) = [log.parent for log in (folder / "undisturbed").glob("*/events.jsonl")]
    return sources(run)


def only_run(runs: Path) -> Path:
    """The one run folder below ``runs``."""
    (run,) = [path for path in runs.iterdir() if (path / "events.jsonl").is_file()]
    return run


def assert_one_clear_line(done: Done, *words: str, status: int = 1) -> None:
    """One line on standard error, after the progress, that holds ``words``; never a traceback."""
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    *progress, last = done.stderr.splitlines(keepends=True)
    assert last.startswith("stagewright: "), done.stderr
    assert last.endswith("\n")
    assert not any(line.startswith("stagewright: ") for line in progress), done.stderr
    missing = [word for word in words if word not in last]
    assert not missing, (missing, done.stderr)


def assert_ends_the_same(run: Path, images: Sequence[str], resume: Done) -> None:
    """``resume`` has brought the run to COMPLETED, with these images, and all is sound."""
    assert resume.returncode == 0, resume.stderr
    assert replay(run).state is RunState.COMPLETED
    assert sources(run) == list(images)
    checked = stagewright("verify", run, folder=run.parent)
    assert checked.returncode == 0, checked.stdout


@functools.cache
def _ways_in() -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """How mounts of one's own are made and entered here, or why they cannot be."""
    said = ""
    for user in ((), ("--user",)):
        mapped = ("--map-root-user",) if user else ()
        probe = ["unshare", *user, *mapped, "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
        try:
            done = subprocess.run(probe, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            return (), (), str(error)
        if done.returncode == 0:
            kept = ("--preserve-credentials",) if user else ()
            return (*user, *mapped), (*user, *kept), ""
        said = done.stderr.strip()
    return (), (), said


class MountSpace:
    """Processes that see mounts of their own, which go with the last of them."""

    def __init__(self, holder: subprocess.Popen[str], enter: tuple[str, ...]) -> None:
        self._holder = holder
        self._enter = ("nsenter", "--target", str(holder.pid), *enter, "--mount")

    def do(self, *command: str | Path) -> Done:
        """Run a command in the space."""
        return subprocess.run(
            [*self._enter, *map(str, command)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def mount(self, *arguments: str | Path) -> None:
        """Mount something in the space."""
        done = self.do("mount", *arguments)
        assert done.returncode == 0, done.stderr

    def stagewright(self, *arguments: str | Path) -> Done:
        """Run one command of ours in the space; its paths must be absolute."""
        return self.do(SCRIPT, *arguments)

    def seen(self, path: Path) -> Path:
        """A path of the space as the test itself reaches it."""
        return Path(f"/proc/{self._holder.pid}/root{path}")


@contextmanager
def mount_space() -> Iterator[MountSpace]:
    """A space for mounts; the test is skipped where the system grants none."""
    make, enter, refusal = _ways_in()
    if refusal:
        pytest.skip(f"this system lets nothing be mounted: {refusal}")
    command = ["unshare", *make, "--mount", "sh", "-c", "echo ready && exec cat"]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "ready\n"
        yield MountSpace(holder, enter)
    finally:
        holder.stdin.close()
        holder.wait(30)
        holder.stdout.close()
