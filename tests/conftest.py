"""Fixtures of several test files."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from .command_line import Start, fork_server, start_command
from .crashing import Counts, summary_lines
from .forking import ForkServer

ALL_CASES = "--all-cases"

pytest_plugins = ["pytester"]  # the tests of our own plugin run pytest as its user does


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let every case be run where a plain run takes samples."""
    parser.addoption(ALL_CASES, action="store_true", help="run the cases of tests that are sampled")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out all but every nth case of a test that is sampled."""
    if config.getoption(ALL_CASES):
        return
    places: Counter[str] = Counter()
    left_out = []
    for item in items:
        marker = item.get_closest_marker("sampled")
        if marker is not None:
            test = item.nodeid.partition("[")[0]
            if places[test] % marker.args[0]:
                left_out.append(item)
            places[test] += 1
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


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
def forks() -> ForkServer:
    """Forks commands that may be killed."""
    return fork_server()


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
