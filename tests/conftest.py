"""Fixtures of several test files."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from .command_line import Start, start_command
from .crashing import Counts, ForkServer, summary_lines

pytest_plugins = ["pytester"]  # the tests of our own plugin run pytest as its user does


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


@pytest.fixture(scope="session")
def forks() -> Iterator[ForkServer]:
    """Forks commands that may be killed."""
    with ForkServer() as server:
        yield server


@pytest.fixture
def counts(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Iterator[Counts]:
    """What a test counts of its kills; it appears in the summary under the module's ``TITLE``."""
    counted = Counts()
    yield counted
    record_property(f"kills: {request.module.TITLE}", asdict(counted))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was counted of kills and of simulated runs, and what barriers are there for."""
    reports = [one for found in terminalreporter.stats.values() for one in found]
    properties = [
        one
        for report in reports
        if getattr(report, "when", None) == "teardown"
        for one in report.user_properties
    ]
    for line in summary_lines(properties):
        terminalreporter.write_line(line)
    for line in _simulated(properties):
        terminalreporter.write_line(line)


def _simulated(properties: list[tuple[str, object]]) -> Iterator[str]:
    met: Counter[str] = Counter()
    for name, value in properties:
        if name == "simulated" and isinstance(value, dict):
            met.update(value)
    if met:
        shown = ("runs", "epochs", "kills", "power losses", "requests", "broken promises")
        yield "simulation: " + ", ".join(f"{met[what]} {what}" for what in shown)
    for name, value in properties:
        if name == "found without a barrier":
            yield f"simulation without {value}"
