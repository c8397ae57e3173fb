"""Each way in which a WebUI server fails, at each stage: what becomes of the run and its log."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image, ImageOps
from stagewright.adapters import open_controller
from stagewright.events import (
    CallCompleted,
    CallFailed,
    CallRequested,
    LifecycleChanged,
    PipelineRunResult,
    RunState,
)
from stagewright.statemachine.errors import PreflightError
from stagewright.statemachine.resume.verify import verify_run
from stagewright.statemachine.run.handle import RunHandle

from . import webui_faults as faults
from .command_line import SMALL, stagewright, until, write_config
from .resuming import only
from .support import document, png
from .webui_server import ScriptedWebUI

Stages = tuple[str, ...]
ENDPOINTS = {
    "txt2img": "/sdapi/v1/txt2img",
    "img2img": "/sdapi/v1/img2img",
    "extra-single-image": "/sdapi/v1/extra-single-image",
    "adetailer": "/sdapi/v1/img2img",
}
PLANNED: dict[str, Stages] = {
    "txt2img": ("txt2img",),
    "img2img": ("img2img",),
    "extra-single-image": ("upscale",),
    "adetailer": ("img2img", "adetailer"),
}
STAGE_IDS = {name: f"{len(one) - 1:02d}-{one[-1]}" for name, one in PLANNED.items()}
ALL: Stages = tuple(ENDPOINTS)
SAMPLING: Stages = ("txt2img", "img2img")
TELLING: Stages = (*SAMPLING, "adetailer")
IMAGES = 3
QUICK = {"retries": 1, "backoff_s": 0.01, "stall_timeout_s": 0.4}
SLOW = {**QUICK, "stall_timeout_s": 0.1}


@dataclass(frozen=True)
class Case:
    """A fault that strikes once: the error recorded for it, and whether it is tried again."""

    retried: bool
    fault: faults.Fault
    kind: str
    words: str
    stages: Stages = ALL
    images: tuple[int, ...] = (0, 1, 2)
    server: Mapping[str, Any] = field(default_factory=QUICK.copy)


again, final = partial(Case, True), partial(Case, False)
LOST, BUSY, STALLED = "AnswerLostError", "ServerUnavailableError", "ServerStalledError"
WRONG, OTHER = "BackendAnswerError", "SettingsNotUsedError"
GPU = faults.server_error("RuntimeError", "the GPU fell off")
ALONE: Stages = ("adetailer",)
LIMITED = {**QUICK, "total_timeout_s": 0.3}
CASES = {
    "resets": again(faults.resets, LOST, "no complete answer"),
    "breaks off": again(faults.BreaksOff(), LOST, "answer"),
    "ends short": again(faults.BreaksOff(reset=False), LOST, "answer"),
    "answer lost": again(faults.LosesAnswer(0.1), LOST, "no complete answer"),
    "502": again(faults.BAD_GATEWAY, BUSY, "502 Bad Gateway"),
    "503": again(faults.unavailable(), BUSY, "503: busy"),
    "500": again(GPU, "ServerFailureError", "the GPU fell off"),
    "hostile": again(faults.HOSTILE, "ServerFailureError", "AAAA"),
    "memory": again(faults.OUT_OF_MEMORY, "ServerOutOfMemoryError", "CUDA out of memory"),
    "interrupted": again(faults.INTERRUPTED_BY_ANOTHER, "ServerInterruptedError", "incomplete"),
    "html": final(faults.HTML_PAGE, WRONG, "Welcome to nginx!"),
    "401": final(faults.UNAUTHORIZED, "AuthenticationError", "Incorrect username or password"),
    "404": final(faults.NOT_FOUND, "RouteMissingError", "404"),
    "422": final(faults.UNPROCESSABLE, "RequestRefusedError", "not a valid integer"),
    "nan": final(faults.NANS, "NansError", "tensor with all NaNs"),
    "redirect": final(faults.REDIRECT, "RequestRefusedError", "redirected to http://127.0.0.1:1/"),
    "base64": final(faults.GARBAGE_BASE64, WRONG, "base64"),
    "no text": final(faults.NOT_TEXT, WRONG, "not a string"),
    "truncated": final(faults.TRUNCATED_PNG, WRONG, "PNG"),
    "no image": final(faults.NOT_AN_IMAGE, WRONG, "image"),
    "none": final(faults.NO_IMAGES, WRONG, "image"),
    "null": final(faults.NULL_IMAGES, WRONG, "0 images instead of 1"),
    "too few": final(faults.TOO_FEW, WRONG, "0 images instead of 1", TELLING),
    "info number": final(faults.INFO_NUMBER, WRONG, "info", TELLING),
    "info no json": final(faults.INFO_NOT_JSON, WRONG, "JSON", TELLING),
    "no object": final(faults.NOT_AN_OBJECT, WRONG, "object"),
    "cut json": final(faults.CUT_JSON, WRONG, "JSON"),
    "2 GiB": final(faults.Floods("length"), WRONG, "2147483661 bytes"),
    "endless": final(faults.Floods("endless"), WRONG, "more than", ("txt2img",), (1,)),
    "gzip": final(faults.Floods("gzip"), WRONG, "compressed"),
    "model": final(faults.WRONG_MODEL, OTHER, "another was used", TELLING),
    "sampler": final(faults.WRONG_SAMPLER, OTHER, "DPM++ 2M was used", SAMPLING),
    "size": final(faults.WRONG_SIZE, OTHER, "came back"),
    "repainted": final(faults.repainted, OTHER, "repainted the whole image", ALONE),
    "no evidence": final(faults.NO_ADETAILER_EVIDENCE, OTHER, "did not run", ALONE),
    "stalls": again(faults.STALLS, STALLED, "no progress for", server=SLOW),
    "mute": again(faults.STALLS_MUTE, STALLED, "no progress for", ("txt2img",), (1,), SLOW),
    "hangs": final(faults.HANGS, "ServerStillBusyError", "still busy", server=SLOW),
    "loads": again(faults.STALLS_AT_FIRST_STEP, STALLED, "for 0.5 s", SAMPLING, (1,), SLOW),
    "silent": again(faults.silent, STALLED, "is idle now", ALL, (1,), SLOW),
    "trickles": again(faults.Trickles(0.02), STALLED, "total_timeout_s = 0.3", ALL, (1,), LIMITED),
}
REST = pytest.mark.sampled(20)
MATRIX = [
    pytest.param(
        *(case, stage, image),
        id=f"{name}-{stage}-{image}",
        # Of each fault one case is run always, of another stage and image than of the one before.
        marks=() if place == number % (len(case.stages) * len(case.images)) else REST,
    )
    for number, (name, case) in enumerate(CASES.items())
    for place, (stage, image) in enumerate(product(case.stages, case.images))
]
LASTING = {name for name, case in CASES.items() if case.retried} - {"mute"}
HARMLESS = {
    "trickles": (faults.Trickles(0.001, size=200), ALL),
    "JPEG": (faults.JPEG, ALL),
    "WebP": (faults.WEBP, ALL),
    "surrogate": (faults.SURROGATE, ALL),
    "surrogate in info": (faults.SURROGATE_IN_INFO, TELLING),
    "NaN": (faults.NAN, ALL),
    "slow": (faults.Generates(lasts_s=0.2), ALL),
}


def configured(folder: Path, stages: Stages, settings: dict[str, Any]) -> dict[str, Any]:
    """A run of three small images through these stages."""
    config = document(*stages, run={"preflight": False}, server=settings)
    if "txt2img" in stages:
        return {**config, "images": IMAGES}
    inputs = folder / "inputs"
    inputs.mkdir()
    for place in range(IMAGES):
        (inputs / f"{place}.png").write_bytes(png(place))
    return {**config, "input_image": str(inputs)}


def run(folder: Path, server: ScriptedWebUI, config: dict[str, Any]) -> PipelineRunResult:
    """Run it to its end and see that its folder holds what the log says, and no more."""
    handle = open_controller(folder / "runs", server.url).start(config)
    result = handle.wait(60)
    assert verify_run(handle.folder).flaws == ()
    recorded = {
        artifact.path
        for event in result.events
        if isinstance(event, CallCompleted)
        for artifact in event.artifacts
    }
    found = [path for path in (handle.folder / "images").rglob("*") if path.is_file()]
    assert {path.relative_to(handle.folder).as_posix() for path in found} == recorded
    assert not list(handle.folder.rglob("*.part"))
    return result


@pytest.mark.parametrize(("case", "stage", "image"), MATRIX)
def test_a_fault_is_recorded_and_tried_again_or_ends_the_run(
    server: ScriptedWebUI, tmp_path: Path, case: Case, stage: str, image: int
) -> None:
    """Its error names server, endpoint and cause; nothing half made is kept or counted."""
    server.on(image, case.fault, stage=stage)
    result = run(tmp_path, server, configured(tmp_path, PLANNED[stage], dict(case.server)))
    (failed,) = only(result.events, CallFailed)
    assert (failed.error.kind, failed.will_retry) == (case.kind, case.retried)
    assert failed.endpoint == ENDPOINTS[stage]
    assert server.url + ENDPOINTS[stage] in failed.error.message
    assert case.words in failed.error.message
    assert len(failed.error.message) < 2000
    asked = [one for one in only(result.events, CallRequested) if one.stage_id == STAGE_IDS[stage]]
    tries = [one for one in asked if one.image_index == image]
    assert failed.call_id == tries[0].call_id
    assert [one.attempt for one in tries] == ([0, 1] if case.retried else [0])
    assert len({one.request_sha256 for one in tries}) == 1
    assert len(server.generating(stage)) == (IMAGES + 1 if case.retried else image + 1)
    assert server.queue.longest <= 1
    if case.retried:
        assert (result.state, result.error) == (RunState.COMPLETED, None)
        assert len(result.images) == IMAGES
        return
    assert result.state is RunState.ERROR
    assert result.error is not None
    assert (result.error.kind, result.error.stage_id) == (case.kind, STAGE_IDS[stage])
    assert result.error.image_index == image
    change = only(result.events, LifecycleChanged)[-1]
    assert change.reason.startswith(f"{STAGE_IDS[stage]}, image {image + 1}: {case.kind}: ")
    assert result.stages[-1].image_count == image


@pytest.mark.parametrize("name", sorted(LASTING))
def test_a_fault_that_stays_ends_the_run_after_all_tries(
    server: ScriptedWebUI, tmp_path: Path, name: str
) -> None:
    """With one retry there are two requests; only the last failure says that it is for good."""
    case = CASES[name]
    server.on(range(1, 100), case.fault, stage="txt2img")
    result = run(tmp_path, server, configured(tmp_path, ("txt2img",), dict(case.server)))
    failures = only(result.events, CallFailed)
    assert [one.will_retry for one in failures] == [True, False]
    assert {one.error.kind for one in failures} == {case.kind}
    assert result.state is RunState.ERROR
    assert [image.image_index for image in result.images] == [0]
    assert len(server.generating()) == 3


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("fault", "stage"),
    [
        pytest.param(fault, stage, id=f"{name}-{stage}")
        for name, (fault, stages) in HARMLESS.items()
        for stage in stages
    ],
)
def test_an_odd_answer_that_holds_the_images_is_taken(
    server: ScriptedWebUI, tmp_path: Path, fault: faults.Fault, stage: str
) -> None:
    """No failure is recorded, and no request is sent twice."""
    server.on(1, fault, stage=stage)
    result = run(tmp_path, server, configured(tmp_path, PLANNED[stage], QUICK))
    assert (result.state, only(result.events, CallFailed)) == (RunState.COMPLETED, [])
    assert len(server.generating(stage)) == IMAGES


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (faults.TOO_FEW, "2 images instead of 3"),
        (faults.TOO_MANY, ""),
        (faults.grid_first, ""),
    ],
)
def test_a_batch_is_recorded_whole_or_not_at_all(
    server: ScriptedWebUI, tmp_path: Path, fault: faults.Fault, words: str
) -> None:
    """Fewer images are refused; a grid before them and additions after them are ignored."""
    server.on(0, fault)
    config = configured(tmp_path, ("txt2img",), QUICK)
    config["txt2img"] |= {"batch_size": IMAGES}
    result = run(tmp_path, server, config)
    assert words in (result.error.message if result.error else "")
    assert len({image.source_sha256 for image in result.images}) == (0 if words else IMAGES)


def test_a_refiner_that_left_no_evidence_is_an_error(server: ScriptedWebUI, tmp_path: Path) -> None:
    """The model that was asked for is named."""
    server.on(0, faults.NO_REFINER_EVIDENCE)
    config = configured(tmp_path, ("txt2img",), QUICK)
    config["txt2img"] |= {"refiner": {"model": "refiner.safetensors", "switch_at": 0.5}}
    result = run(tmp_path, server, config)
    assert result.error is not None
    assert result.error.kind == "SettingsNotUsedError"
    assert "Refiner refiner.safetensors was requested" in result.error.message


def test_a_server_that_comes_back_is_used_again(server: ScriptedWebUI, tmp_path: Path) -> None:
    """Refused connections are unreachable, and waiting for the server uses up no retry."""
    server.on(1, faults.Refuses(0.5))
    settings = {**QUICK, "retries": 1}
    result = run(tmp_path, server, configured(tmp_path, ("txt2img",), settings))
    kinds = [one.error.kind for one in only(result.events, CallFailed)]
    assert kinds[0] == "AnswerLostError"
    assert set(kinds[1:]) == {"ServerUnreachableError"}
    assert result.state is RunState.COMPLETED
    assert len(kinds) > 2
    assert len(server.generating()) == IMAGES + 1


def test_a_server_that_stays_away_ends_the_run_after_the_wait(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """``wait_s`` bounds the wait, and the retries come after it."""
    server.on(1, faults.Refuses(60))
    settings = {**QUICK, "retries": 1, "wait_s": 0.3}
    result = run(tmp_path, server, configured(tmp_path, ("txt2img",), settings))
    assert result.state is RunState.ERROR
    failures = only(result.events, CallFailed)
    assert [one.will_retry for one in failures] == [True] * (len(failures) - 1) + [False]
    waited = (failures[-1].ts - failures[0].ts).total_seconds()
    assert 0.3 <= waited < 10


def test_a_run_waits_at_its_start_where_it_is_told_to(tmp_path: Path) -> None:
    """With ``wait_s``, a run begins once its server listens; without, it is refused at once."""
    with ScriptedWebUI() as server:
        server.refuse()
        config = configured(tmp_path, ("txt2img",), QUICK) | {"run": {}}
        with pytest.raises(PreflightError, match="cannot be reached"):
            open_controller(tmp_path / "runs", server.url).start(config)
        waiting = configured(tmp_path, ("txt2img",), {**QUICK, "wait_s": 30}) | {"run": {}}
        timer = threading.Timer(0.5, server.listen)
        timer.start()
        handle = open_controller(tmp_path / "runs", server.url).start(waiting)
        assert handle.wait(30).state is RunState.COMPLETED
        timer.join()


def test_a_lost_interrupt_is_sent_again(tmp_path: Path) -> None:
    """Two interrupts between jobs change nothing; the third one ends the stall."""
    with ScriptedWebUI(deaf_interrupts=2) as server:
        server.on(0, faults.STALLS)
        settings = {**QUICK, "stall_timeout_s": 0.5}
        result = run(tmp_path, server, configured(tmp_path, ("txt2img",), settings))
        assert result.state is RunState.COMPLETED
        assert server.interrupts(foreign=False) == 3


@pytest.mark.parametrize(
    "size", [{"factor": 2.0}, {"width": 128, "height": 128}, {"width": 128, "height": 64}]
)
def test_what_an_interrupted_upscale_left_in_the_cache_is_not_taken(
    server: ScriptedWebUI, tmp_path: Path, size: dict[str, Any]
) -> None:
    """It is asked for under another key, or, to a size of another shape, pushed out first."""
    server.on(1, faults.STALLS)
    config = configured(tmp_path, ("upscale",), SLOW)
    config["upscale"] = {"upscaler": "R-ESRGAN 4x+", **size}
    result = run(tmp_path, server, config)
    assert result.state is RunState.COMPLETED
    for image in result.images:
        before = Image.open(tmp_path / "inputs" / f"{image.image_index}.png")
        after = Image.open(tmp_path / "runs" / result.run_id / image.path)
        assert after.getpixel((0, 0)) == ImageOps.invert(before).getpixel((0, 0))


@pytest.mark.parametrize("moving", [True, False])
def test_another_clients_job_is_waited_for_and_never_interrupted(
    server: ScriptedWebUI, tmp_path: Path, caplog: pytest.LogCaptureFixture, moving: bool
) -> None:
    """On a shared server ours stays queued; a foreign job that stands still is left alone."""
    config = configured(tmp_path, ("txt2img",), {**SLOW, "shared": True})
    with server.foreign_job(moving=moving):
        handle = open_controller(tmp_path / "runs", server.url).start(config)
        server.until(lambda: len(server.queue.line) == 2)
        result = None if moving else handle.wait(60)
    result = result or handle.wait(60)
    assert result.state is (RunState.COMPLETED if moving else RunState.ERROR)
    assert server.interrupts(foreign=True) == 0
    warning = "other clients use it now; their settings may be taken for the server's own"
    assert caplog.text.count(warning) == 1


def test_a_strangers_interrupt_is_seen_though_the_next_job_has_begun(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """The flag is cleared as the stranger's own request begins; it was seen while ours ended."""
    server.queue.decoding_s = 1.0
    config = configured(tmp_path, ("txt2img",), {**QUICK, "stall_timeout_s": 5, "shared": True})
    body = {"prompt": "a stranger's", "width": 64, "height": 64}
    with ThreadPoolExecutor(1) as pool, server.hold():
        handle = open_controller(tmp_path / "runs", server.url).start({**config, "images": 1})
        server.until_running(step=1)
        pool.submit(requests.post, f"{server.url}/sdapi/v1/txt2img", json=body, timeout=60)
        server.until(lambda: len(server.queue.line) == 2)
        server.queue.interrupt()
        until(lambda: "CallCompleted" in read(handle) or "CallFailed" in read(handle), "an end")
        assert "CallCompleted" not in read(handle)


