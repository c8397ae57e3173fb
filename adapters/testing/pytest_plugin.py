"""The pytest plugin, for tests of programs that run pipelines, without a server or a GPU.

pytest loads it wherever stagewright is installed, so modules are imported only when a test uses
a fixture.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import pluggy

    from ...events import EventRecorder
    from ...statemachine import PipelineController
    from .timeline_snapshots import SnapshotRecorder

_RECORDER: pytest.StashKey[SnapshotRecorder] = pytest.StashKey()
_UPDATE = "stagewright_update"
_SHOWN_LINES = 200
_LONGEST_END_S = 30.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option ``--stagewright-update``."""
    parser.getgroup("stagewright").addoption(
        "--stagewright-update",
        action="store_true",
        dest=_UPDATE,
        help="Rewrite the files that recorded_events.assert_timeline compares with.",
    )


@pytest.fixture
def recorded_events(request: pytest.FixtureRequest) -> Iterator[EventRecorder]:
    """Records every event, step and Config Error of this process, until the test ends.

    ``recorded_events.assert_timeline(Path("name.txt"))`` compares the timeline with a file
    beside the test, which ``--stagewright-update`` writes. The report of a failed test shows the
    timeline, the Config Errors and the faults of subscribers.
    """
    from .timeline_snapshots import SnapshotRecorder  # noqa: PLC0415 - see the module's docstring

    update = bool(request.config.getoption(_UPDATE))
    with SnapshotRecorder(request.path.parent, update=update) as recorder:
        request.node.stash[_RECORDER] = recorder
        yield recorder


@pytest.fixture
def stagewright_step_delay_s() -> float:
    """The seconds that a sampling step of ``stagewright_controller`` takes; tests override it.

    ``@pytest.mark.parametrize("stagewright_step_delay_s", [0.05])`` leaves time to cancel.
    """
    return 0.0


@pytest.fixture
def stagewright_controller(
    tmp_path: Path, stagewright_step_delay_s: float
) -> Iterator[PipelineController]:
    """A controller on the embedded backend, with its runs below ``tmp_path / "runs"``.

    A run that has not ended when the test ends is cancelled.
    """
    from ..bootstrap import open_controller  # noqa: PLC0415 - see the module's docstring

    controller = open_controller(tmp_path / "runs", step_delay_s=stagewright_step_delay_s)
    yield controller
    _end_run(controller)


def _end_run(controller: PipelineController) -> None:
    """Cancel the current run, and any run that the program starts meanwhile."""
    from ...events import StagewrightError  # noqa: PLC0415 - see the module's docstring

    deadline = time.monotonic() + _LONGEST_END_S
    cancelled: str | None = None
    while (run_id := controller.current_run_id) is not None:
        if time.monotonic() > deadline:
            pytest.fail(f"run {run_id} did not end within {_LONGEST_END_S:g} s of its cancel")
        if run_id != cancelled:
            # A run that has not begun, or is about to end, refuses; try again.
            with contextlib.suppress(StagewrightError):
                controller.cancel(run_id, reason="the test has ended")
                cancelled = run_id
        time.sleep(0.005)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pluggy.Result[pytest.TestReport], None]:
    """Add the recorded events to the report of a failed test."""
    outcome = yield
    report = outcome.get_result()
    recorder = item.stash.get(_RECORDER, None)
    if recorder is not None and report.failed:
        try:
            report.sections.extend(_sections(recorder))
        except Exception as error:  # noqa: BLE001 - reported; the test session must continue
            message = f"the timeline cannot be shown: {type(error).__name__}: {error}"
            report.sections.append(("stagewright timeline", message))


def _sections(recorder: EventRecorder) -> Iterator[tuple[str, str]]:
    lines = recorder.timeline().splitlines()
    if lines:
        shown = lines if len(lines) <= _SHOWN_LINES else ["...", *lines[-_SHOWN_LINES:]]
        yield "stagewright timeline", "\n".join(shown)
    if recorder.config_errors:
        yield "stagewright configurations that did not start", "\n".join(recorder.config_errors)
    if faults := recorder.faults():
        lines = [f"{name}: {count}" for name, count in faults.items()]
        yield "stagewright subscribers that raised or blocked", "\n".join(lines)
