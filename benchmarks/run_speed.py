"""A whole run of small images: how much of its time is neither backend nor disk."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stagewright.adapters import EmbeddedBackend, PillowInputReader
from stagewright.events import BackendDescription, RunState
from stagewright.events.log.storage import AppendFile, Storage
from stagewright.statemachine import (
    CancelToken,
    GenerateAnswer,
    GenerateRequest,
    PipelineController,
)
from stagewright.statemachine.ports import OnStep

from .configuration import configuration

IMAGES = 200
CONFIG = configuration(IMAGES, 64)


class Stopwatch:
    """Adds up the seconds spent in what it wraps, over all threads."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock = threading.Lock()

    def timed(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Call, and count the time that it takes."""
        began = time.perf_counter()
        try:
            return call(*arguments, **named)
        finally:
            with self._lock:
                self.seconds += time.perf_counter() - began


class TimedBackend:
    """The embedded backend with a stopwatch around its one method."""

    slots = 1

    def __init__(self, watch: Stopwatch) -> None:
        self._backend = EmbeddedBackend()
        self._watch = watch

    @property
    def description(self) -> BackendDescription:
        return self._backend.description

    def generate_images(
        self, request: GenerateRequest, *, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        answer: GenerateAnswer = self._watch.timed(
            self._backend.generate_images, request, cancel=cancel, on_step=on_step
        )
        return answer


class _TimedAppendFile(AppendFile):
    def __init__(self, path: Path, storage: TimedStorage) -> None:
        super().__init__(path, storage)
        self._watch = storage.watch

    def sync(self) -> None:
        self._watch.timed(super().sync)


class TimedStorage(Storage):
    """The real file system with a stopwatch around what waits for the disk."""

    def __init__(self, watch: Stopwatch) -> None:
        super().__init__()
        self.watch = watch

    def write_part(self, path: Path, data: bytes, *, durable: bool = True) -> Path:
        temporary: Path = self.watch.timed(super().write_part, path, data, durable=durable)
        return temporary

    def rename(self, source: Path, target: Path) -> None:
        self.watch.timed(super().rename, source, target)

    def sync_folder(self, folder: Path) -> None:
        self.watch.timed(super().sync_folder, folder)

    def open_append(self, path: Path) -> AppendFile:
        return _TimedAppendFile(path, self)


def main() -> None:
    """Print the share."""
    backend_watch, disk_watch = Stopwatch(), Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        controller = PipelineController(
            backend=TimedBackend(backend_watch),
            runs=Path(folder),
            inputs=PillowInputReader(),
            storage=TimedStorage(disk_watch),
        )
        began = time.perf_counter()
        result = controller.start(CONFIG).wait()
        whole = time.perf_counter() - began
    assert result.state == RunState.COMPLETED
    rest = whole - backend_watch.seconds - disk_watch.seconds
    print(
        f"embedded run of {IMAGES} images of 64 px: {whole:.3f} s, of which backend "
        f"{backend_watch.seconds:.3f} s, disk {disk_watch.seconds:.3f} s, "
        f"all else {rest / whole:.1%} (at most 15 %)"
    )


if __name__ == "__main__":
    main()
