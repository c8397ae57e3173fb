"""Made the golden logs beside it, once; what a release has shipped is never made again.

A later format gets a folder of its own beside these, and every one of them is replayed by the
tests for ever. Run as ``python -m tests.golden.make_golden_logs``; it refuses to touch a file
that exists.
"""

from __future__ import annotations

import json
import tempfile
from datetime import datetime, timedelta
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from msgspec import convert, to_builtins
from msgspec.structs import replace
from stagewright.adapters import PillowInputReader
from stagewright.events import (
    Artifact,
    BackendDescription,
    CallFailed,
    CancelMode,
    FileEventLog,
    ImagesRemoved,
    LogRepaired,
    MemoryEventLog,
    RunOpened,
    RunResumed,
    RunSealed,
    RunState,
    StageEnd,
    StageEvent,
    StageStart,
    StorageLimited,
    fold,
    iterate,
)
from stagewright.events.folds import Fold
from stagewright.statemachine import (
    BackendError,
    CancelToken,
    GenerateRequest,
    GenerationCancelled,
    PipelineController,
    PipelineRunner,
    StageType,
)
from stagewright.statemachine.config.schema import RunTables
from stagewright.statemachine.files.run_folder import RunFolder
from stagewright.statemachine.run.creation import NewRun
from stagewright.statemachine.run.image_status import ImageStatus
from stagewright.statemachine.run.journal import RunJournal

from ..log_format import chain_value, changed, make_log, split_bodies
from ..reusing import FACTORS, AllRuns
from ..support import START, ScriptedBackend, document

HERE = Path(__file__).parent
WRITER: dict[str, Any] = {
    "software": "stagewright 0.1.0",
    "host": "golden",
    "boot_id": "",
    "pid": 1,
}


class TickingClock:
    """A millisecond passes at each look."""

    def __init__(self) -> None:
        self._ticks = count()

    def now(self) -> datetime:
        return START + timedelta(milliseconds=next(self._ticks))

    def monotonic_ms(self) -> float:
        return float(next(self._ticks))


def first_epoch(runs: Path, clock: TickingClock) -> Path:
    """Retries one image of img2img, is cancelled within upscale."""
    controller: PipelineController

    def script(request: GenerateRequest, _cancel: CancelToken) -> None:
        place = (request.stage_type, request.image_index, request.attempt)
        if place == (StageType.IMG2IMG, 1, 0):
            raise BackendError("the server answered 503", transient=True, detail="busy")
        if place == (StageType.UPSCALE, 1, 0):
            controller.cancel(request.run_id, mode=CancelMode.NOW, reason="seen enough")
            raise GenerationCancelled("interrupted")

    controller = PipelineController(
        backend=ScriptedBackend(script, info={"sampler_name": "Euler a"}),
        runs=runs,
        inputs=PillowInputReader(),
        clock=clock,
        random_below=lambda end: end // 3,
    )
    stages = ["txt2img", "img2img", "upscale", "adetailer"]
    handle = controller.start(document(*stages, images=2, name="Golden: first format"))
    handle.wait(60)
    return handle.folder


def second_epoch(path: Path, clock: TickingClock) -> None:
    """Repairs a torn tail, takes the run up again and finishes it."""
    with (path / "events.jsonl").open("ab") as stream:
        stream.write(b'{"h":"000001cc9a27')
    state = Fold()
    log = FileEventLog.open(path, observe=state.apply_all)
    cut = log.repair("events.torn-1")
    assert cut is not None
    journal = RunJournal(log, state, epoch=1, clock=clock)
    journal.record(
        lambda at: LogRepaired(
            **at, offset=cut.offset, bytes=cut.bytes, sha256=cut.sha256, copied_to=cut.copied_to
        )
    )
    journal.move("cleanup", "resumed")
    backend = ScriptedBackend()
    journal.record(
        lambda at: RunResumed(
            **at, **WRITER, completed_images=5, backend=BackendDescription(kind="scripted")
        )
    )
    controller = PipelineController(backend=backend, runs=path.parent, inputs=PillowInputReader())
    plan = controller.validate(dict(state.opened.config) if state.opened else {})
    run = NewRun(
        folder=RunFolder(path),
        log=log,
        fold=state,
        plan=plan,
        settings=RunTables(),
        status=ImageStatus(plan, state, log.event_at),
        epoch=1,
    )
    runner = PipelineRunner(run, backend=backend, inputs=PillowInputReader(), clock=clock)
    runner.start()
    runner.work()


def idle(events: list[StageEvent]) -> set[int]:
    """The StageStart and StageEnd of stages in which their epoch had nothing to do."""
    return {
        seq
        for first, second in pairwise(events)
        if isinstance(first, StageStart) and isinstance(second, StageEnd)
        for seq in (first.seq, second.seq)
    }


def anonymous(events: list[StageEvent]) -> bytes:
    """The same run as written by no machine in particular, without idle stages."""
    log = MemoryEventLog(events[0].run_id)
    passed_over = idle(events)
    for event in events:
        if event.seq in passed_over:
            continue
        event = replace(event, seq=log.next_seq)  # noqa: PLW2901 - the same event, renumbered
        if isinstance(event, RunOpened | RunResumed):
            log.append(replace(event, **WRITER))
        elif isinstance(event, RunSealed):
            log.append(replace(event, count=log.next_seq, head=log.chain))
        elif isinstance(event, LogRepaired):
            log.append(replace(event, offset=len(log.to_bytes())))
        else:
            log.append(event)
    return log.to_bytes()


