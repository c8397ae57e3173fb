"""One event of every type, and a storage that can be watched and made to fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from stagewright.events import (
    BackendDescription,
    CallCompleted,
    CallFailed,
    CallRequested,
    CallReused,
    CancelMode,
    CancelRequested,
    ErrorDetail,
    EventLog,
    ImagesRemoved,
    LifecycleChanged,
    LogRepaired,
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
    StorageLimited,
)
from stagewright.events.log.storage import AppendFile, Storage

from .support import START, artifact, run_opened

STAGE: dict[str, Any] = {"stage_id": "00-txt2img", "stage_type": StageType.TXT2IMG}
SERVER = BackendDescription(kind="a1111", url="http://x:7860", product="webui", version="1.10")
PROCESS: dict[str, Any] = {"software": "tests", "host": "host", "boot_id": "boot", "pid": 2}
FAILURE = ErrorDetail(
    kind="BackendError", message="busy", detail="503", stage_id="00-txt2img", image_index=0
)


def one_of_each(run_id: str) -> list[StageEvent]:
    """The fifteen types in one sequence; only the seal's ``head`` fits no log."""

    def at(seq: int) -> dict[str, Any]:
        return {"run_id": run_id, "seq": seq, "ts": START, "epoch": 0 if seq < 9 else 1}

    call: dict[str, Any] = {"call_id": f"{run_id}.00-txt2img.00000.0"}
    return [
        run_opened(run_id),
        LifecycleChanged(
            **at(1), trigger="fail", source=RunState.RUNNING, dest=RunState.ERROR, error=FAILURE
        ),
        StageStart(**at(2), **STAGE, order_index=0, total_images=2, metadata={"steps": [1, None]}),
        CallRequested(
            **at(3), **call, stage_id="00-txt2img", image_index=0, count=2, attempt=1,
            request_sha256="d" * 64, inputs=("e" * 64,),
        ),
        CallCompleted(
            **at(4), **call, endpoint="/sdapi/v1/txt2img", artifacts=(artifact(0), artifact(1)),
            info={"seed": 1, "deep": {"list": [1.5, "ü"]}}, duration_ms=1234.5,
        ),
        CallReused(
            **at(5), stage_id="00-txt2img", image_index=0, request_sha256="d" * 64,
            artifacts=(artifact(0), artifact(1)), info={"seed": 1}, inputs=("e" * 64,),
            origin=ReuseOrigin(run_id="earlier", call_id="earlier.00-txt2img.00000.0"),
            not_checked=("model base",),
        ),
        CallFailed(**at(6), **call, endpoint="/x", error=FAILURE, will_retry=True),
        StageImageProgress(**at(7), **STAGE, image_index=1, total_images=2, artifact=artifact(1)),
        StageEnd(**at(8), **STAGE, image_count=1, duration_ms=0.25, outcome=Outcome.PARTIAL),
        CancelRequested(**at(9), reason="enough", mode=CancelMode.AFTER_IMAGE),
        RunResumed(**at(10), **PROCESS, completed_images=1, backend=SERVER),
        LogRepaired(**at(11), offset=17, bytes=3, sha256="f" * 64, copied_to="events.torn-1"),
        ImagesRemoved(**at(12), artifacts=(artifact(0),), reason="to save space"),
        StorageLimited(**at(13), what="folder_sync", errno=22),
        RunSealed(**at(14), count=14, head="0" * 64, outcome=Outcome.CANCELLED),
    ]  # fmt: skip


def more(log: EventLog, reason: str = "more") -> CancelRequested:
    """One more event that fits a log."""
    return CancelRequested(
        run_id=log.run_id, seq=log.next_seq, ts=START, reason=reason, mode=CancelMode.NOW
    )


Deed = Callable[[Callable[[bytes], int], bytes], int]
"""What a write does with its bytes; it is given the real write."""


class WatchedStorage(Storage):
    """The real file system; notes what is done to the log, and fails when it is told to.

    ``deeds`` lists writes (the bytes), "sync" and "synced" around each sync, "truncate",
    "open" and "close". The next writes are done by ``next_writes``, in order; an OSError put
    into ``failures`` under the name of a call is raised by its next one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.deeds: list[bytes | str] = []
        self.next_writes: list[Deed] = []
        self.failures: dict[str, OSError] = {}

    def write_file(self, path: Path, data: bytes, *, durable: bool = True) -> None:
        self.fail("write_file")
        super().write_file(path, data, durable=durable)

    def open_append(self, path: Path) -> AppendFile:
        self.fail("open")
        self.deeds.append("open")
        return _WatchedFile(path, self)

    def fail(self, call: str) -> None:
        """Raise what waits for this call, once."""
        error = self.failures.pop(call, None)
        if error is not None:
            raise error

    def writes(self) -> list[bytes]:
        """Every write so far."""
        return [deed for deed in self.deeds if isinstance(deed, bytes)]


class _WatchedFile(AppendFile):
    def __init__(self, path: Path, storage: WatchedStorage) -> None:
        super().__init__(path, storage)
        self._storage = storage

    def write(self, data: bytes) -> int:
        self._storage.deeds.append(data)
        if self._storage.next_writes:
            return self._storage.next_writes.pop(0)(super().write, data)
        return super().write(data)

    def sync(self) -> None:
        self._storage.deeds.append("sync")
        self._storage.fail("sync")
        super().sync()
        self._storage.deeds.append("synced")

    def truncate(self, size: int) -> None:
        self._storage.deeds.append("truncate")
        self._storage.fail("truncate")
        super().truncate(size)

    def close(self) -> None:
        self._storage.deeds.append("close")
        super().close()
        self._storage.fail("close")
