"""Fixtures of several test files."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .command_line import Start, start_command


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a command that runs beside the test; whatever still runs at its end is killed."""
    processes: list[subprocess.Popen[str]] = []

    def started(*arguments: str | Path, folder: Path) -> subprocess.Popen[str]:
        processes.append(start_command(*arguments, folder=folder))
        return processes[-1]

    yield started
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
