"""What the tests of salvage share: a run to damage, its salvage, and what must hold of both."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from msgspec import to_builtins
from stagewright.adapters.backends.embedded.backend import EmbeddedBackend
from stagewright.events import (
    CallCompleted,
    CallRequested,
    LifecycleChanged,
    LogRepaired,
    PipelineRunResult,
    RunSealed,
    RunState,
    iterate,
    replay,
)
from stagewright.events.log.storage import Storage
from stagewright.statemachine import (
    GenerateAnswer,
    GenerateRequest,
    ImageBackend,
    PipelineController,
)
from stagewright.statemachine.ports import SystemClock
from stagewright.statemachine.resume.salvage import SalvagedRun, salvage_run
from stagewright.statemachine.resume.verify import verify_run

from . import support
from .log_format import body_of, make_log, split_lines
from .support import document

LOG = "events.jsonl"
OURS = ("type", "run_id", "seq", "ts", "epoch", "call_id", "attempt")


class CountingBackend(EmbeddedBackend):
    """The embedded backend; ``asked`` lists stage and first image of every request."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int]] = []

    def generate_images(self, request: GenerateRequest, **how: Any) -> GenerateAnswer:
        self.asked.append((request.stage_id, request.image_index))
        return super().generate_images(request, **how)


def controller(runs: Path, backend: ImageBackend | None = None) -> PipelineController:
    """A controller of the embedded backend, or of another one."""
    return support.controller(runs, backend or EmbeddedBackend())


def salvage(folder: Path, storage: Storage | None = None) -> SalvagedRun:
    """Salvage a run into the folder of runs that it lies in."""
    return salvage_run(
        folder,
        folder.parent,
        clock=SystemClock(),
        random_below=secrets.randbelow,
        storage=storage,
    )


def resumed(found: SalvagedRun) -> tuple[PipelineRunResult, list[tuple[str, int]]]:
    """The result of resuming a salvaged run, and the requests that it took."""
    backend = CountingBackend()
    result = controller(Path(found.folder).parent, backend).resume(found.run_id).wait(30)
    return result, backend.asked


def lines_of(folder: Path) -> list[bytes]:
    """The records of a run's log, each with its newline."""
    return split_lines((folder / LOG).read_bytes())


def made(runs: Path, *stages: str, **top: Any) -> Path:
    """A finished run."""
    handle = controller(runs).start(document(*stages, **{"images": 2, **top}))
    assert handle.wait(60).state == RunState.COMPLETED
    return handle.folder


def rewrite(folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Change the events of a log, each with its checksums right; the last one stays damaged."""
    events = [json.loads(body_of(line)) for line in lines_of(folder)]
    change(events)
    bodies = [json.dumps(event, separators=(",", ":")).encode() for event in events]
    (folder / LOG).write_bytes(make_log(bodies) + b"garbage\n")


def answers_of(folder: Path) -> list[dict[str, Any]]:
    """What a log says of each answered request, but for the run and the attempt."""
    requests: dict[str, CallRequested] = {}
    answers = []
    for event in iterate(folder):
        if isinstance(event, CallRequested):
            requests[event.call_id] = event
        elif isinstance(event, CallCompleted):
            one = {**to_builtins(requests[event.call_id]), **to_builtins(event)}
            answers.append({name: one[name] for name in one if name not in OURS})
    return answers


def pictures(result: PipelineRunResult) -> list[tuple[str, int, str]]:
    """Every image of every stage, by the digest of its source."""
    return [
        (image.stage_id, image.image_index, image.source_sha256)
        for stage in result.stages
        for image in stage.images
    ]


def state_of(folder: Path) -> list[tuple[str, int, int, bytes]]:
    """Names, times and bytes of all that is in a folder."""
    return sorted(
        (str(path), path.lstat().st_mtime_ns, path.lstat().st_ctime_ns,
         path.read_bytes() if path.is_file() else b"")
        for path in [folder, *folder.rglob("*")]
    )  # fmt: skip


def check_salvaged(folder: Path) -> SalvagedRun:
    """Salvage a run: the new one is sound, the old one as it was; what was found."""
    before = state_of(folder)
    found = salvage(folder)
    assert state_of(folder) == before
    new = Path(found.folder)
    assert new.parent == folder.parent
    verified = verify_run(new)
    assert (verified.sound, verified.torn) == (True, None), verified.flaws
    assert verified.advice == found.advice
    repaired, *_, failed, sealed = list(iterate(new))[1:]
    assert isinstance(repaired, LogRepaired)
    assert (repaired.offset, repaired.copied_to) == (found.corrupt_at, f"{LOG}.corrupt")
    damaged = (new / repaired.copied_to).read_bytes()
    assert (damaged, len(damaged)) == ((folder / LOG).read_bytes(), repaired.bytes)
    assert sha256(damaged).hexdigest() == repaired.sha256
    assert isinstance(failed, LifecycleChanged)
    assert (failed.trigger, found.salvaged_from in failed.reason) == ("fail", True)
    assert isinstance(sealed, RunSealed)
    return found


def check_ends_the_same(found: SalvagedRun, whole: Path) -> list[tuple[str, int]]:
    """Resume a salvaged run: it ends as the undamaged run did; the requests that it took."""
    result, asked = resumed(found)
    assert (result.state, result.missing) == (RunState.COMPLETED, ())
    assert pictures(result) == pictures(replay(whole))
    assert verify_run(Path(found.folder)).finished
    return asked


def flipped(lines: Sequence[bytes], place: int, at: int) -> list[bytes]:
    """The lines, with one bit of one of them turned over."""
    line = bytearray(lines[place])
    line[at] ^= 0x04
    return [*lines[:place], bytes(line), *lines[place + 1 :]]


def spoil(folder: Path, *places: int) -> None:
    """Damage the bodies of these records of a log."""
    lines = lines_of(folder)
    for place in places:
        lines = flipped(lines, place, 90)
    (folder / LOG).write_bytes(b"".join(lines))
