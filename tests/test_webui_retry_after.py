"""A server that says when to try again is not asked before."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from stagewright.adapters import open_controller
from stagewright.adapters.backends.http.address import ServerAddress
from stagewright.adapters.backends.http.client import HttpClient
from stagewright.adapters.backends.http.error_mapping import error_of_status
from stagewright.adapters.inputs import PillowInputReader
from stagewright.events import RunState
from stagewright.statemachine import CancelToken, GenerateRequest
from stagewright.statemachine.errors import BackendError, PreflightError
from stagewright.statemachine.run.controller import PipelineController
from stagewright.statemachine.run.requests import LONGEST_RETRY_WAIT_S, retry_wait_s

from . import webui_faults as faults
from .command_line import until
from .preflighting import passed
from .support import ScriptedBackend, document
from .test_webui_settling import PROGRESS, configured, failures, ran
from .webui_names import Received
from .webui_server import ScriptedWebUI

RETRYING = {"retries": 1, "backoff_s": 0.01}
BUSY = "ServerUnavailableError"


def busy(status: int, retry_after: str) -> faults.Replies:
    """An answer with Retry-After."""
    return faults.Replies(status, b'{"detail": "busy"}', (("Retry-After", retry_after),))


def date(seconds: float) -> str:
    """The HTTP date of so many seconds from now."""
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


def gap_s(server: ScriptedWebUI) -> float:
    """How long after the first generating request the second one came."""
    first, second = server.generating()
    return second.at - first.at


@pytest.mark.parametrize(("status", "in_words"), [(429, "seconds"), (503, "date")])
def test_the_next_try_comes_when_the_server_says(
    server: ScriptedWebUI, tmp_path: Path, status: int, in_words: str
) -> None:
    """In seconds or as a date, which has whole seconds."""
    asked, least_s = ("1", 1.0) if in_words == "seconds" else (date(2.5), 1.2)
    server.on(0, busy(status, asked))
    result = ran(tmp_path, server, configured(tmp_path, "txt2img", server=RETRYING))
    assert (failures(result), result.state) == ([BUSY], RunState.COMPLETED)
    assert least_s <= gap_s(server) < 10


def test_the_next_try_does_not_come_before_the_backoff(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """Retry-After: 0 makes nothing faster."""
    server.on(0, busy(429, "0"))
    settings = {**RETRYING, "backoff_s": 0.5}
    result = ran(tmp_path, server, configured(tmp_path, "txt2img", server=settings))
    assert (failures(result), result.state) == ([BUSY], RunState.COMPLETED)
    assert gap_s(server) >= 0.5


def test_a_cancel_ends_the_wait_at_once(server: ScriptedWebUI, tmp_path: Path) -> None:
    """However long the server asked to wait."""
    server.on(0, busy(503, "250"))
    controller = open_controller(tmp_path / "runs", server.url)
    handle = controller.start(configured(tmp_path, "txt2img", server=RETRYING))
    log = handle.folder / "events.jsonl"
    until(lambda: "CallFailed" in log.read_text(encoding="utf-8"), "the first try has failed")
    controller.cancel(handle.run_id)
    assert handle.wait(5).state is RunState.CANCELLED
    assert len(server.generating()) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        *[(odd, None) for odd in ("", "soon", "-5", "1.5", "9" * 5000, "\xb2", "Mon, 99 Foo 2026")],
    ],
)
def test_the_error_carries_the_seconds_that_were_asked_for(
    header: str, seconds: float | None
) -> None:
    """None where the header holds neither seconds nor a date."""
    client = HttpClient(ServerAddress.parse("http://127.0.0.1:7860"))
    error = error_of_status(client, "/", 429, "busy", retry_after=header)
    assert error.retry_after_s == seconds


def test_any_backend_may_ask_for_a_longer_wait(tmp_path: Path) -> None:
    """The runner heeds the field of a transient error, whoever raised it."""
    times: list[float] = []

    def script(_request: GenerateRequest, _cancel: CancelToken) -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            raise BackendError("not now", transient=True, settled=True, retry_after_s=0.5)

    backend = ScriptedBackend(script)
    controller = PipelineController(backend=backend, runs=tmp_path, inputs=PillowInputReader())
    result = controller.start(document(server=RETRYING)).wait(10)
    assert result.state is RunState.COMPLETED
    assert times[1] - times[0] >= 0.5


def test_no_wait_is_longer_than_five_minutes() -> None:
    """A server that asks for a day is asked again before."""
    assert retry_wait_s(1.0, BackendError("busy", retry_after_s=86_400.0)) == LONGEST_RETRY_WAIT_S
    assert LONGEST_RETRY_WAIT_S == 300


def test_settling_asks_again_when_the_server_says(server: ScriptedWebUI, tmp_path: Path) -> None:
    """A lost request is waited for; the state is not asked for four times a second."""
    refused: list[Received] = []

    def odd(one: Received) -> faults.Fault | None:
        if one.path != PROGRESS or len(server.generating()) != 1 or refused[3:]:
            return None
        if not refused or one.at - refused[0].at < 1:
            refused.append(one)
            return busy(429, "1")
        return None

    server.odd = odd
    server.on(0, faults.resets)
    settings = {**RETRYING, "stall_timeout_s": 2.0}
    result = ran(tmp_path, server, configured(tmp_path, "txt2img", server=settings))
    assert (failures(result), result.state) == (["AnswerLostError"], RunState.COMPLETED)
    assert len(refused) == 1


def test_a_run_refused_by_a_busy_server_says_when_to_try_again(server: ScriptedWebUI) -> None:
    """Preflight waits for nothing: nothing was started."""
    server.odd = lambda _one: busy(503, "30")
    words = r"503: busy; the server asks to wait 30 s"
    with pytest.raises(PreflightError, match=words) as caught:
        passed(server, document())
    assert server.url in str(caught.value)
