"""Servers that are starting: their port is open, and their routes or what is behind it are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters import open_controller
from stagewright.events import CallFailed, PipelineRunResult, RunState
from stagewright.statemachine.errors import PreflightError

from . import webui_faults as faults
from .resuming import only, small
from .webui_names import Received
from .webui_server import ScriptedWebUI

STATUSES = pytest.mark.parametrize("status", [404, 503])


class StartingWebUI(ScriptedWebUI):
    """While it is starting, every route answers ``status``, for so many ``answers``.

    With ``nth``, it begins to start when that generating request comes.
    """

    def __init__(self, status: int, *, nth: int | None = None, answers: int = 12) -> None:
        self.refusal = faults.Replies(status, b'{"detail":"Not Found"}')
        self.nth, self.answers, self.is_starting = nth, answers, nth is None
        super().__init__()

    def arrived(self, received: Received) -> faults.Fault | None:
        """Keep a request, and refuse it while the server is starting."""
        fault = super().arrived(received)
        self.is_starting |= bool(received.stage) and len(self.generating()) - 1 == self.nth
        if not self.is_starting:
            return fault
        self.answers -= 1
        self.is_starting = self.answers > 0
        return self.refusal


def run(folder: Path, server: ScriptedWebUI, **settings: Any) -> PipelineRunResult:
    """A run of two images, without retries."""
    config = small("txt2img", images=2, server={"retries": 0, "backoff_s": 0.01, **settings})
    return open_controller(folder, server.url).start(config).wait(30)


@STATUSES
def test_a_run_waits_at_its_start_for_the_routes(tmp_path: Path, status: int) -> None:
    """Where ``wait_s`` is set; otherwise it is refused, and no folder is made."""
    with StartingWebUI(status) as server:
        with pytest.raises(PreflightError):
            run(tmp_path, server)
        assert not list(tmp_path.iterdir())
        server.answers = 4
        server.is_starting = True
        assert run(tmp_path, server, wait_s=30).state is RunState.COMPLETED


@STATUSES
def test_a_run_without_preflight_waits_too(tmp_path: Path, status: int) -> None:
    """The options are read, and the schema asked for, once the server has started."""
    config = small("txt2img", images=1, run={"preflight": False}, server={"wait_s": 30})
    with StartingWebUI(status, answers=4) as server:
        assert open_controller(tmp_path, server.url).start(config).wait(30).error is None
        (body,) = (one.body for one in server.generating())
    assert body["override_settings"]["sd_vae"] == "Automatic"


@STATUSES
def test_a_server_that_starts_again_is_waited_for_without_a_try(
    tmp_path: Path, status: int
) -> None:
    """As one that cannot be reached; the progress is asked for again afterwards."""
    with StartingWebUI(status, nth=1) as server:
        result = run(tmp_path, server)
        last = [one.path for one in server.requests][-3:]
    assert result.state is RunState.COMPLETED, result.error
    failed = only(result.events, CallFailed)
    assert {one.error.kind for one in failed} == {"ServerStartingError"}
    assert all(one.will_retry for one in failed)
    assert any(path.endswith("/progress") for path in last)


def test_a_server_that_never_has_started_ends_the_run_after_the_wait(tmp_path: Path) -> None:
    """The error says that it is starting."""
    with StartingWebUI(404, nth=1, answers=10**6) as server:
        result = run(tmp_path, server, wait_s=0.3)
    assert result.error is not None
    assert "the server is starting" in result.error.message


def test_a_route_that_is_missing_on_a_started_server_ends_the_run(tmp_path: Path) -> None:
    """It is not waited for."""
    with ScriptedWebUI(missing_routes=("/sdapi/v1/txt2img",)) as server:
        config = small("txt2img", images=1, run={"preflight": False}, server={"retries": 3})
        result = open_controller(tmp_path, server.url).start(config).wait(30)
    assert [one.error.kind for one in only(result.events, CallFailed)] == ["RouteMissingError"]
