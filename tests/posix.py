"""Calls that only POSIX systems have, typed on every system."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

KILLED = -9
"""The exit status of a process that was ended by SIGKILL."""


def make_pipe(path: Path) -> None:
    """Make a named pipe."""
    if sys.platform == "win32":
        raise OSError("not on Windows")
    os.mkfifo(path)


def open_terminal() -> tuple[int, int]:
    """The descriptors of a terminal of its own: what its user has, and what a program has."""
    if sys.platform == "win32":
        raise OSError("not on Windows")
    return os.openpty()


def suspend(process_id: int) -> None:
    """Stop a child process, and wait until it stands still."""
    if sys.platform == "win32":
        raise OSError("not on Windows")
    os.kill(process_id, signal.SIGSTOP)
    os.waitpid(process_id, os.WUNTRACED)


def wake(process_id: int) -> None:
    """Let a process that was suspended go on."""
    if sys.platform == "win32":
        raise OSError("not on Windows")
    os.kill(process_id, signal.SIGCONT)


def leave_at_once(process: subprocess.Popen[str]) -> None:
    """Ask a process twice to stop before it can answer the first time."""
    if sys.platform == "win32":
        raise OSError("not on Windows")
    for asked in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
        process.send_signal(asked)