def read(handle: RunHandle) -> str:
    return (handle.folder / "events.jsonl").read_text(encoding="utf-8")


def cancelled(
    folder: Path,
    server: ScriptedWebUI,
    stages: Stages,
    waiting: Callable[[], bool],
    **settings: Any,
) -> PipelineRunResult:
    """Cancel a run as soon as ``waiting`` holds of the server."""
    controller = open_controller(folder / "runs", server.url)
    settings = {**QUICK, "stall_timeout_s": 1.0, **settings}
    handle = controller.start(configured(folder, stages, settings))
    server.until(waiting)
    controller.cancel(handle.run_id)
    result = handle.wait(60)
    assert result.state is RunState.CANCELLED
    return result


def test_cancel_interrupts_and_the_half_made_picture_is_not_kept(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """The server answers 200 with something half made; the finished image before it is kept."""
    server.on(1, faults.STALLS)
    result = cancelled(tmp_path, server, ("txt2img",), lambda: len(server.generating()) == 2)
    assert [image.image_index for image in result.images] == [0]
    assert server.interrupts(foreign=False) >= 1
    assert not server.queue.line


@pytest.mark.parametrize(
    ("stage", "shared"), [("txt2img", False), ("txt2img", True), ("upscale", False)]
)
def test_cancel_leaves_a_job_alone_that_ran_before_ours_was_sent(
    server: ScriptedWebUI, tmp_path: Path, stage: str, shared: bool
) -> None:
    """Extras take no task id; what began before we sent is not ours, shared or not."""
    with server.foreign_job():
        cancelled(tmp_path, server, (stage,), lambda: len(server.queue.line) == 2, shared=shared)
        assert server.interrupts(foreign=True) == 0


@pytest.mark.parametrize("fault", [faults.HOSTILE, faults.echo_secrets])
def test_a_hostile_servers_words_reach_the_terminal_harmless(
    tmp_path: Path, fault: faults.Fault
) -> None:
    """One clear line without control characters, and no secret there or in the log."""
    config = write_config(tmp_path, SMALL + "[run]\npreflight = false\n[server]\nretries = 0\n")
    with ScriptedWebUI(auth=("somebody", "sesame42")) as server:
        server.on(0, fault)
        env = {**os.environ, "STAGEWRIGHT_AUTH": "somebody:sesame42"}
        done = stagewright("run", config, "--server", server.url, folder=tmp_path, env=env)
    assert done.returncode == 1
    assert server.url in done.stderr
    (log,) = tmp_path.glob("runs/*/events.jsonl")
    told = done.stdout + done.stderr
    assert all(character.isprintable() or character == "\n" for character in told)
    for secret in ("sesame42", "c29tZWJvZHk6c2VzYW1lNDI="):
        assert secret not in told + log.read_text(encoding="utf-8")
