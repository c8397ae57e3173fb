"""Fixtures of several test files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from PIL import Image
from stagewright.events import signals

from .command_line import Finished, Start, fork_server, run_json, start_command, write_config
from .crashing import Counts, summary_lines
from .forking import ForkServer
from .listening import Connect
from .pictures import portrait
from .serving import DELAY_S, Client, serving
from .webui_server import ScriptedWebUI

if TYPE_CHECKING:
    from .reports import Browser

_STATE = "stagewright-tests-state-"
ALL_CASES = "--all-cases"
NO_SKIPS = "--no-skips"

collect_ignore = ["test_leaving.py"] if sys.platform == "win32" else []
"""Files that need a module that only POSIX systems have."""

pytest_plugins = ["pytester"]  # the tests of our own plugin run pytest as its user does


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let every case be run where a plain run takes samples."""
    parser.addoption(ALL_CASES, action="store_true", help="run the cases of tests that are sampled")
    parser.addoption(NO_SKIPS, action="store_true", help="fail if a test is skipped")


def pytest_configure(config: pytest.Config) -> None:
    """Let the commands that tests start be interrupted, and see no settings of this user.

    A script that starts the tests in the background has SIGINT ignored, and so would they.
    """
    # A property may take longer on a busy machine.
    examples = 100 if config.getoption(ALL_CASES) else 30
    settings.register_profile("stagewright", deadline=None, max_examples=examples)
    settings.load_profile("stagewright")
    for name in ("SERVER", "RUNS"):
        os.environ.pop(f"STAGEWRIGHT_{name}", None)
    os.environ["STAGEWRIGHT_CONFIG_FILE"] = os.devnull
    # The locks of servers: those of this user are not touched. Workers share the folder.
    if _STATE not in os.environ.get("XDG_STATE_HOME", ""):
        os.environ["XDG_STATE_HOME"] = folder = tempfile.mkdtemp(prefix=_STATE)
        config.add_cleanup(lambda: shutil.rmtree(folder))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests for other systems, and all but every nth case of a test that is sampled."""
    others = [name for name, here in _SYSTEMS.items() if not here]
    _leave_out(config, items, [one for one in items if any(map(one.get_closest_marker, others))])
    if not config.getoption(ALL_CASES):
        _leave_out(config, items, _not_in_sample(items))


_SYSTEMS = {"posix": os.name == "posix", "linux": sys.platform == "linux"}
"""By marker, whether this is such a system."""


def _leave_out(config: pytest.Config, items: list[pytest.Item], some: list[pytest.Item]) -> None:
    config.hook.pytest_deselected(items=some)
    items[:] = [item for item in items if item not in set(some)]


def _not_in_sample(items: list[pytest.Item]) -> list[pytest.Item]:
    places: Counter[str] = Counter()
    left_out = []
    for item in items:
        marker = item.get_closest_marker("sampled")
        if marker is not None:
            test = item.nodeid.partition("[")[0]
            if places[test] % marker.args[0]:
                left_out.append(item)
            places[test] += 1
    return left_out


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail where a test was skipped, if that was asked for."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption(NO_SKIPS) and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests of a process."""
    from .reports import open_browser  # loads selenium

    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


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


@pytest.fixture
def connected() -> Iterator[Connect]:
    """Connects receivers to ``event_appended`` for one test."""
    receivers: list[Callable[..., object]] = []

    def connect(receiver: Callable[..., object]) -> None:
        receivers.append(receiver)
        signals.event_appended.connect(receiver, weak=False)

    yield connect
    for receiver in receivers:
        signals.event_appended.disconnect(receiver)


@pytest.fixture(scope="module")
def served() -> Iterator[Client]:
    """A client of a ``serve-embedded`` whose state no test may change for the next.

    It has stored all options, so it restores those that a request overrides.
    """
    with serving() as client:
        present = client.get("options")
        client.post("options", {key: present[key] for key in present if "checkpoint" not in key})
        yield client


@pytest.fixture
def server() -> Iterator[ScriptedWebUI]:
    """A WebUI to test against."""
    with ScriptedWebUI() as made:
        yield made


@pytest.fixture
def slow() -> Iterator[Client]:
    """A client of a ``serve-embedded`` of its own, on which each step takes a while."""
    with serving(step_delay_s=DELAY_S) as client:
        yield client


@pytest.fixture(scope="session")
def face() -> Image.Image:
    """A picture with a face in it."""
    return portrait()


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
        shown = ("runs", "groups", "epochs", "kills", "power losses", "requests", "broken promises")
        yield "simulation: " + ", ".join(f"{met[what]} {what}" for what in shown)
    for name, value in properties:
        if name == "found without a barrier":
            yield f"simulation without {value}"


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A folder with one finished run, and the result that was printed."""
    folder = tmp_path_factory.mktemp("once")
    return folder, run_json(write_config(folder))


@pytest.fixture
def finished(finished_once: Finished, tmp_path: Path) -> Finished:
    """A copy of one finished run, and the result that was printed."""
    folder, printed = finished_once
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return tmp_path, printed
