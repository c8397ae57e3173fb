"""Runs told event by event, for tests of what a log comes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
from stagewright.events import (
    Artifact,
    BackendDescription,
    CallCompleted,
    CallFailed,
    CallRequested,
    CallReused,
    CancelMode,
    CancelRequested,
    ErrorDetail,
    LifecycleChanged,
    Outcome,
    ReuseOrigin,
    RunResumed,
    RunSealed,
    RunState,
    StageEnd,
    StageEvent,
    StageImageProgress,
    StageStart,
    StageType,
)
from stagewright.events.codec import CODEC

from .log_format import make_log
from .support import START, artifact, run_opened

ENDS = {
    "start": (RunState.IDLE, RunState.RUNNING),
    "finish": (RunState.RUNNING, RunState.COMPLETED),
    "fail": (RunState.RUNNING, RunState.ERROR),
    "cancel": (RunState.RUNNING, RunState.CANCELLED),
    "recover": (RunState.ERROR, RunState.IDLE),
    "cleanup": (RunState.CANCELLED, RunState.IDLE),
    "reset": (RunState.COMPLETED, RunState.IDLE),
}


def stage_id(kind: str) -> str:
    """``00-txt2img`` and so on."""
    return f"{list(StageType).index(StageType(kind)):02d}-{kind}"


def error(kind: str = "BackendError", message: str = "out of memory", **where: Any) -> ErrorDetail:
    """An error as the log has it."""
    return ErrorDetail(kind=kind, message=message, **where)


def save_log(folder: Path, events: Iterable[StageEvent]) -> Path:
    """A new run folder whose log holds these events."""
    folder.mkdir(parents=True)
    (folder / "events.jsonl").write_bytes(make_log(map(CODEC.encode, events)))
    return folder


class Story:
    """The events of one run, each stamped with the next sequence number."""

    def __init__(self, *kinds: str, images: int = 2, run_id: str = "story") -> None:
        self.run_id = run_id
        self.epoch = 0
        self.late_s = 0.0
        """How much later than at a millisecond each the events from now on happen."""
        self._attempts: Counter[tuple[str, int]] = Counter()
        plan = {
            "stages": [{"stage_id": stage_id(k), "stage_type": k} for k in kinds or ("txt2img",)]
        }
        self.events: list[StageEvent] = [
            msgspec.structs.replace(run_opened(run_id, images), plan=plan)
        ]

    def add(self, kind: type[StageEvent], **fields: Any) -> Story:
        """Any further event."""
        seq = len(self.events)
        at: dict[str, Any] = {
            "seq": seq,
            "ts": START + timedelta(seconds=self.late_s, milliseconds=seq),
            "epoch": self.epoch,
        }
        self.events.append(kind(run_id=self.run_id, **at, **fields))
        return self

    def move(self, trigger: str, failure: ErrorDetail | None = None, reason: str = "") -> Story:
        """A transition."""
        source, dest = ENDS[trigger]
        return self.add(
            LifecycleChanged,
            trigger=trigger,
            source=source,
            dest=dest,
            reason=reason,
            error=failure,
        )

    def begin(self, kind: str, **metadata: Any) -> Story:
        """A stage begins."""
        order = list(StageType).index(StageType(kind))
        return self.add(
            StageStart, stage_id=stage_id(kind), stage_type=StageType(kind), order_index=order,
            total_images=2, metadata=metadata,
        )  # fmt: skip

    def ask(self, kind: str, index: int, count: int = 1) -> str:
        """A request leaves; its call id."""
        call_id = f"{kind}.{index}.{self._attempts.total()}"
        self.add(
            CallRequested, call_id=call_id, stage_id=stage_id(kind), image_index=index, count=count,
            attempt=self._attempts[kind, index], request_sha256="d" * 64,
        )  # fmt: skip
        self._attempts[kind, index] += 1
        return call_id

    def make(self, kind: str, index: int, count: int = 1, **info: Any) -> Story:
        """A request and its answer; nothing is announced."""
        return self.answer(self.ask(kind, index, count), kind, index, count=count, **info)

    def answer(
        self, call_id: str, kind: str, index: int, duration_ms: float = 1.0, *, count: int = 1,
        **info: Any,
    ) -> Story:  # fmt: skip
        """The answer to a request."""
        made = tuple(self.image(kind, place) for place in range(index, index + count))
        return self.add(
            CallCompleted, call_id=call_id, endpoint="x", artifacts=made, info=info,
            duration_ms=duration_ms,
        )  # fmt: skip

    def reuse(self, kind: str, index: int, count: int = 1) -> Story:
        """Images that another run made are copied; nothing is announced."""
        made = tuple(self.image(kind, place) for place in range(index, index + count))
        return self.add(
            CallReused, stage_id=stage_id(kind), image_index=index, request_sha256="d" * 64,
            artifacts=made, info={}, origin=ReuseOrigin(run_id="earlier", call_id="earlier.0"),
        )  # fmt: skip

    def image(self, kind: str, index: int) -> Artifact:
        """An artifact that differs with every event it stands in."""
        plain = artifact(index, stage_id(kind))
        return msgspec.structs.replace(plain, sha256=f"{len(self.events):064x}")

    def announce(self, kind: str, index: int, image: Artifact) -> Story:
        """An image is announced."""
        return self.add(
            StageImageProgress, stage_id=stage_id(kind), stage_type=StageType(kind),
            image_index=index, total_images=2, artifact=image,
        )  # fmt: skip

    def miss(self, kind: str, index: int, failure: ErrorDetail, count: int = 1) -> Story:
        """A request that fails for good."""
        call_id = self.ask(kind, index, count)
        return self.add(CallFailed, call_id=call_id, endpoint="x", error=failure, will_retry=False)

    def end(self, kind: str, outcome: str, duration_ms: float = 5.0) -> Story:
        """A stage ends."""
        return self.add(
            StageEnd, stage_id=stage_id(kind), stage_type=StageType(kind), image_count=0,
            duration_ms=duration_ms, outcome=Outcome(outcome),
        )  # fmt: skip

    def stage(self, kind: str, indexes: Sequence[int] = (0, 1)) -> Story:
        """A whole stage that makes these images."""
        self.begin(kind)
        for index in indexes:
            self.make(kind, index)
        return self.end(kind, "completed")

    def ask_to_cancel(self) -> Story:
        """Somebody wants the run to stop."""
        return self.add(CancelRequested, reason="enough", mode=CancelMode.NOW)

    def resume(self, trigger: str) -> Story:
        """A new process takes the run up."""
        self.epoch += 1
        return self.move(trigger).resumed().move("start")

    def resumed(self, **fields: Any) -> Story:
        """The record of a resume alone."""
        return self.add(
            RunResumed, completed_images=0, backend=BackendDescription(kind="scripted"),
            software="tests", host="host", boot_id="boot", pid=2, **fields,
        )  # fmt: skip

    def seal(self, outcome: str) -> Story:
        """The epoch is closed; ``head`` is not worked out."""
        return self.add(RunSealed, count=len(self.events), head="0" * 64, outcome=Outcome(outcome))
