"""Bytes count as movement only at the rate of a line that works: 1 KiB a second on average."""

from __future__ import annotations

from pathlib import Path

from stagewright.events import RunState

from . import webui_faults as faults
from .test_webui_settling import configured, failures, ran
from .webui_server import ScriptedWebUI

LIMIT_S = 8.0
"""Long before this the run must have ended."""


def test_a_trickling_answer_is_given_up_and_made_again(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """Twenty bytes a second are not a line that works."""
    server.on(0, faults.Trickles(0.05))
    config = configured(tmp_path, "upscale", server={"retries": 1, "stall_timeout_s": 0.3})
    result = ran(tmp_path, server, config, limit_s=LIMIT_S)
    assert failures(result) == ["ServerStalledError"]
    assert (result.state, len(result.images)) == (RunState.COMPLETED, 1)


def test_a_server_that_always_trickles_ends_the_run(server: ScriptedWebUI, tmp_path: Path) -> None:
    """After the retries it is an error as for any stalled server, and no image is kept."""
    server.on(range(9), faults.Trickles(0.05))
    config = configured(tmp_path, "txt2img", server={"retries": 1, "stall_timeout_s": 0.2})
    result = ran(tmp_path, server, config, limit_s=LIMIT_S)
    assert failures(result) == ["ServerStalledError"] * 2
    assert (result.state, result.images) == (RunState.ERROR, ())


def test_an_answer_at_a_slow_and_honest_rate_is_waited_for(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """At 4 KiB a second it takes several stall limits, and the job is over meanwhile."""
    answers = []

    def slowly(exchange: faults.Exchange) -> None:
        body = faults.encoded({**exchange.generate(), "pad": "x" * 4000})
        answers.append(len(body))
        exchange.send(200, b"", {"Content-Length": str(len(body))})
        for start in range(0, len(body), 205):
            exchange.wait(0.05)
            exchange.write(body[start : start + 205])

    server.on(0, slowly)
    config = configured(tmp_path, "txt2img", server={"stall_timeout_s": 0.4})
    result = ran(tmp_path, server, config)
    assert (failures(result), result.state) == ([], RunState.COMPLETED)
    assert answers[0] / 4096 > 0.8  # seconds: twice the limit