def newer(data: bytes) -> bytes:
    """The log as a later version might have written it: more types, more fields, higher ``v``."""
    bodies: list[bytes] = []
    for body in split_bodies(data):
        event = json.loads(body)
        more: dict[str, Any] = {"seq": len(bodies), "later": {"list": [1, None]}}
        match event["type"]:
            case "StageImageProgress":
                more |= {"v": 2, "artifact": {**event["artifact"], "thumbnail": "x.png"}}
            case CallFailed.__name__:
                more |= {"v": 7, "error": ["no longer", "an object"]}
            case "RunSealed":
                more |= {"count": len(bodies), "head": chain_value(bodies)}
            case "StageEnd":
                bodies.append(changed(body, type="StageRated", seq=len(bodies), stars=5))
                more |= {"seq": len(bodies)}
        bodies.append(changed(body, **more))
    return make_log(bodies)


def corrupt(data: bytes) -> bytes:
    """One bit of one digit in the second answer."""
    place = data.index(b'"image_index":1,"sha256":"') + len(b'"image_index":')
    return data[:place] + b"0" + data[place + 1 :]


def limited(data: bytes) -> bytes:
    """The log as it is written where folders cannot be synced."""
    log = MemoryEventLog(MemoryEventLog.from_bytes(data).run_id)
    for event in MemoryEventLog.from_bytes(data).timeline():
        if isinstance(event, StageStart) and log.next_seq == 2:
            at: dict[str, Any] = {"run_id": event.run_id, "seq": 2, "ts": event.ts}
            log.append(StorageLimited(**at, what="folder_sync", errno=22))
        if isinstance(event, RunSealed):
            event = replace(event, count=log.next_seq, head=log.chain)  # noqa: PLW2901 - the same event
        log.append(replace(event, seq=log.next_seq))
    return log.to_bytes()


def removed(data: bytes) -> bytes:
    """The log after the images of all stages but the last were removed."""
    log = MemoryEventLog.from_bytes(data)
    result = fold(log.timeline())
    assert result.outcome is not None
    images = [image for stage in result.stages[:-1] for image in stage.images]
    artifacts = tuple(convert(to_builtins(image), Artifact) for image in images)
    at: dict[str, Any] = {"run_id": log.run_id, "ts": START + timedelta(seconds=9), "epoch": 2}
    log.append(ImagesRemoved(**at, seq=log.next_seq, artifacts=artifacts, reason="to save space"))
    seal: dict[str, Any] = {"seq": log.next_seq, "count": log.next_seq, "head": log.chain}
    log.append(RunSealed(**at, **seal, outcome=result.outcome))
    return log.to_bytes()


def reused() -> bytes:
    """The second variant of a group, whose first stage was made in the first one."""
    with tempfile.TemporaryDirectory() as folder:
        runs, clock = Path(folder), TickingClock()
        controller = PipelineController(
            backend=ScriptedBackend(info={"sampler_name": "Euler a"}),
            runs=runs,
            inputs=PillowInputReader(),
            clock=clock,
            random_below=lambda end: end // 3,
            reuse_index=AllRuns(runs),
        )
        config = document("txt2img", "upscale", images=3, name="Golden: reused images")
        config["txt2img"]["batch_size"] = 2
        group = controller.start_group(config, vary=[FACTORS]).wait(60)
        run_id = group.variants[-1].run_id
        assert run_id is not None
        return anonymous(list(iterate(runs / run_id)))


def put(name: str, data: bytes) -> None:
    """Write a file that is not there."""
    path = HERE / name
    path.parent.mkdir(exist_ok=True)
    with path.open("xb") as stream:
        stream.write(data)


def main() -> None:
    """Make all folders."""
    if not (HERE / "first-format").exists():
        make_first_format()
    first = HERE / "first-format/events.jsonl"
    if not (HERE / "images-removed").exists():
        put("images-removed/events.jsonl", removed(first.read_bytes()))
    data = reused()
    put("reused-images/events.jsonl", data)
    put("reused-images/result.json", result_json(data))


def result_json(data: bytes) -> bytes:
    """The result of a log that ends well, without its timeline."""
    result = fold(MemoryEventLog.from_bytes(data).timeline())
    assert result.state == RunState.COMPLETED
    expected = json.loads(b"".join(result.json_parts()))
    del expected["events"]
    return json.dumps(expected, indent=1).encode() + b"\n"


def make_first_format() -> None:
    """Make the folders of the first format."""
    clock = TickingClock()
    with tempfile.TemporaryDirectory() as runs:
        path = first_epoch(Path(runs), clock)
        second_epoch(path, clock)
        data = anonymous(list(iterate(path)))
    put("first-format/events.jsonl", data)
    put("first-format/result.json", result_json(data))
    put("newer-version/events.jsonl", newer(data))
    put("corrupt/events.jsonl", corrupt(data))


if __name__ == "__main__":
    main()
