"""A log as long runs write it: four stages, three events for each image and stage."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from stagewright.events import (
    Artifact,
    BackendDescription,
    CallCompleted,
    CallRequested,
    LifecycleChanged,
    Outcome,
    RunOpened,
    RunState,
    StageEnd,
    StageEvent,
    StageImageProgress,
    StageStart,
    StageType,
)
from stagewright.events.codec import CODEC
from stagewright.events.log.format import FIRST_CHAIN, frame, next_chain

RUN_ID = "20261120T225226.123456Z-benchmark-7f3a9c"
_START = datetime(2026, 11, 20, 22, 52, 26, 1, tzinfo=UTC)


def events(images: int) -> Iterator[StageEvent]:
    """12 events for each image, and some twenty more."""
    stages = [(f"{order:02d}-{kind}", kind, order) for order, kind in enumerate(StageType)]
    seq = 0

    def at() -> dict[str, object]:
        nonlocal seq
        seq += 1
        return {"run_id": RUN_ID, "seq": seq - 1, "ts": _START + timedelta(milliseconds=seq)}

    yield RunOpened(
        **at(),
        config={"name": "benchmark"},
        plan={"stages": [{"stage_id": stage_id} for stage_id, _, _ in stages]},
        seeds=tuple(range(images)),
        backend=BackendDescription(kind="benchmark"),
        software="benchmark",
        host="host",
        boot_id="boot",
        pid=1,
    )
    yield LifecycleChanged(**at(), trigger="start", source=RunState.IDLE, dest=RunState.RUNNING)
    for stage_id, kind, order in stages:
        yield StageStart(
            **at(),
            stage_id=stage_id,
            stage_type=kind,
            order_index=order,
            total_images=images,
            metadata={},
        )
        for index in range(images):
            yield from _image(at, stage_id, kind, index, images)
        yield StageEnd(
            **at(),
            stage_id=stage_id,
            stage_type=kind,
            image_count=images,
            duration_ms=1.0,
            outcome=Outcome.COMPLETED,
        )
    yield LifecycleChanged(
        **at(), trigger="finish", source=RunState.RUNNING, dest=RunState.COMPLETED
    )


def _image(at, stage_id: str, kind: StageType, index: int, images: int) -> Iterator[StageEvent]:
    call_id = f"{RUN_ID}.{stage_id}.{index:05d}.0"
    digest = sha256(call_id.encode()).hexdigest()
    made = Artifact(
        path=f"images/{stage_id}/{index:05d}-{index}.png",
        image_index=index,
        sha256=digest,
        source_sha256=digest[::-1],
        bytes=456_789,
        media_type="image/png",
        width=832,
        height=1216,
        seed=index,
    )
    yield CallRequested(
        **at(),
        call_id=call_id,
        stage_id=stage_id,
        image_index=index,
        count=1,
        attempt=0,
        request_sha256=digest,
        inputs=(digest,),
    )
    yield CallCompleted(
        **at(),
        call_id=call_id,
        endpoint="/sdapi/v1/txt2img",
        artifacts=(made,),
        info={"seed": index, "sd_model_name": "base", "sampler_name": "Euler a", "steps": 25},
        duration_ms=1234.5,
    )
    yield StageImageProgress(
        **at(),
        stage_id=stage_id,
        stage_type=kind,
        image_index=index,
        total_images=images,
        artifact=made,
    )


def write_logs(framed: Path, bare: Path, images: int) -> int:
    """The same events as a log and as bare JSON lines; how many there are."""
    chain, count = FIRST_CHAIN, 0
    with open(framed, "wb") as log, open(bare, "wb") as lines:
        for event in events(images):
            body = CODEC.encode(event)
            log.write(frame(body, chain))
            lines.write(body + b"\n")
            chain = next_chain(chain, body)
            count += 1
    return count
