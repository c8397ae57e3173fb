"""What several tests share: configurations, a scripted backend, a log to work on."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from PIL import Image
from stagewright.adapters import PillowInputReader
from stagewright.events import (
    Artifact,
    BackendDescription,
    CallCompleted,
    CallRequested,
    EventLog,
    LifecycleChanged,
    MemoryEventLog,
    Outcome,
    RunOpened,
    RunSealed,
    RunState,
    StageEnd,
    StageImageProgress,
    StageStart,
    StageType,
)
from stagewright.statemachine import (
    CancelToken,
    GenerateAnswer,
    GeneratedImage,
    GenerateRequest,
    ImageBackend,
    PipelineController,
)
from stagewright.statemachine.ports import OnStep

TXT2IMG: dict[str, Any] = {
    "model": "base.safetensors",
    "sampler": "Euler a",
    "steps": 3,
    "cfg_scale": 7.0,
    "width": 64,
    "height": 64,
}
STAGE_TABLES: dict[str, Any] = {
    "txt2img": TXT2IMG,
    "img2img": {"denoise": 0.5, "steps": 3},
    "upscale": {"upscaler": "Lanczos", "factor": 2.0},
    "adetailer": {"passes": [{"model": "face_yolov8n.pt"}]},
}


def document(*stages: str, **top: Any) -> dict[str, Any]:
    """A small valid configuration with these stages."""
    tables = {stage: dict(STAGE_TABLES[stage]) for stage in stages or ("txt2img",)}
    if "img2img" in tables and "txt2img" not in tables:
        base = {key: TXT2IMG[key] for key in ("model", "sampler", "cfg_scale")}
        tables["img2img"] = {**base, **tables["img2img"]}
    return {"name": "test", "prompt": "a lighthouse", "seed": 100, **tables, **top}


def png(seed: int, size: tuple[int, int] = (64, 64), mode: str = "RGB") -> bytes:
    """A small PNG whose pixels depend on ``seed``."""
    stream = io.BytesIO()
    colour = ((seed * 37) % 256, (seed * 91) % 256, (seed * 53) % 256)
    Image.new("RGB", size, colour).convert(mode).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


class ScriptedBackend:
    """Makes plain PNGs at once; ``script`` is called first and may raise, wait or cancel."""

    def __init__(
        self,
        script: Callable[[GenerateRequest, CancelToken], None] | None = None,
        *,
        slots: int = 1,
        images: Callable[[GenerateRequest], list[bytes]] | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        self.slots = slots
        self.description = BackendDescription(kind="scripted", product="tests", version="1")
        self.requests: list[GenerateRequest] = []
        self._script = script
        self._images = images or (
            lambda request: [png(request.seed + place) for place in range(request.count)]
        )
        self._info = dict(info or {})
        self._lock = threading.Lock()

    def generate_images(
        self, request: GenerateRequest, *, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        with self._lock:
            self.requests.append(request)
        if self._script is not None:
            self._script(request, cancel)
        on_step(1, 1)
        images = tuple(GeneratedImage(data=data) for data in self._images(request))
        return GenerateAnswer(images=images, endpoint="scripted", info=self._info)


def controller(runs: Path, backend: ImageBackend | None = None, **parts: Any) -> PipelineController:
    """A controller of its own, as another process has it."""
    made = backend or ScriptedBackend()
    return PipelineController(backend=made, runs=runs, inputs=PillowInputReader(), **parts)


START = datetime(2026, 11, 20, 22, 52, 26, 123456, tzinfo=UTC)


def fill_log(log: EventLog, images: int = 2, *, finished: bool = True) -> None:
    """Append a small txt2img run to an empty log, sealed when ``finished``."""

    def at() -> dict[str, Any]:
        moment = START + timedelta(milliseconds=log.next_seq)
        return {"run_id": log.run_id, "seq": log.next_seq, "ts": moment}

    if log.next_seq == 0:
        log.append(run_opened(log.run_id, images))
    log.append(
        LifecycleChanged(
            **at(), trigger="start", source=RunState.IDLE, dest=RunState.RUNNING, reason=""
        )
    )
    stage: dict[str, Any] = {"stage_id": "00-txt2img", "stage_type": StageType.TXT2IMG}
    log.append(StageStart(**at(), **stage, order_index=0, total_images=images, metadata={}))
    for index in range(images):
        call_id = f"{log.run_id}.00-txt2img.{index:05d}.0"
        log.append(
            CallRequested(
                **at(),
                call_id=call_id,
                stage_id="00-txt2img",
                image_index=index,
                count=1,
                attempt=0,
                request_sha256="d" * 64,
            )
        )
        made = artifact(index)
        log.append(
            CallCompleted(
                **at(),
                call_id=call_id,
                endpoint="scripted",
                artifacts=(made,),
                info={"seed": 100 + index},
                duration_ms=1.5,
            )
        )
        log.append(
            StageImageProgress(
                **at(), **stage, image_index=index, total_images=images, artifact=made
            )
        )
    if not finished:
        return
    log.append(
        StageEnd(**at(), **stage, image_count=images, duration_ms=5.25, outcome=Outcome.COMPLETED)
    )
    log.append(
        LifecycleChanged(**at(), trigger="finish", source=RunState.RUNNING, dest=RunState.COMPLETED)
    )
    log.append(RunSealed(**at(), count=log.next_seq, head=log.chain, outcome=Outcome.COMPLETED))


def run_opened(run_id: str, images: int = 2) -> RunOpened:
    """The first event of a small txt2img run."""
    stage = {"stage_id": "00-txt2img", "stage_type": "txt2img", "order_index": 0, "config": {}}
    return RunOpened(
        run_id=run_id,
        seq=0,
        ts=START,
        config={"name": "test"},
        plan={"stages": [stage], "summary": "txt2img"},
        seeds=tuple(100 + index for index in range(images)),
        backend=BackendDescription(kind="scripted"),
        software="tests",
        host="host",
        boot_id="boot",
        pid=1,
    )


def artifact(index: int, stage_id: str = "00-txt2img") -> Artifact:
    """An artifact record; no file stands behind it."""
    return Artifact(
        path=f"images/{stage_id}/{index:05d}-{100 + index}.png",
        image_index=index,
        sha256=f"{index:064x}",
        source_sha256=f"{index + 1:064x}",
        bytes=123,
        media_type="image/png",
        width=64,
        height=64,
        seed=100 + index,
    )


def memory_log(images: int = 2, *, finished: bool = True) -> MemoryEventLog:
    """A small run in memory."""
    log = MemoryEventLog("20261120T225226.123456Z-test-7f3a9c")
    fill_log(log, images, finished=finished)
    return log
