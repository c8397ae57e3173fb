"""The command line as a user starts it."""

from __future__ import annotations

import atexit
import io
import json
import logging
import os
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

from stagewright.adapters.cli.main import run_command_line

from .forking import ForkServer, looked_at_when_starting

ROOT = Path(__file__).parents[1]
SCRIPT = Path(sysconfig.get_path("scripts")) / "stagewright"

SMALL = """
prompt = "a lighthouse at dusk"
seed = 42
images = 2

[txt2img]
model = "base.safetensors"
sampler = "Euler a"
steps = 4
cfg_scale = 7.0
width = 64
height = 64
"""


def stagewright(
    *arguments: str | Path, folder: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one command in ``folder``; a traceback fails the test that asked.

    One that executes no run is called in this process. Any other is a process of its own, forked
    where that is possible: Python takes most of the time of a short command to start.
    """
    command = list(map(str, arguments))
    environment = dict(os.environ if env is None else env)
    if env is None and _can_becalled(command):
        done = called(command, folder)
    elif hasattr(os, "fork") and fork_server().serves(environment):
        ended = fork_server().run(*command, folder=folder, environment=environment)
        done = subprocess.CompletedProcess(command, *ended)
    else:
        done = installed(*arguments, folder=folder, env=env)
    assert "Traceback" not in done.stderr, done.stderr
    return done


_WITH_RUNS = ("run", "resume", "rerun", "follow", "notify", "serve-embedded", "farm")
"""Commands that execute runs, start threads or handle signals."""
_WITH_CONTROLLER = ("--vary", "--zip", "--against", "work", "--open")
"""What makes such commands of others."""
_AT_START = looked_at_when_starting(os.environ)


def _can_becalled(command: list[str]) -> bool:
    if threading.current_thread() is not threading.main_thread():
        return False  # they share the working folder and the streams
    if looked_at_when_starting(os.environ) != _AT_START:
        return False
    if "--help" in command:
        return True
    return not {*_WITH_RUNS, *_WITH_CONTROLLER}.intersection(command)


def called(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The command in this process, which is as it was afterwards."""
    output, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with (
        chdir(folder),
        open(os.devnull, encoding="utf-8") as nothing,
        redirect_stdout(output),
        redirect_stderr(errors),
        kept_loggers(),
    ):
        before, sys.stdin = sys.stdin, nothing
        try:
            status = run_command_line(command)
        finally:
            sys.stdin = before
    texts = []
    for stream in (output, errors):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return subprocess.CompletedProcess(list(command), status, *texts)


@contextmanager
def kept_loggers() -> Iterator[None]:
    """Take back what a command changes of the package's loggers."""
    before = {one.name: (list(one.handlers), one.level) for one in _loggers()}
    try:
        yield
    finally:
        for one in _loggers():
            one.handlers[:], level = before.get(one.name, ([], logging.NOTSET))
            one.setLevel(level)


def _loggers() -> Iterator[logging.Logger]:
    for name, one in list(logging.root.manager.loggerDict.items()):
        if name.partition(".")[0] == "stagewright" and isinstance(one, logging.Logger):
            yield one


def installed(
    *arguments: str | Path, folder: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command that is installed, from its very beginning."""
    return subprocess.run(
        [str(SCRIPT), *map(str, arguments)],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@cache
def fork_server() -> ForkServer:
    """The one of this process; it ends with it."""
    server = ForkServer()
    atexit.register(server.__exit__, None, None, None)
    return server


def run_python(
    *arguments: str | Path, folder: Path = ROOT, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments, such as ``-c`` and a program, in ``folder``."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


Start = Callable[..., subprocess.Popen[str]]
"""The fixture ``start``: starts one command and ends it with the test."""


def start_command(*arguments: str | Path, folder: Path) -> subprocess.Popen[str]:
    """Start one command in ``folder`` and leave it running."""
    return subprocess.Popen(
        [str(SCRIPT), *map(str, arguments)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def write_config(folder: Path, text: str = SMALL, name: str = "small.toml") -> Path:
    """A configuration file in ``folder``."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


Finished = tuple[Path, dict[str, Any]]
"""A folder with one finished run, and the result that was printed."""


def run_json(config: Path, *arguments: str, status: int = 0) -> dict[str, Any]:
    """The result that ``run --json`` prints, run in the configuration's folder."""
    done = stagewright("run", config, "--json", *arguments, folder=config.parent)
    assert done.returncode == status, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Wait for something that another process brings about."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.005)
