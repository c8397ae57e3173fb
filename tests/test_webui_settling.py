"""Before another request: what a server still does for us, and whether somebody stopped it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from stagewright.adapters import open_controller
from stagewright.adapters.backends.http.address import ServerAddress
from stagewright.adapters.backends.webui import WebUIBackend
from stagewright.adapters.inputs import PillowInputReader
from stagewright.events import CallFailed, PipelineRunResult, RunState, StageType
from stagewright.statemachine import CancelToken, GenerateRequest
from stagewright.statemachine.config.schema import ServerTable
from stagewright.statemachine.errors import BackendError
from stagewright.statemachine.ports import SourceImage
from stagewright.statemachine.run.controller import PipelineController
from stagewright.statemachine.stages import UpscaleConfig

from . import webui_faults as faults
from .support import ScriptedBackend, document, png
from .webui_names import Received
from .webui_server import ScriptedWebUI

PROGRESS, INTERNAL_PROGRESS = "/sdapi/v1/progress", "/internal/progress"
QUICK: dict[str, Any] = {"retries": 0, "backoff_s": 0.01, "wait_s": 0, "stall_timeout_s": 0.4}
GPU = faults.server_error("RuntimeError", "the GPU fell off")
Odd = Callable[[Received], faults.Fault | None]


def first_looks(server: ScriptedWebUI, fault: faults.Fault, count: int) -> Odd:
    """The fault for so many looks at the progress, once something was sent."""

    def odd(one: Received) -> faults.Fault | None:
        return fault if one.path == PROGRESS and 0 < server.asked(PROGRESS) <= count else None

    return odd


def configured(folder: Path, *stages: str, images: int = 1, **tables: Any) -> dict[str, Any]:
    """A small run of these stages; ``server`` and ``run`` are tables of it."""
    settings = {**QUICK, **tables.pop("server", {})}
    table = {"preflight": False, **tables.pop("run", {})}
    config = document(*stages, run=table, server=settings, **tables)
    if "txt2img" in stages:
        return {**config, "images": images}
    inputs = folder / "inputs"
    inputs.mkdir(exist_ok=True)
    for place in range(images):
        (inputs / f"{place}.png").write_bytes(png(place))
    return {"input_image": str(inputs), **config}


def ran(
    folder: Path, server: ScriptedWebUI, config: dict[str, Any], limit_s: float = 20
) -> PipelineRunResult:
    """The run at its end, which is to come within ``limit_s``."""
    return open_controller(folder / "runs", server.url).start(config).wait(limit_s)


def failures(result: PipelineRunResult) -> list[str]:
    """The kinds of the errors that are recorded, in order."""
    return [event.error.kind for event in result.events if isinstance(event, CallFailed)]


@pytest.mark.parametrize(
    ("stages", "lost", "retries"),
    [
        pytest.param(("txt2img",), (0,), 0, id="next image"),
        pytest.param(("txt2img", "img2img"), (1,), 0, id="next stage"),
        pytest.param(("txt2img",), (0, 1), 1, id="after all retries"),
    ],
)
def test_an_image_given_up_for_good_is_settled_before_the_next_one(
    server: ScriptedWebUI,
    tmp_path: Path,
    stages: tuple[str, ...],
    lost: tuple[int, ...],
    retries: int,
) -> None:
    """Its job runs on; never are two of ours in line."""
    for nth in lost:
        server.on(nth, faults.LosesAnswer(0.3), stage="txt2img")
    table = {"on_image_error": "continue"}
    config = configured(tmp_path, *stages, images=2, run=table, server={"retries": retries})
    result = ran(tmp_path, server, config)
    assert failures(result) == ["AnswerLostError"] * len(lost)
    assert result.state is RunState.ERROR
    assert server.queue.longest == 1
    assert len(server.generating("txt2img")) == 2 + retries
    assert len(server.generating("img2img")) == len(stages) - 1


def test_an_interrupt_is_seen_though_progress_is_silent_when_the_answer_comes(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """The image is not recorded before the server speaks again; then it is made again."""

    def interrupted(exchange: faults.Exchange) -> None:
        answer = faults.encoded(exchange.generate(interrupted_at=1))
        exchange.mute_progress(muted=True)
        exchange.send(200, answer, faults.JSON_TYPE)

    server.on(0, interrupted)
    config = configured(tmp_path, "txt2img", server={"retries": 1, "stall_timeout_s": 1.0})
    handle = open_controller(tmp_path / "runs", server.url).start(config)
    server.until(lambda: server.asked(PROGRESS) >= 2)
    assert "CallCompleted" not in (handle.folder / "events.jsonl").read_text(encoding="utf-8")
    server.queue.alter(lambda: setattr(server, "muted", False))
    result = handle.wait(20)
    assert failures(result) == ["ServerInterruptedError"]
    assert (result.state, len(result.images)) == (RunState.COMPLETED, 1)
    assert len(server.generating()) == 2


def test_a_server_that_stays_silent_after_its_answer_is_not_believed(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """Within the stall limit it must say that nobody interrupted the request."""
    server.odd = first_looks(server, faults.resets, 1000)
    result = ran(tmp_path, server, configured(tmp_path, "txt2img"))
    assert failures(result) == ["ServerUnavailableError"]
    assert (result.state, result.images) == (RunState.ERROR, ())


@pytest.mark.parametrize("hiccup", [GPU, faults.UNAUTHORIZED, faults.resets])
def test_a_hiccup_of_progress_does_not_end_the_watch(
    server: ScriptedWebUI, tmp_path: Path, hiccup: faults.Fault
) -> None:
    """The interrupt of the image after it is still seen."""
    server.odd = first_looks(server, hiccup, 1)
    server.on(1, faults.INTERRUPTED_BY_ANOTHER)
    config = configured(tmp_path, "txt2img", images=2, server={"retries": 1})
    result = ran(tmp_path, server, config)
    assert failures(result) == ["ServerInterruptedError"]
    assert (result.state, len(result.images)) == (RunState.COMPLETED, 2)
    assert len(server.generating()) == 3


def test_a_server_that_is_gone_after_its_answer_does_not_cost_the_image(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """Refused connections are no silence: what came is recorded."""

    def leaves(exchange: faults.Exchange) -> None:
        exchange.send(200, faults.encoded(exchange.generate()), faults.JSON_TYPE)
        exchange.refuse(60)

    server.on(0, leaves)
    result = ran(tmp_path, server, configured(tmp_path, "txt2img"))
    assert failures(result) == []
    assert (result.state, len(result.images)) == (RunState.COMPLETED, 1)
    assert not server.listening


def fails_upscaling(exchange: faults.Exchange) -> None:
    """A failed upscale, which leaves its job behind; its error is one that may pass."""
    exchange.body["upscaler_1"] = "no such"
    try:
        exchange.generate()
    except Exception:  # noqa: BLE001 - the server's own failure, told in other words
        GPU(exchange)


def loses_failed_upscaling(exchange: faults.Exchange) -> None:
    """The same, where nobody hears of the failure."""
    exchange.body["upscaler_1"] = "no such"
    exchange.break_off(reset=False)
    exchange.generate()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(fails_upscaling, "ServerFailureError"), (loses_failed_upscaling, "AnswerLostError")],
)
def test_what_a_failed_upscale_left_does_not_stop_the_runs_retry(
    server: ScriptedWebUI, tmp_path: Path, fault: faults.Fault, kind: str
) -> None:
    """The server shows a job for ever, and is asked again within bounds."""
    server.on(0, fault)
    config = configured(tmp_path, "upscale", server={"retries": 1, "stall_timeout_s": 0.1})
    result = ran(tmp_path, server, config, limit_s=6)
    assert failures(result) == [kind]
    assert (result.state, len(result.images)) == (RunState.COMPLETED, 1)


def upscaling(call_id: str, *unanswered: str, upscaler: str = "Lanczos") -> GenerateRequest:
    """An attempt at one upscale."""
    source = SourceImage(data=png(1), source_sha256="", media_type="image/png", width=64, height=64)
    return GenerateRequest(
        call_id=call_id, run_id="r", stage_id="00-upscale", stage_type=StageType.UPSCALE,
        image_index=0, count=1, total_images=1, attempt=len(unanswered), seed=1,
        config=UpscaleConfig(upscaler=upscaler, factor=2.0), inputs=(source,),
        unanswered=unanswered,
    )  # fmt: skip


def tell_nobody(*_steps: int, **_more: float | None) -> None:
    """Steps that nobody wants to know."""


def sent(server: ScriptedWebUI, request: GenerateRequest) -> int:
    """How many images a backend of its own, as another process has it, gets for a request."""
    settings = ServerTable(stall_timeout_s=0.1)
    address = ServerAddress.parse(server.url)
    with closing(WebUIBackend(address, inputs=PillowInputReader(), settings=settings)) as backend:
        answer = backend.generate_images(request, cancel=CancelToken(), on_step=tell_nobody)
        assert answer.confirm is not None
        answer.confirm()
        return len(answer.images)


def test_what_a_failed_upscale_left_does_not_stop_another_process(server: ScriptedWebUI) -> None:
    """It knows the earlier call only by its id, and goes on."""
    with pytest.raises(BackendError) as caught:
        sent(server, upscaling("r.0", upscaler="no such"))
    assert caught.value.settled
    assert server.queue.state["job"] == "Upscale"
    began = time.monotonic()
    assert sent(server, upscaling("r.1", "r.0")) == 1
    assert time.monotonic() - began < 5


def test_a_cancel_interrupts_nobody_where_our_task_is_unknown(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """A server that keeps tasks and does not know ours works for somebody else."""
    server.on(0, faults.silent)
    controller = open_controller(tmp_path / "runs", server.url)
    handle = controller.start(configured(tmp_path, "txt2img"))
    server.until(lambda: len(server.generating()) == 1)
    with server.foreign_job():
        controller.cancel(handle.run_id)
        assert handle.wait(10).state is RunState.CANCELLED
        assert server.asked(INTERNAL_PROGRESS) >= 1
    assert server.queue.interrupts == []


def test_settling_interrupts_nobody_where_our_task_is_unknown(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """A job that stands still is waited for and left alone; the run ends in words of it."""
    server.on(0, faults.resets)
    config = configured(tmp_path, "txt2img", server={"retries": 1, "stall_timeout_s": 0.1})
    with server.foreign_job(moving=False):
        result = ran(tmp_path, server, config)
    assert failures(result) == ["AnswerLostError", "ServerStillBusyError"]
    assert server.queue.interrupts == []


def test_a_queued_task_is_waited_for_though_the_server_looks_idle(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """It may come to its turn yet; only then is the request sent again."""

    def queued(one: Received) -> faults.Fault | None:
        if one.path != INTERNAL_PROGRESS:
            return None
        waits = server.asked(INTERNAL_PROGRESS) <= 4
        told = {"active": False, "queued": waits, "completed": not waits}
        return faults.Replies(200, faults.encoded(told))

    server.odd = queued
    server.on(0, faults.resets)
    settings = {"retries": 1, "shared": True}
    result = ran(tmp_path, server, configured(tmp_path, "txt2img", server=settings))
    assert result.state is RunState.COMPLETED
    paths = [one.path for one in server.requests]
    first, second = (place for place, one in enumerate(server.requests) if one.stage)
    assert paths[first:second].count(INTERNAL_PROGRESS) == 5


@pytest.mark.parametrize("silence", [faults.resets, faults.unavailable()])
def test_a_silent_server_is_waited_for_when_settling(
    server: ScriptedWebUI, tmp_path: Path, silence: faults.Fault
) -> None:
    """Within the stall limit that uses up no retry."""
    server.odd = first_looks(server, silence, 2)
    server.on(0, faults.resets)
    config = configured(tmp_path, "txt2img", server={"retries": 1, "stall_timeout_s": 0.8})
    result = ran(tmp_path, server, config)
    assert failures(result) == ["AnswerLostError"]
    assert (result.state, len(result.images)) == (RunState.COMPLETED, 1)


def test_only_answered_failures_are_recorded_as_settled(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """A lost answer says nothing of it in the log."""
    server.on(0, GPU)
    server.on(1, faults.resets)
    server.on(2, GPU)
    result = ran(tmp_path, server, configured(tmp_path, "txt2img", server={"retries": 3}))
    failed = [event for event in result.events if isinstance(event, CallFailed)]
    assert [one.settled for one in failed] == [True, msgspec.UNSET, True]
    assert b"settled" not in msgspec.json.encode(failed[1])


def test_the_next_attempt_is_told_of_what_is_not_settled_and_no_more(tmp_path: Path) -> None:
    """A settled call is left out; what was lost stays until the image is there."""
    outcomes = iter([True, False, True, None])

    def script(_request: GenerateRequest, _cancel: CancelToken) -> None:
        settled = next(outcomes)
        if settled is not None:
            raise BackendError("once more", transient=True, settled=settled)

    backend = ScriptedBackend(script)
    controller = PipelineController(backend=backend, runs=tmp_path, inputs=PillowInputReader())
    config = configured(tmp_path, "txt2img", server={"retries": 3})
    assert controller.start(config).wait(10).state is RunState.COMPLETED
    lost = backend.requests[1].call_id
    assert [one.unanswered for one in backend.requests] == [(), (), (lost,), (lost,)]
